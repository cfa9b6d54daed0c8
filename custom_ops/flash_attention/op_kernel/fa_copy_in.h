// Query, key and value from global memory to L1, as columns of 16 (NZ).
//
// Every matrix in L1 is [columns / 16][rows rounded up to 16][16]. Rows that do not exist repeat
// the first one, so that nothing undefined enters the cube: a repeated key or value meets a
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

template <typename T>
__aicore__ inline void RepeatRow(const LocalTensor<T>& to, const GlobalTensor<T>& from,
                                 uint32_t times, uint32_t columns, uint32_t pitch) {
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
// column of 16 holds the last 16 elements of the row, and shares some with the column before.
// `To` is L1 or UB.
template <typename T>
__aicore__ inline void OneRow(const LocalTensor<T>& to, const GlobalTensor<T>& from,
                              uint32_t columns, uint32_t pitch) {
  const uint32_t whole = columns / kFractal;
  const AscendC::DataCopyParams params(static_cast<uint16_t>(whole), 1, 0,
                                       static_cast<uint16_t>(pitch - 1));
  AscendC::DataCopy(to, from, params);
  if (columns % kFractal) {
    AscendC::DataCopy(to[whole * pitch * kFractal], from[columns - kFractal], kFractal);
  }
}

template <typename T>
__aicore__ inline void RowsToL1(const LocalTensor<T>& to, const GlobalTensor<T>& from,
                                uint32_t rows, uint32_t columns, uint32_t rowStride,
                                uint32_t pitch) {
  if (columns % kFractal || rowStride % kFractal) {
    for (uint32_t row = 0; row < rows; ++row) {
      OneRow(to[row * kFractal], from[static_cast<uint64_t>(row) * rowStride], columns, pitch);
    }
    return;
  }
  const AscendC::DataCopyParams params(static_cast<uint16_t>(rows), 1,
                                       static_cast<uint16_t>(rowStride / kFractal - 1), 0);
  for (uint32_t column = 0; column < columns / kFractal; ++column) {
    AscendC::DataCopy(to[column * pitch * kFractal], from[column * kFractal], params);
  }
}

template <typename T>
__aicore__ inline void RepeatRow(const LocalTensor<T>& to, const GlobalTensor<T>& from,
                                 uint32_t times, uint32_t columns, uint32_t pitch) {
  for (uint32_t i = 0; i < times; ++i) OneRow(to[i * kFractal], from, columns, pitch);
}

#endif

template <typename T>
__aicore__ inline void MatrixToL1(const LocalTensor<T>& to, const GlobalTensor<T>& from,
                                  uint32_t rows, uint32_t columns, uint32_t rowStride) {
  const uint32_t pitch = RoundUp(rows, kFractal);
  RowsToL1(to, from, rows, columns, rowStride, pitch);
  if (pitch > rows) RepeatRow(to[rows * kFractal], from, pitch - rows, columns, pitch);
}

}  // namespace omfuse

#endif  // OMFUSE_FA_COPY_IN_H_
