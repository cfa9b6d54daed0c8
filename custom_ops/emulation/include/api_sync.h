// Flags, barriers and the identity of a core.
#ifndef OMFUSE_EMULATION_API_SYNC_H_
#define OMFUSE_EMULATION_API_SYNC_H_

#include "api_types.h"

namespace AscendC {

template <HardEvent event>
inline void SetFlag(int32_t id) {
  omfuse_emu::Machine::Current().SetFlag(PipesOf(event).from, PipesOf(event).to, id);
}

template <HardEvent event>
inline void WaitFlag(int32_t id) {
  omfuse_emu::Machine::Current().WaitFlag(PipesOf(event).from, PipesOf(event).to, id);
}

template <pipe_t pipe>
inline void PipeBarrier() {
  omfuse_emu::Machine::Current().Barrier(static_cast<int>(pipe));
}

inline int64_t GetBlockNum() { return omfuse_emu::Machine::Current().machine().blocks(); }

inline int64_t GetBlockIdx() {
  omfuse_emu::Core& core = omfuse_emu::Machine::Current();
  if (!core.machine().split() || core.cube()) return core.block();
  return core.block() * 2 + core.sub();
}

// The workspace behind what CANN keeps for itself; nothing is kept here.
inline GM_ADDR GetUserWorkspace(GM_ADDR workspace) {
  if (!workspace) omfuse_emu::Machine::Current().Fail("GetUserWorkspace: workspace is null");
  return workspace;
}

#if OMFUSE_EMULATION_SPLIT
inline int64_t GetSubBlockIdx() { return omfuse_emu::Machine::Current().sub(); }
inline int64_t GetTaskRation() { return omfuse_emu::Machine::Current().cube() ? 1 : 2; }

template <uint8_t mode, pipe_t pipe>
inline void CrossCoreSetFlag(uint16_t flag) {
  static_assert(mode == 2, "only mode 2 (a cube core and its vector cores) is emulated");
  omfuse_emu::Machine::Current().CrossSet(static_cast<int>(pipe), flag);
}

inline void CrossCoreWaitFlag(uint16_t flag) { omfuse_emu::Machine::Current().CrossWait(flag); }

template <bool vectorOnly>
inline void SyncAll() {
  static_assert(vectorOnly, "only the barrier of vector cores is emulated");
  omfuse_emu::Machine::Current().SyncAll();
}
#endif

}  // namespace AscendC

#endif  // OMFUSE_EMULATION_API_SYNC_H_
