// One core: issue, flags, barriers.
#include <algorithm>
#include <sstream>

#include "../include/cost.h"
#include "../include/machine.h"

namespace omfuse_emu {

const char* const kPipeNames[kPipes] = {"S", "V", "M", "MTE1", "MTE2", "MTE3", "FIX"};

void Join(Clock* into, const Clock& other) {
  for (size_t i = 0; i < other.size(); ++i) (*into)[i] = std::max((*into)[i], other[i]);
}

Core::Core(Machine* machine, int index, bool cube, int block, int sub)
    : machine_(machine), index_(index), cube_(cube), block_(block), sub_(sub) {
  const omfuse::Platform& chip = machine->platform();
  const bool both = !machine->split();
  const bool checks = machine->checks();
  const uint64_t sizes[kSpaces] = {
      both || !cube ? chip.ub_bytes : 0, both || cube ? chip.l1_bytes : 0,
      both || cube ? chip.l0a_bytes : 0, both || cube ? chip.l0b_bytes : 0,
      both || cube ? chip.l0c_bytes : 0};
  for (int i = 0; i < kSpaces; ++i) memories_[i].Reset(kSpaceNames[i], sizes[i], checks);
}

std::string Core::Where() const {
  std::ostringstream out;
  out << (machine_->split() ? (cube_ ? "cube core " : "vector core ") : "core ") << block_;
  if (machine_->split() && !cube_) out << "." << sub_;
  return out.str();
}

void Core::Fail(const std::string& what) const { throw Violation(Where() + ": " + what); }

bool Core::Idle() const {
  return std::all_of(pipes_, pipes_ + kPipes, [](const Pipe& p) { return p.queue.empty(); });
}

uint64_t Core::EndTime() const {
  uint64_t end = scalar_time_;
  for (const Pipe& pipe : pipes_) end = std::max({end, pipe.time, pipe.visible});
  return end;
}

void Core::Block(const char* name, std::function<bool()> ready) {
  while (!ready()) {
    blocked_name = name;
    blocked_on = ready;
    machine_->Yield();
  }
  blocked_on = nullptr;
}

void Core::Issue(int id, Instruction instruction) {
  Pipe& pipe = pipes_[id];
  scalar_time_ += kScalarIssue;
  if (machine_->checks()) instruction.knows = pipes_[kS].clock;
  if (!machine_->random()) {
    if (pipe.starts.size() >= kQueueDepth) {
      scalar_time_ = std::max(scalar_time_, pipe.starts.front());
      pipe.starts.pop_front();
    }
    instruction.issued = scalar_time_;
    Execute(id, &instruction);
    return;
  }
  instruction.issued = scalar_time_;
  if (pipe.queue.size() >= kQueueDepth) {
    Block("a full instruction queue", [&pipe] { return pipe.queue.size() < kQueueDepth; });
  }
  pipe.queue.push_back(std::move(instruction));
}

void Core::ScalarAccess(Instruction instruction) {
  scalar_time_ += kScalarIssue;
  if (!machine_->checks()) return;
  Pipe& pipe = pipes_[kS];
  pipe.clock[Slot(kS)] = ++pipe.done;
  CheckAccess(kS, instruction);
}

bool Core::HeadReady(int id) {
  Pipe& pipe = pipes_[id];
  if (pipe.queue.empty()) return false;
  const Instruction& head = pipe.queue.front();
  return !head.ready || head.ready();
}

void Core::RunHead(int id) {
  Instruction head = std::move(pipes_[id].queue.front());
  pipes_[id].queue.pop_front();
  Execute(id, &head);
}

void Core::Execute(int id, Instruction* instruction) {
  Pipe& pipe = pipes_[id];
  const uint64_t start = std::max(pipe.time, instruction->issued);
  if (!machine_->random()) pipe.starts.push_back(start);
  pipe.time = start + instruction->busy;
  pipe.busy += instruction->busy;
  if (!instruction->control) {
    pipe.visible = std::max(pipe.visible, pipe.time + instruction->latency);
    ++pipe.count;
  }
  if (machine_->checks()) {
    Join(&pipe.clock, instruction->knows);
    pipe.clock[Slot(id)] = ++pipe.done;
    CheckAccess(id, *instruction);
    if (instruction->hasty) pipe.hasty.insert(pipe.done);
  }
  if (instruction->control || machine_->executes()) instruction->run();
}

int Core::TakeEvent(int kind) {
  for (int event = 0; event < 8; ++event) {
    if (events_[kind] >> event & 1) continue;
    events_[kind] |= 1u << event;
    return event;
  }
  Fail("queues need more than the 8 events of a pipe pair");
}

void Core::SetFlag(int from, int to, int event) {
  if (event < 0 || event > 7) Fail("event id " + std::to_string(event) + " is outside 0..7");
  Pipe& pipe = pipes_[from];
  std::deque<Signal>& flag = flags_[from][to][event];
  if (raised_[from][to][event]) {
    Fail(std::string("SetFlag ") + kPipeNames[from] + "_" + kPipeNames[to] + " event " +
         std::to_string(event) + " is set twice without a WaitFlag between");
  }
  raised_[from][to][event] = true;
  if (from == kS) {
    flag.push_back({scalar_time_, pipe.clock});
    return;
  }
  Instruction set;
  set.name = "SetFlag";
  set.control = true;
  // An on-chip buffer is free once it was read; only who reads global memory again (MTE2) waits for
  // the write to arrive there.
  const bool early = (from == kMte3 || from == kFix) && to != kMte2 && to != kMte1;
  set.run = [&pipe, &flag, early] {
    flag.push_back({early ? pipe.time : std::max(pipe.time, pipe.visible), pipe.clock});
  };
  Issue(from, std::move(set));
}

void Core::WaitFlag(int from, int to, int event) {
  if (event < 0 || event > 7) Fail("event id " + std::to_string(event) + " is outside 0..7");
  std::deque<Signal>& flag = flags_[from][to][event];
  Pipe& pipe = pipes_[to];
  auto take = [&pipe, &flag] {
    if (!pipe.clock.empty()) Join(&pipe.clock, flag.front().clock);
    pipe.time = std::max(pipe.time, flag.front().time);
    flag.pop_front();
  };
  if (!raised_[from][to][event]) {
    Fail(std::string("WaitFlag ") + kPipeNames[from] + "_" + kPipeNames[to] + " event " +
         std::to_string(event) + " has no SetFlag before it");
  }
  raised_[from][to][event] = false;
  if (to == kS) {
    Block("WaitFlag", [&flag] { return !flag.empty(); });
    pipe.time = scalar_time_;
    take();
    scalar_time_ = std::max(scalar_time_, pipe.time);
    return;
  }
  Instruction wait;
  wait.name = "WaitFlag";
  wait.control = true;
  wait.run = take;
  wait.ready = [&flag] { return !flag.empty(); };
  Issue(to, std::move(wait));
}

void Core::Barrier(int id) {
  if (id < kPipes) {
    Pipe& pipe = pipes_[id];
    Instruction barrier;
    barrier.name = "PipeBarrier";
    barrier.control = true;
    barrier.run = [&pipe] {
      pipe.barrier = pipe.done;
      pipe.hasty.clear();
      pipe.time = std::max(pipe.time, pipe.visible);
    };
    Issue(id, std::move(barrier));
    return;
  }
  Block("PipeBarrier<PIPE_ALL>", [this] { return Idle(); });
  for (Pipe& pipe : pipes_) {
    pipe.barrier = pipe.done;
    pipe.hasty.clear();
    scalar_time_ = std::max({scalar_time_, pipe.time, pipe.visible});
    if (machine_->checks()) Join(&pipes_[kS].clock, pipe.clock);
  }
}

void Core::CrossSet(int id, int flag) {
  if (flag < 0 || flag > 10) Fail("cross-core flag " + std::to_string(flag) + " is outside 0..10");
  Instruction set;
  set.name = "CrossCoreSetFlag";
  set.control = true;
  set.run = [this, id, flag] {
    Pipe& pipe = pipes_[id];
    const Signal signal{std::max(pipe.time, pipe.visible) + kCrossCoreLatency, pipe.clock};
    auto post = [&](Core& to, int from) {
      to.inbox[from][flag].push_back(signal);
      if (to.inbox[from][flag].size() > 15) {
        Fail("cross-core flag " + std::to_string(flag) + " counts beyond 15");
      }
    };
    if (cube_) {
      for (int sub = 0; sub < 2; ++sub) post(machine_->Aiv(block_, sub), 0);
    } else {
      post(machine_->Aic(block_), sub_);
    }
  };
  Issue(id, std::move(set));
}

void Core::CrossWait(int flag) {
  const int senders = cube_ ? 2 : 1;
  Block("CrossCoreWaitFlag", [this, flag, senders] {
    for (int i = 0; i < senders; ++i) {
      if (inbox[i][flag].empty()) return false;
    }
    return true;
  });
  for (int i = 0; i < senders; ++i) {
    Signal& signal = inbox[i][flag].front();
    scalar_time_ = std::max(scalar_time_, signal.time);
    if (machine_->checks()) Join(&pipes_[kS].clock, signal.clock);
    inbox[i][flag].pop_front();
  }
}

void Core::SyncAll() {
  Barrier(kPipes);
  Machine& machine = *machine_;
  const int members = machine.split() ? machine.blocks() * 2 : machine.blocks();
  Signal& arriving = machine.sync_arriving;
  arriving.time = std::max(arriving.time, scalar_time_);
  if (machine.checks()) {
    arriving.clock.resize(pipes_[kS].clock.size());
    Join(&arriving.clock, pipes_[kS].clock);
  }
  const uint64_t round = machine.sync_round;
  if (++machine.sync_waiting == members) {
    machine.sync_release = arriving;
    arriving = Signal();
    machine.sync_waiting = 0;
    ++machine.sync_round;
  }
  Block("SyncAll", [&machine, round] { return machine.sync_round != round; });
  scalar_time_ = std::max(scalar_time_, machine.sync_release.time + kCrossCoreLatency);
  if (machine.checks()) Join(&pipes_[kS].clock, machine.sync_release.clock);
}

void Core::CheckDrained() {
  if (adding) Fail("additions in global memory were never switched off");
  for (int from = 0; from < kPipes; ++from) {
    for (int to = 0; to < kPipes; ++to) {
      for (int event = 0; event < 8; ++event) {
        if (flags_[from][to][event].empty()) continue;
        Fail(std::string("event ") + kPipeNames[from] + "_" + kPipeNames[to] + " " +
             std::to_string(event) + " was set and never waited for");
      }
    }
  }
  for (int sender = 0; sender < 2; ++sender) {
    for (int flag = 0; flag < 16; ++flag) {
      if (inbox[sender][flag].empty()) continue;
      Fail("cross-core flag " + std::to_string(flag) + " was set and never waited for");
    }
  }
}

}  // namespace omfuse_emu
