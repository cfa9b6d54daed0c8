// Qualifiers, enumerations and parameter structs of the emulated API.
#ifndef OMFUSE_EMULATION_API_TYPES_H_
#define OMFUSE_EMULATION_API_TYPES_H_

#include <cstdint>
#include <type_traits>

#include "machine.h"
#include "numeric.h"

#ifndef __CCE_AICORE__
#error "define __CCE_AICORE__ as 220 (910B family) or 200 (310P)"
#endif
#define OMFUSE_EMULATION_SPLIT (__CCE_AICORE__ == 220)

#define __aicore__
#define __global__
#define __gm__
#define __ubuf__
#define __cbuf__
using GM_ADDR = uint8_t*;

enum pipe_t {
  PIPE_S = 0,
  PIPE_V = 1,
  PIPE_M = 2,
  PIPE_MTE1 = 3,
  PIPE_MTE2 = 4,
  PIPE_MTE3 = 5,
  PIPE_FIX = 6,
  PIPE_ALL = 7
};
enum event_t {
  EVENT_ID0,
  EVENT_ID1,
  EVENT_ID2,
  EVENT_ID3,
  EVENT_ID4,
  EVENT_ID5,
  EVENT_ID6,
  EVENT_ID7
};
enum QuantMode_t { NoQuant, F322F16, F322BF16 };

#define ASCEND_IS_AIC (omfuse_emu::Machine::Current().cube())
#define ASCEND_IS_AIV (!OMFUSE_EMULATION_SPLIT || !omfuse_emu::Machine::Current().cube())
// Which cores a block takes; only the one of the emulated machine is known.
enum KernelType { KERNEL_TYPE_MIX_AIC_1_2 };
#define KERNEL_TASK_TYPE_DEFAULT(type) static_assert(type == KERNEL_TYPE_MIX_AIC_1_2, "core type")

