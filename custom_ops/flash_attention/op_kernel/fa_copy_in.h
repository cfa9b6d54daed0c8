// Query, key and value from global memory to L1, as columns of 16 (NZ).
//
// Every matrix in L1 is [columns / 16][rows rounded up to 16][16]. Rows that do not exist repeat
// the first ones, so that nothing undefined enters the cube: a repeated key or value meets a
// probability of zero, a repeated query gives a row that nobody writes.
#ifndef OMFUSE_FA_COPY_IN_H_
#define OMFUSE_FA_COPY_IN_H_

#include "fa_common.h"

namespace omfuse {

#if OMFUSE_FA_SPLIT

// The copy engine reorders, and fills a short last column of 16 with zeros.
template <typename T>
__aicore__ inline void RowsToL1(const LocalTensor<T>& to, const GlobalTensor<T>& from,
                                uint32_t rows, uint32_t columns, uint32_t rowStride,
                                uint32_t pitch) {
  AscendC::Nd2NzParams params;
  params.ndNum = 1;
  params.nValue = static_cast<uint16_t>(rows);
  params.dValue = static_cast<uint16_t>(columns);
  params.srcNdMatrixStride = 0;
  params.srcDValue = static_cast<uint16_t>(rowStride);
  params.dstNzC0Stride = static_cast<uint16_t>(pitch);
  params.dstNzNStride = 1;
  params.dstNzMatrixStride = 0;
  AscendC::DataCopy(to, from, params);
}

// `times` rows more, from the `rows` rows there are: here the first one each time.
template <typename T>
__aicore__ inline void RepeatRows(const LocalTensor<T>& to, const GlobalTensor<T>& from, uint32_t,
                                  uint32_t times, uint32_t columns, uint32_t, uint32_t pitch) {
  AscendC::Nd2NzParams params;
  params.ndNum = static_cast<uint16_t>(times);
  params.nValue = 1;
  params.dValue = static_cast<uint16_t>(columns);
  params.srcNdMatrixStride = 0;
  params.srcDValue = static_cast<uint16_t>(columns);
  params.dstNzC0Stride = static_cast<uint16_t>(pitch);
  params.dstNzNStride = 1;
  params.dstNzMatrixStride = kFractal;
  AscendC::DataCopy(to, from, params);
}

#else

// Only whole 32-byte blocks can be copied here. Where the depth is not a multiple of 16, the last
// column of 16 holds the last 16 elements of the row, and shares some with the column before; a row
// shorter than a block reads on into the next one, or into the slack that the device allocator
// leaves behind every tensor. `To` is L1 or UB.
__aicore__ inline uint32_t BlockStart(uint32_t column, uint32_t columns) {
  const uint32_t start = column * kFractal;
  return start + kFractal > columns && column > 0 ? columns - kFractal : start;
}

// Blocks are apart by whole blocks only, so one copy takes the rows that begin alike in a block:
// every `BlockCycle`-th.
template <typename T>
__aicore__ inline void RowsToL1(const LocalTensor<T>& to, const GlobalTensor<T>& from,
                                uint32_t rows, uint32_t columns, uint32_t rowStride,
                                uint32_t pitch) {
  const uint32_t cycle = BlockCycle(rowStride, rows);
  for (uint32_t row = 0; row < Smaller(cycle, rows); ++row) {
    const AscendC::DataCopyParams params(
        static_cast<uint16_t>(CeilDiv(rows - row, cycle)), 1,
        static_cast<uint16_t>(cycle * static_cast<uint64_t>(rowStride) / kFractal - 1),
        static_cast<uint16_t>(cycle - 1));
    const GlobalTensor<T> line = from[static_cast<uint64_t>(row) * rowStride];
    for (uint32_t column = 0; column < CeilDiv(columns, kFractal); ++column) {
      AscendC::DataCopy(to[(column * pitch + row) * kFractal], line[BlockStart(column, columns)],
                        params);
    }
  }
}

// `times` rows more, from the `rows` rows there are: all of them in turn.
template <typename T>
__aicore__ inline void RepeatRows(const LocalTensor<T>& to, const GlobalTensor<T>& from,
                                  uint32_t rows, uint32_t times, uint32_t columns,
                                  uint32_t rowStride, uint32_t pitch) {
  for (uint32_t done = 0; done < times; done += rows) {
    RowsToL1(to[done * kFractal], from, Smaller(rows, times - done), columns, rowStride, pitch);
  }
}

#endif

template <typename T>
__aicore__ inline void MatrixToL1(const LocalTensor<T>& to, const GlobalTensor<T>& from,
                                  uint32_t rows, uint32_t columns, uint32_t rowStride) {
  const uint32_t pitch = RoundUp(rows, kFractal);
  RowsToL1(to, from, rows, columns, rowStride, pitch);
  if (pitch == rows) return;
  RepeatRows(to[rows * kFractal], from, rows, pitch - rows, columns, rowStride, pitch);
}

}  // namespace omfuse

#endif  // OMFUSE_FA_COPY_IN_H_
