// The machine under the emulated API: cores with pipes, memories, clocks and checks.
//
// A core's scalar program is a coroutine. Each API call appends an instruction to the queue of its
// pipe. In random order the scheduler picks among all scalar programs and all pipe heads, so pipes
// overtake each other as far as the kernel's own waits allow; in program order an instruction
// runs at once. Order between pipes exists only through flags, barriers and cross-core flags; a
// vector clock a pipe carries it, and with checks on every access to memory is compared with
// the accesses before it (races are found whatever order this run happened to take).
#ifndef OMFUSE_EMULATION_MACHINE_H_
#define OMFUSE_EMULATION_MACHINE_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "../omfuse_emulation.h"
#include "memory.h"

namespace omfuse_emu {

enum PipeId { kS = 0, kV = 1, kM = 2, kMte1 = 3, kMte2 = 4, kMte3 = 5, kFix = 6, kPipes = 7 };
extern const char* const kPipeNames[kPipes];

using Clock = std::vector<uint32_t>;  // one entry a pipe of each core
void Join(Clock* into, const Clock& other);

struct Signal {  // what a flag carries
  uint64_t time = 0;
  Clock clock;
};

struct Instruction {
  const char* name = "";
  uint32_t busy = 0;     // cycles that the pipe is taken
  uint32_t latency = 0;  // cycles until the result is visible, after `busy`
  std::vector<Range> reads, writes;
  bool copies = false;   // moves bytes only: uninitialised bytes travel instead of failing
  bool control = false;  // a flag or barrier: runs even when only costs are counted
  bool adds = false;     // adds to what it writes to, as one indivisible step
  bool hasty = false;    // the next instruction of its pipe may start before the result is there
  uint64_t issued = 0;
  Clock knows;  // the scalar program's clock at issue
  std::function<void()> run;
  std::function<bool()> ready;  // empty = always
};

struct Pipe {
  std::deque<Instruction> queue;
  uint32_t done = 0;     // instructions completed
  uint32_t barrier = 0;  // `done` at the last barrier of this pipe
  uint64_t time = 0;     // when the pipe is free
  uint64_t visible = 0;  // when its last result is visible
  uint64_t busy = 0, count = 0;
  Clock clock;
  std::unordered_set<uint32_t> hasty;  // instructions of that kind since the last barrier
  std::deque<uint64_t> starts;         // of the instructions still in a device queue
};

class Machine;

class Core {
 public:
  Core(Machine* machine, int index, bool cube, int block, int sub);
  bool cube() const { return cube_; }
  int block() const { return block_; }
  int sub() const { return sub_; }
  Machine& machine() { return *machine_; }
  LocalMemory& memory(Space space) { return memories_[static_cast<int>(space)]; }
  Pipe& pipe(int id) { return pipes_[id]; }

  // Runs or queues one instruction.
  void Issue(int pipe, Instruction instruction);
  void SetFlag(int from, int to, int event);
  void WaitFlag(int from, int to, int event);
  void Barrier(int pipe);  // kPipes = all
  void CrossSet(int pipe, int flag);
  void CrossWait(int flag);
  void SyncAll();
  void Scalar(uint32_t cycles) { scalar_time_ += cycles; }
  // Event ids that queues take from the pool of a kind of flag, the lowest free one first.
  int TakeEvent(int kind);
  void GiveEvent(int kind, int event) { events_[kind] &= ~(1u << event); }
  // An access to memory by the scalar unit, which happens at once.
  void ScalarAccess(Instruction instruction);
  // How many bytes an element has that copies to global memory add up, 0 = they overwrite.
  uint32_t adding = 0;
  [[noreturn]] void Fail(const std::string& what) const;
  std::string Where() const;

  // Used by the machine.
  bool HeadReady(int pipe);
  void RunHead(int pipe);
  void CheckDrained();
  bool Idle() const;
  uint64_t EndTime() const;

  std::function<bool()> blocked_on;  // empty = the scalar program can go on
  const char* blocked_name = "";
  bool finished = false;
  std::deque<Signal> inbox[2][16];  // by sender sub-block and flag

 private:
  void Execute(int pipe, Instruction* instruction);
  void CheckAccess(int pipe, const Instruction& instruction);
  void Block(const char* name, std::function<bool()> ready);
  uint32_t Slot(int pipe) const { return static_cast<uint32_t>(index_ * kPipes + pipe); }

  Machine* machine_;
  int index_;
  bool cube_;
  int block_, sub_;
  LocalMemory memories_[kSpaces];
  Pipe pipes_[kPipes];
  std::deque<Signal> flags_[kPipes][kPipes][8];
  uint64_t scalar_time_ = 0;
  uint32_t events_[64] = {};
  bool raised_[kPipes][kPipes][8] = {};  // set and not waited for, in the order of the program
};

struct Violation : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class Machine {
 public:
  Machine(const omfuse::Platform& platform, const OmfuseOptions& options, int blocks);
  ~Machine();
  // Runs `program` on every core; throws Violation.
  void Run(const std::function<void()>& program);
  void Count(OmfuseCounters* counters) const;

  bool random() const { return options_.schedule != 0; }
  bool checks() const { return options_.checks != 0; }
  bool executes() const { return options_.count_only == 0; }
  bool split() const { return platform_.split != 0; }
  int blocks() const { return blocks_; }
  const omfuse::Platform& platform() const { return platform_; }
  GlobalMemory& global() { return global_; }
  OmfuseCounters& traffic() { return traffic_; }
  std::vector<std::unique_ptr<Core>>& cores() { return cores_; }
  Core& Aic(int block) { return *cores_[static_cast<size_t>(block) * 3]; }
  Core& Aiv(int block, int sub) { return *cores_[static_cast<size_t>(block) * 3 + 1 + sub]; }
  void Yield();  // from a scalar program to the scheduler
  static Core& Current();

  uint64_t sync_round = 0;
  int sync_waiting = 0;
  Signal sync_arriving, sync_release;

 private:
  struct Coroutines;
  void RunInOrder();
  void RunAtRandom();
  void Deadlock();

  omfuse::Platform platform_;
  OmfuseOptions options_;
  int blocks_;
  GlobalMemory global_;
  OmfuseCounters traffic_{};
  std::vector<std::unique_ptr<Core>> cores_;
  std::unique_ptr<Coroutines> coroutines_;
  std::mt19937_64 random_;
};

}  // namespace omfuse_emu

#endif  // OMFUSE_EMULATION_MACHINE_H_