namespace AscendC {

enum class TPosition : uint8_t { GM, A1, A2, B1, B2, C1, C2, CO1, CO2, VECIN, VECOUT, VECCALC };
using QuePosition = TPosition;

enum class HardEvent : uint8_t {
  MTE2_MTE1,
  MTE1_MTE2,
  MTE1_M,
  M_MTE1,
  MTE2_V,
  V_MTE2,
  MTE3_V,
  V_MTE3,
  M_V,
  V_M,
  V_S,
  S_V,
  MTE2_S,
  S_MTE2,
  MTE3_S,
  S_MTE3,
  MTE3_MTE2,
  MTE2_MTE3,
  MTE3_MTE1,
  MTE1_MTE3,
  M_FIX,
  FIX_M,
  V_V,
  M_S,
  S_M
};

enum class RoundMode {
  CAST_NONE = 0,
  CAST_RINT,
  CAST_FLOOR,
  CAST_CEIL,
  CAST_ROUND,
  CAST_TRUNC,
  CAST_ODD
};
enum class BlockMode { BLOCK_MODE_NORMAL = 0, BLOCK_MODE_MATRIX };
enum class CO2Layout : uint8_t { NZ = 0, ROW_MAJOR };

struct FixpipeConfig {
  CO2Layout format;
};
constexpr FixpipeConfig CFG_NZ = {CO2Layout::NZ};
constexpr FixpipeConfig CFG_ROW_MAJOR = {CO2Layout::ROW_MAJOR};

struct DataCopyParams {  // lengths and gaps in 32-byte blocks
  DataCopyParams() = default;
  DataCopyParams(uint16_t count, uint16_t len, uint16_t src_gap, uint16_t dst_gap)
      : blockCount(count), blockLen(len), srcStride(src_gap), dstStride(dst_gap) {}
  uint16_t blockCount = 1, blockLen = 0, srcStride = 0, dstStride = 0;
};

struct DataCopyEnhancedParams {
  BlockMode blockMode = BlockMode::BLOCK_MODE_NORMAL;
};

struct DataCopyExtParams {  // bytes in global memory, 32-byte blocks as gaps in UB
  DataCopyExtParams() = default;
  DataCopyExtParams(uint16_t count, uint32_t len, uint32_t src, uint32_t dst, uint32_t reserved)
      : blockCount(count), blockLen(len), srcStride(src), dstStride(dst), rsv(reserved) {}
  uint16_t blockCount = 1;
  uint32_t blockLen = 0, srcStride = 0, dstStride = 0, rsv = 0;
};

template <typename T>
struct DataCopyPadExtParams {
  DataCopyPadExtParams() = default;
  DataCopyPadExtParams(bool pad, uint8_t left, uint8_t right, T value)
      : isPad(pad), leftPadding(left), rightPadding(right), paddingValue(value) {}
  bool isPad = false;
  uint8_t leftPadding = 0, rightPadding = 0;
  T paddingValue = T(0);
};

struct Nd2NzParams {
  uint16_t ndNum = 0, nValue = 0, dValue = 0, srcNdMatrixStride = 0, srcDValue = 0,
           dstNzC0Stride = 0, dstNzNStride = 0, dstNzMatrixStride = 0;
};

struct LoadData2DParams {
  uint16_t startIndex = 0, dstGap = 0, srcStride = 0;
  bool ifTranspose = false;
  uint8_t repeatTimes = 0, sid = 0, addrMode = 0;
};

template <typename T>
struct InitConstValueParams {
  InitConstValueParams() = default;
  InitConstValueParams(uint16_t repeats, uint16_t blocks, uint16_t gap, T value)
      : repeatTimes(repeats), blockNum(blocks), dstGap(gap), initValue(value) {}
  uint16_t repeatTimes = 0, blockNum = 0, dstGap = 0;
  T initValue = T(0);
};

struct MmadParams {
  uint16_t m = 0, n = 0, k = 0;
  bool isBias = false;
  int32_t fmOffset = 0;
  bool enSsparse = false, enWinogradA = false, enWinogradB = false;
  uint8_t unitFlag = 0;
  bool kDirectionAlign = false, cmatrixSource = false, cmatrixInitVal = true;
};

struct FixpipeParamsV220 {
  uint16_t nSize = 0, mSize = 0, srcStride = 0;
  uint32_t dstStride = 0;
  QuantMode_t quantPre = NoQuant;
  uint64_t deqScalar = 0;
  uint16_t ndNum = 1, srcNdStride = 0, dstNdStride = 0;
  bool reluEn = false;
  uint8_t unitFlag = 0;
  bool isChannelSplit = false;
};

struct UnaryRepeatParams {
  UnaryRepeatParams() = default;
  UnaryRepeatParams(uint16_t dst_blk, uint16_t src_blk, uint8_t dst_rep, uint8_t src_rep)
      : dstBlkStride(dst_blk),
        srcBlkStride(src_blk),
        dstRepStride(dst_rep),
        srcRepStride(src_rep) {}
  uint16_t dstBlkStride = 1, srcBlkStride = 1;
  uint8_t dstRepStride = 8, srcRepStride = 8;
};

struct BinaryRepeatParams {
  BinaryRepeatParams() = default;
  BinaryRepeatParams(uint8_t dst_blk, uint8_t src0_blk, uint8_t src1_blk, uint8_t dst_rep,
                     uint8_t src0_rep, uint8_t src1_rep)
      : dstBlkStride(dst_blk),
        src0BlkStride(src0_blk),
        src1BlkStride(src1_blk),
        dstRepStride(dst_rep),
        src0RepStride(src0_rep),
        src1RepStride(src1_rep) {}
  uint8_t dstBlkStride = 1, src0BlkStride = 1, src1BlkStride = 1;
  uint8_t dstRepStride = 8, src0RepStride = 8, src1RepStride = 8;
};

struct BrcbRepeatParams {
  BrcbRepeatParams() = default;
  BrcbRepeatParams(uint16_t dst_blk, uint16_t dst_rep)
      : dstBlkStride(dst_blk), dstRepStride(dst_rep) {}
  uint16_t dstBlkStride = 1, dstRepStride = 8;
};

template <typename T, typename U>
using IsSameType = std::is_same<T, U>;

constexpr omfuse_emu::Space SpaceOf(TPosition position) {
  return position == TPosition::A1 || position == TPosition::B1 || position == TPosition::C1
             ? omfuse_emu::Space::kL1
         : position == TPosition::A2  ? omfuse_emu::Space::kL0a
         : position == TPosition::B2  ? omfuse_emu::Space::kL0b
         : position == TPosition::CO1 ? omfuse_emu::Space::kL0c
                                      : omfuse_emu::Space::kUb;
}

struct EventPipes {
  int from, to;
};
constexpr EventPipes PipesOf(HardEvent event) {
  constexpr EventPipes kTable[] = {{4, 3}, {3, 4}, {3, 2}, {2, 3}, {4, 1}, {1, 4}, {5, 1},
                                   {1, 5}, {2, 1}, {1, 2}, {1, 0}, {0, 1}, {4, 0}, {0, 4},
                                   {5, 0}, {0, 5}, {5, 4}, {4, 5}, {5, 3}, {3, 5}, {2, 6},
                                   {6, 2}, {1, 1}, {2, 0}, {0, 2}};
  return kTable[static_cast<int>(event)];
}

}  // namespace AscendC

#endif  // OMFUSE_EMULATION_API_TYPES_H_
