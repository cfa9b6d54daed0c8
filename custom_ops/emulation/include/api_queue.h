// TPipe, TQue and TBuf: memory of a core and the flags that queues raise.
#ifndef OMFUSE_EMULATION_API_QUEUE_H_
#define OMFUSE_EMULATION_API_QUEUE_H_

#include <algorithm>
#include <functional>
#include <memory>
#include <vector>

#include "api_sync.h"
#include "api_tensor.h"

namespace AscendC {

template <TPosition position>
class TBuf {
 public:
  template <typename T>
  LocalTensor<T> Get() const {
    return LocalTensor<T>(SpaceOf(position), storage_, offset_,
                          static_cast<uint32_t>(bytes_ / sizeof(T)));
  }

 private:
  friend class TPipe;
  omfuse_emu::Storage* storage_ = nullptr;
  uint64_t offset_ = 0, bytes_ = 0;
};

template <TPosition position, int32_t depth>
class TQue {
  static_assert(position == TPosition::VECIN || position == TPosition::VECOUT,
                "queues of the vector unit only");
  static constexpr HardEvent kFull =
      position == TPosition::VECIN ? HardEvent::MTE2_V : HardEvent::V_MTE3;
  static constexpr HardEvent kFree =
      position == TPosition::VECIN ? HardEvent::V_MTE2 : HardEvent::MTE3_V;

 public:
  template <typename T>
  LocalTensor<T> AllocTensor() {
    omfuse_emu::Core& core = omfuse_emu::Machine::Current();
    for (size_t i = 0; i < state_->buffers.size(); ++i) {
      Buffer& buffer = state_->buffers[(next_ + i) % state_->buffers.size()];
      if (buffer.state != kIdle) continue;
      next_ = (next_ + i + 1) % state_->buffers.size();
      state_->TakeBack(&buffer);
      buffer.state = kTaken;
      return LocalTensor<T>(omfuse_emu::Space::kUb, storage_, buffer.offset,
                            static_cast<uint32_t>(bytes_ / sizeof(T)));
    }
    core.Fail("AllocTensor: every buffer of the queue is in use");
  }

  template <typename T>
  void EnQue(const LocalTensor<T>& tensor) {
    Buffer& buffer = Own(tensor.offset(), kTaken, "EnQue");
    if (state_->waiting.size() >= static_cast<size_t>(depth)) {
      omfuse_emu::Machine::Current().Fail("EnQue: more tensors than the depth of the queue");
    }
    buffer.state = kQueued;
    buffer.event = omfuse_emu::Machine::Current().TakeEvent(static_cast<int>(kFull));
    SetFlag<kFull>(buffer.event);
    state_->waiting.push_back(&buffer - state_->buffers.data());
  }

  template <typename T>
  LocalTensor<T> DeQue() {
    if (state_->waiting.empty()) omfuse_emu::Machine::Current().Fail("DeQue of an empty queue");
    Buffer& buffer = state_->buffers[static_cast<size_t>(state_->waiting.front())];
    state_->waiting.erase(state_->waiting.begin());
    buffer.state = kTaken;
    WaitFlag<kFull>(buffer.event);
    omfuse_emu::Machine::Current().GiveEvent(static_cast<int>(kFull), buffer.event);
    return LocalTensor<T>(omfuse_emu::Space::kUb, storage_, buffer.offset,
                          static_cast<uint32_t>(bytes_ / sizeof(T)));
  }

  template <typename T>
  void FreeTensor(LocalTensor<T>& tensor) {
    Buffer& buffer = Own(tensor.offset(), kTaken, "FreeTensor");
    buffer.state = kIdle;
    buffer.freed = true;
    buffer.event = omfuse_emu::Machine::Current().TakeEvent(static_cast<int>(kFree));
    SetFlag<kFree>(buffer.event);
  }

 private:
  friend class TPipe;
  enum Use { kIdle, kTaken, kQueued };
  struct Buffer {
    uint64_t offset = 0;
    Use state = kIdle;
    bool freed = false;
    int event = 0;
  };

  Buffer& Own(uint64_t offset, Use state, const char* call) {
    for (Buffer& buffer : state_->buffers) {
      if (buffer.offset == offset && buffer.state == state) return buffer;
    }
    omfuse_emu::Machine::Current().Fail(std::string(call) +
                                        " of a tensor that the queue does not hold");
  }

