// The slots in global memory through which cube and vector cores hand results to each other.
//
// The cube core waits for the probabilities of step i - kLag, computes the scores of step i and the
// output part of step i - kLag; its two vector cores turn the scores of step i into probabilities
// and add the part of step i - kLag. kLag + 1 slots a stage are enough for that without any flag
// that says "slot free": whoever overwrites a slot has already waited for a later result of its
// reader.
#ifndef OMFUSE_FA_SLOTS_H_
#define OMFUSE_FA_SLOTS_H_

#include "fa_common.h"

namespace omfuse {

constexpr uint16_t kScoresReady = 0;  // cross-core flags
constexpr uint16_t kProbsReady = 1;
constexpr uint16_t kPartsReady = 2;

// The slots of one cube core and its vector cores.
template <typename T>
struct Slots {
  GlobalTensor<float> scores[kSlots], parts[kSlots];
  GlobalTensor<half> halfScores[kSlots];  // the same place where scores travel in fp16
  GlobalTensor<T> probs[kSlots];

  __aicore__ inline void Init(const FlashAttentionTiling& t, GM_ADDR workspace, uint32_t core) {
    GM_ADDR base = workspace + t.coreBytes * core;
    for (uint32_t i = 0; i < kSlots; ++i) {
      scores[i].SetGlobalBuffer(
          reinterpret_cast<__gm__ float*>(base + t.scoresOffset + i * t.scoresSlot));
      halfScores[i].SetGlobalBuffer(
          reinterpret_cast<__gm__ half*>(base + t.scoresOffset + i * t.scoresSlot));
      probs[i].SetGlobalBuffer(reinterpret_cast<__gm__ T*>(base + t.probsOffset + i * t.probsSlot));
      parts[i].SetGlobalBuffer(
          reinterpret_cast<__gm__ float*>(base + t.partsOffset + i * t.partsSlot));
    }
  }
};

}  // namespace omfuse

#endif  // OMFUSE_FA_SLOTS_H_
