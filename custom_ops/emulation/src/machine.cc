// The scheduler: scalar programs as coroutines, in program order or at random.
#include "../include/machine.h"

#include <ucontext.h>

#include <algorithm>
#include <exception>

namespace omfuse_emu {

namespace {
constexpr size_t kStack = 256 * 1024;
thread_local Machine* current_machine = nullptr;
thread_local Core* current_core = nullptr;
}  // namespace

struct Machine::Coroutines {
  ucontext_t main;
  std::vector<ucontext_t> contexts;
  std::vector<std::vector<char>> stacks;
  const std::function<void()>* program = nullptr;
  std::exception_ptr failure;
  size_t running = 0;

  static void Entry() {
    Machine& machine = *current_machine;
    Coroutines& self = *machine.coroutines_;
    const size_t index = self.running;
    try {
      (*self.program)();
    } catch (...) {
      self.failure = std::current_exception();
    }
    machine.cores_[index]->finished = true;
    swapcontext(&self.contexts[index], &self.main);
  }

  void Resume(Machine* machine, size_t index) {
    running = index;
    current_core = machine->cores_[index].get();
    swapcontext(&main, &contexts[index]);
    current_core = nullptr;
    if (failure) std::rethrow_exception(failure);
  }
};

Core& Machine::Current() { return *current_core; }

Machine::Machine(const omfuse::Platform& platform, const OmfuseOptions& options, int blocks)
    : platform_(platform),
      options_(options),
      blocks_(blocks),
      coroutines_(new Coroutines),
      random_(options.seed) {
  for (int block = 0; block < blocks; ++block) {
    const int parts = platform.split ? 3 : 1;
    for (int part = 0; part < parts; ++part) {
      const int index = static_cast<int>(cores_.size());
      cores_.emplace_back(new Core(this, index, part == 0, block, std::max(0, part - 1)));
    }
  }
  if (!checks()) return;
  for (auto& core : cores_) {
    for (int i = 0; i < kPipes; ++i) core->pipe(i).clock.assign(cores_.size() * kPipes, 0);
  }
}

Machine::~Machine() = default;

void Machine::Yield() {
  Coroutines& all = *coroutines_;
  const size_t index = all.running;
  swapcontext(&all.contexts[index], &all.main);
}

void Machine::Run(const std::function<void()>& program) {
  Coroutines& all = *coroutines_;
  current_machine = this;
  all.program = &program;
  all.contexts.resize(cores_.size());
  all.stacks.resize(cores_.size());
  for (size_t i = 0; i < cores_.size(); ++i) {
    all.stacks[i].resize(kStack);
    getcontext(&all.contexts[i]);
    all.contexts[i].uc_stack.ss_sp = all.stacks[i].data();
    all.contexts[i].uc_stack.ss_size = kStack;
    all.contexts[i].uc_link = nullptr;
    makecontext(&all.contexts[i], &Coroutines::Entry, 0);
  }
  if (random()) {
    RunAtRandom();
  } else {
    RunInOrder();
  }
  if (checks()) {
    for (auto& core : cores_) core->CheckDrained();
  }
}

void Machine::RunInOrder() {
  bool left = true;
  while (left) {
    left = false;
    bool moved = false;
    for (size_t i = 0; i < cores_.size(); ++i) {
      Core& core = *cores_[i];
      if (core.finished) continue;
      left = true;
      if (core.blocked_on && !core.blocked_on()) continue;
      moved = true;
      coroutines_->Resume(this, i);
    }
    if (left && !moved) Deadlock();
  }
}

// Random priorities with occasional changes reach extreme orders (one pipe far ahead, one starved)
// far sooner than uniform choice does.
void Machine::RunAtRandom() {
  const size_t actors_per_core = kPipes + 1;
  std::vector<uint32_t> priority(cores_.size() * actors_per_core);
  for (uint32_t& p : priority) p = static_cast<uint32_t>(random_());
  for (;;) {
    size_t best = priority.size();
    bool left = false;
    for (size_t i = 0; i < priority.size(); ++i) {
      Core& core = *cores_[i / actors_per_core];
      const int part = static_cast<int>(i % actors_per_core);
      bool ready;
      if (part == kPipes) {
        left |= !core.finished;
        ready = !core.finished && (!core.blocked_on || core.blocked_on());
      } else {
        left |= !core.pipe(part).queue.empty();
        ready = core.HeadReady(part);
      }
      if (ready && (best == priority.size() || priority[i] > priority[best])) best = i;
    }
    if (!left) return;
    if (best == priority.size()) Deadlock();
    const int part = static_cast<int>(best % actors_per_core);
    if (part == kPipes) {
      // One queue entry at a time would need a yield at each call: the program runs until it
      // blocks.
      coroutines_->Resume(this, best / actors_per_core);
    } else {
      cores_[best / actors_per_core]->RunHead(part);
    }
    const uint64_t dice = random_();
    if (dice % 8 == 0) priority[(dice >> 8) % priority.size()] = static_cast<uint32_t>(dice >> 32);
  }
}

void Machine::Deadlock() {
  std::string what = "deadlock:";
  for (auto& core : cores_) {
    for (int i = 0; i < kPipes; ++i) {
      if (core->pipe(i).queue.empty()) continue;
      what += " " + core->Where() + " pipe " + kPipeNames[i] + " at " +
              core->pipe(i).queue.front().name + ";";
    }
    if (!core->finished) what += " " + core->Where() + " in " + core->blocked_name + ";";
    if (what.size() > 400) break;
  }
  throw Violation(what);
}

void Machine::Count(OmfuseCounters* counters) const {
  *counters = traffic_;
  const Core* slowest = nullptr;
  for (const auto& core : cores_) {
    for (int i = 0; i < kSpaces; ++i) {
      counters->held[i] = std::max(counters->held[i], core->memory(static_cast<Space>(i)).most);
    }
    for (int i = 0; i < kPipes; ++i) {
      counters->busy[i] += core->pipe(i).busy;
      counters->instructions[i] += core->pipe(i).count;
    }
    if (core->EndTime() > counters->cycles || !slowest) {
      counters->cycles = std::max(counters->cycles, core->EndTime());
      slowest = core.get();
    }
  }
  if (slowest) {
    for (const auto& core : cores_) {
      if (core->block() != slowest->block()) continue;
      for (int i = 0; i < kPipes; ++i) {
        counters->critical[i] = std::max<uint64_t>(counters->critical[i], core->pipe(i).busy);
      }
    }
  }
  counters->cube_cores = static_cast<uint32_t>(blocks_);
  counters->vector_cores = static_cast<uint32_t>(blocks_ * (platform_.split ? 2 : 1));
}

}  // namespace omfuse_emu