  // The pipe outlives its queues, so it holds on to their buffers.
  struct State {
    std::vector<Buffer> buffers;
    std::vector<int64_t> waiting;
    // Waits for the pipe that read or wrote a freed buffer last.
    void TakeBack(Buffer* buffer) {
      if (!buffer->freed) return;
      WaitFlag<kFree>(buffer->event);
      omfuse_emu::Machine::Current().GiveEvent(static_cast<int>(kFree), buffer->event);
      buffer->freed = false;
    }
    void Drain() {
      omfuse_emu::Core& core = omfuse_emu::Machine::Current();
      if (!waiting.empty()) core.Fail("a queue still holds a tensor at the end");
      for (Buffer& buffer : buffers) {
        if (buffer.state != kIdle) core.Fail("a tensor of a queue was never freed");
        TakeBack(&buffer);
      }
    }
  };

  omfuse_emu::Storage* storage_ = nullptr;
  uint64_t bytes_ = 0;
  std::shared_ptr<State> state_ = std::make_shared<State>();
  size_t next_ = 0;
};

class TPipe {
 public:
  // On a cube core of split chips the pipe raises three flags for the library's multiplications.
  TPipe() {
    for (int i = 0; i < kLibraryFlags; ++i) {
      core_->TakeEvent(static_cast<int>(HardEvent::M_MTE1));
      SetFlag<HardEvent::M_MTE1>(i);
    }
  }

  ~TPipe() noexcept(false) {
    if (std::uncaught_exceptions()) return;
    for (auto& drain : drains_) drain();
    for (int i = 0; i < kLibraryFlags; ++i) {
      WaitFlag<HardEvent::M_MTE1>(i);
      core_->GiveEvent(static_cast<int>(HardEvent::M_MTE1), i);
    }
    for (int space = 0; space < omfuse_emu::kSpaces; ++space) {
      core_->memory(static_cast<omfuse_emu::Space>(space)).used = 0;
    }
  }

  template <TPosition position>
  bool InitBuffer(TBuf<position>& buffer, uint32_t bytes) {
    buffer.bytes_ = Round(bytes);
    buffer.offset_ = Take(SpaceOf(position), buffer.bytes_);
    buffer.storage_ = &core_->memory(SpaceOf(position)).storage;
    return true;
  }

  template <TPosition position, int32_t depth>
  bool InitBuffer(TQue<position, depth>& queue, uint8_t count, uint32_t bytes) {
    queue.bytes_ = Round(bytes);
    queue.storage_ = &core_->memory(omfuse_emu::Space::kUb).storage;
    queue.state_->buffers.resize(count);
    InRange("InitBuffer", "num", count, 1, kMaxBuffers);
    for (auto& buffer : queue.state_->buffers) {
      buffer.offset = Take(omfuse_emu::Space::kUb, queue.bytes_);
    }
    auto state = queue.state_;
    drains_.push_back([state] { state->Drain(); });
    return true;
  }

 private:
  static uint64_t Round(uint32_t bytes) { return (uint64_t{bytes} + 31) / 32 * 32; }

  uint64_t Take(omfuse_emu::Space space, uint64_t bytes) {
    omfuse_emu::LocalMemory& memory = core_->memory(space);
    InRange("InitBuffer", "len", bytes, 1, 0xFFFFFFFF);
    if (++buffers_ > kMaxBuffers) core_->Fail("InitBuffer: more than 64 buffers");
    // Some library calls scratch in the last 8 KB of UB; split chips keep the end of L1.
    const uint64_t kept = space == omfuse_emu::Space::kUb                               ? 8192
                          : space == omfuse_emu::Space::kL1 && core_->machine().split() ? 256
                                                                                        : 0;
    const uint64_t offset = memory.used;
    memory.used += bytes;
    memory.most = std::max(memory.most, memory.used);
    if (memory.used + kept > memory.storage.size) {
      core_->Fail("InitBuffer: " + std::to_string(memory.used) + " bytes do not fit in " +
                  memory.storage.name + " of " + std::to_string(memory.storage.size) +
                  (kept ? " less " + std::to_string(kept) + " kept for the library" : ""));
    }
    return offset;
  }

  static constexpr uint32_t kMaxBuffers = 64;

  omfuse_emu::Core* core_ = &omfuse_emu::Machine::Current();
  const int kLibraryFlags = core_->machine().split() && core_->cube() ? 3 : 0;
  std::vector<std::function<void()>> drains_;
  uint32_t buffers_ = 0;
};

}  // namespace AscendC

#endif  // OMFUSE_EMULATION_API_QUEUE_H_
