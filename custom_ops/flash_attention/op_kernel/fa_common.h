// What every part of the kernel shares: the architecture, sizes and small helpers.
#ifndef OMFUSE_FA_COMMON_H_
#define OMFUSE_FA_COMMON_H_

#include "flash_attention_tiling.h"
#include "kernel_operator.h"

// CANN 8 tells the architecture by __CCE_AICORE__, CANN 9 by __NPU_ARCH__.
#if (defined(__NPU_ARCH__) && __NPU_ARCH__ == 2201) || \
    (defined(__CCE_AICORE__) && __CCE_AICORE__ == 220)
#define OMFUSE_FA_SPLIT 1  // cube and vector cores apart, joined by global memory
#else
#define OMFUSE_FA_SPLIT 0  // one core with both units, no padding copies, no cross-core flags
#endif

namespace omfuse {

using AscendC::GlobalTensor;
using AscendC::HardEvent;
using AscendC::LocalTensor;
using AscendC::PipeBarrier;
using AscendC::RoundMode;
using AscendC::SetFlag;
using AscendC::TBuf;
using AscendC::TPipe;
using AscendC::TPosition;
using AscendC::TQue;
using AscendC::WaitFlag;

constexpr uint32_t kFractal = 16;                     // rows and columns of a cube fractal
constexpr uint32_t kPanel = 128;                      // keys that one cube step takes
constexpr uint32_t kDepthPart = 128;                  // columns of an operand in L0
constexpr uint32_t kLane = 8;                         // floats in a 32-byte block
constexpr uint32_t kRepeat = 64;                      // floats in one vector repeat
constexpr uint32_t kMaxRepeats = 248;                 // of 255, so that parts stay whole blocks
constexpr uint32_t kSlots = OMFUSE_FA_SPLIT ? 5 : 3;  // steps in flight
constexpr uint32_t kLag = kSlots - 1;  // steps between the scores and the output part
constexpr uint32_t kRing = 8;          // places for the steps at hand, a power of two

// fp32 to fp16: 310P knows one rounding and calls it NONE.
constexpr RoundMode kNarrow = OMFUSE_FA_SPLIT ? RoundMode::CAST_RINT : RoundMode::CAST_NONE;

__aicore__ inline uint32_t CeilDiv(uint32_t a, uint32_t b) { return (a + b - 1) / b; }
__aicore__ inline uint32_t RoundUp(uint32_t a, uint32_t b) { return CeilDiv(a, b) * b; }
__aicore__ inline uint32_t Smaller(uint32_t a, uint32_t b) { return a < b ? a : b; }
__aicore__ inline int64_t Least(int64_t a, int64_t b) { return a < b ? a : b; }
__aicore__ inline int64_t Most(int64_t a, int64_t b) { return a > b ? a : b; }

// Rows after which rows of 16-bit elements begin at the same place of a 32-byte block again. Where
// the copy engine cannot step so far, each row is on its own.
__aicore__ inline uint32_t BlockCycle(uint32_t rowStride, uint32_t rows) {
  const uint32_t twos = rowStride & (0u - rowStride);  // the largest power of two in the stride
  const uint32_t cycle = twos < kFractal ? kFractal / twos : 1;
  return static_cast<uint64_t>(cycle) * rowStride / kFractal > 65535 ? rows : cycle;
}

__aicore__ inline float FromBits(uint32_t bits) {
  union {
    uint32_t bits;
    float value;
  } same = {bits};
  return same.value;
}
__aicore__ inline float Infinity() { return FromBits(0x7F800000u); }
__aicore__ inline float MinusInfinity() { return FromBits(0xFF800000u); }
__aicore__ inline float Lowest() { return FromBits(0xFF7FFFFFu); }

__aicore__ inline void Barrier() { PipeBarrier<PIPE_V>(); }

struct TilingWords {
  __aicore__ inline explicit TilingWords(GM_ADDR address) {
    const __gm__ uint32_t* from = reinterpret_cast<const __gm__ uint32_t*>(address);
    for (uint32_t i = 0; i < kTilingWords; ++i) words[i] = from[i];
  }
  uint32_t words[kTilingWords];
};

// The tiling from its words, as the struct promises.
__aicore__ inline void ReadTiling(const uint32_t* words, FlashAttentionTiling* tiling) {
  uint32_t* to = reinterpret_cast<uint32_t*>(tiling);
  for (uint32_t i = 0; i < kTilingWords; ++i) to[i] = words[i];
}

// The scalar unit of this kernel reads 16-bit numbers as bits.
template <typename T>
__aicore__ inline float FromHalfBits(uint16_t bits) {
  if (!AscendC::IsSameType<T, half>::value) return FromBits(static_cast<uint32_t>(bits) << 16);
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t exponent = (bits >> 10) & 31u;
  const uint32_t fraction = bits & 1023u;
  if (exponent == 31) return FromBits(sign | 0x7F800000u | (fraction << 13));
  if (exponent) return FromBits(sign | ((exponent + 112) << 23) | (fraction << 13));
  const float small = static_cast<float>(static_cast<int32_t>(fraction)) * FromBits(0x33800000u);
  return sign ? -small : small;  // subnormal, in units of 2^-24
}

struct Inputs {  // GM_ADDR is a macro of CANN's that cannot declare several at once
  GM_ADDR query;
  GM_ADDR key;
  GM_ADDR value;
  GM_ADDR bias;
  GM_ADDR mask;
  GM_ADDR sink;
  GM_ADDR kvLengths;
  GM_ADDR output;
  GM_ADDR lse;
  GM_ADDR workspace;
};

}  // namespace omfuse

#endif  // OMFUSE_FA_COMMON_H_
