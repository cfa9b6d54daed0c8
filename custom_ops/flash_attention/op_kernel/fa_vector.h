// Vector helpers on columns of 16: [columns / 16][rows][16], the layout the cube writes.
//
// A row has 16 floats, two blocks, in each column; a row statistic is kept as one block of eight
// equal floats ("narrow") and, where it meets a matrix, as two such blocks ("wide").
#ifndef OMFUSE_FA_VECTOR_H_
#define OMFUSE_FA_VECTOR_H_

#include "fa_common.h"

namespace omfuse {

// narrow [rows][8] times `factor` to wide [rows][16]; rows is a multiple of 8.
__aicore__ inline void Widen(const LocalTensor<float>& wide, const LocalTensor<float>& narrow,
                             uint32_t rows, float factor = 1.0f) {
  const uint8_t repeats = static_cast<uint8_t>(rows / 8);
  const AscendC::UnaryRepeatParams params(2, 1, 16, 8);
  const uint64_t all = kRepeat;
  AscendC::Muls(wide, narrow, factor, all, repeats, params);
  AscendC::Muls(wide[kLane], narrow, factor, all, repeats, params);
}

constexpr uint32_t kWindow = 8;   // columns of 16 that one reduction takes from a row
constexpr uint32_t kWindows = 4;  // of a wide matrix

// The largest element of each row of a matrix wider than 16 columns of 16, which has at most 32.
//
// Four windows of 8 columns cover it, and may overlap. A repeat is half a row of a window: its
// eight blocks are a column apart, their maxima lie side by side. Two more reductions make one
// value of the 2 x 4 x 8 that a row then has. Few steps that depend on each other, as each costs a
// latency.
__aicore__ inline void MaxWideRows(const LocalTensor<float>& narrow, const LocalTensor<float>& from,
                                   const LocalTensor<float>& work, const LocalTensor<float>& pairs,
                                   uint32_t across, uint32_t rows) {
  const int32_t column = static_cast<int32_t>(rows * 2);  // in blocks, and repeats of a window
  const uint32_t last = across - kWindow;
  for (uint32_t window = 0; window < kWindows; ++window) {
    const uint32_t first = Smaller(window * kWindow, last);
    AscendC::BlockReduceMax(work[window * kLane], from[first * rows * kFractal], column, kRepeat,
                            kWindows, column, 1);
  }
  Barrier();
  AscendC::BlockReduceMax(pairs, work, static_cast<int32_t>(rows), kRepeat, 1, 1, 8);
  Barrier();
  AscendC::BlockReduceMax(work, pairs, static_cast<int32_t>(rows / 8), kRepeat, 1, 1, 8);
  Barrier();
  AscendC::Brcb(narrow, work, static_cast<uint8_t>(rows / 8), AscendC::BrcbRepeatParams(1, 8));
  Barrier();
}

// One value a row of an operation, as a narrow statistic: blocks, then columns onto columns, then
// the two halves of a row. `work` holds columns / 16 * rows * 2 floats, `pairs` rows * 16.
struct Largest {
  __aicore__ inline static void Blocks(const LocalTensor<float>& to, const LocalTensor<float>& from,
                                       int32_t repeats) {
    AscendC::BlockReduceMax(to, from, repeats, kRepeat, 1, 1, 8);
  }
  template <typename... Form>
  __aicore__ inline static void Join(const LocalTensor<float>& to, const LocalTensor<float>& a,
                                     const LocalTensor<float>& b, Form... form) {
    AscendC::Max(to, a, b, form...);
  }
};

struct Sum {
  __aicore__ inline static void Blocks(const LocalTensor<float>& to, const LocalTensor<float>& from,
                                       int32_t repeats) {
    AscendC::BlockReduceSum(to, from, repeats, kRepeat, 1, 1, 8);
  }
  template <typename... Form>
  __aicore__ inline static void Join(const LocalTensor<float>& to, const LocalTensor<float>& a,
                                     const LocalTensor<float>& b, Form... form) {
    AscendC::Add(to, a, b, form...);
  }
};

template <typename Operation>
__aicore__ inline void ReduceRows(const LocalTensor<float>& narrow, const LocalTensor<float>& from,
                                  const LocalTensor<float>& work, const LocalTensor<float>& pairs,
                                  uint32_t columns, uint32_t rows) {
  uint32_t left = columns / kFractal;
  const uint32_t width = rows * 2;  // two partial results a row
  const uint32_t repeats = left * rows * kFractal / kRepeat;
  for (uint32_t done = 0; done < repeats; done += kMaxRepeats) {
    const int32_t some = static_cast<int32_t>(Smaller(kMaxRepeats, repeats - done));
    Operation::Blocks(work[done * kLane], from[done * kRepeat], some);
  }
  Barrier();
  while (left > 1) {  // fold the upper half of the columns onto the lower
    const uint32_t half = left / 2;
    Operation::Join(work, work, work[(left - half) * width], static_cast<int32_t>(half * width));
    left -= half;
    Barrier();
  }
  AscendC::Brcb(pairs, work, static_cast<uint8_t>(width / 8), AscendC::BrcbRepeatParams(1, 8));
  Barrier();
  const AscendC::BinaryRepeatParams both(1, 2, 2, 8, 16, 16);
  const uint64_t all = kRepeat;
  Operation::Join(narrow, pairs, pairs[kLane], all, static_cast<uint8_t>(rows / 8), both);
  Barrier();
}

// The largest element of each row; `work` has at least rows * 64 floats, too.
__aicore__ inline void MaxRows(const LocalTensor<float>& narrow, const LocalTensor<float>& from,
                               const LocalTensor<float>& work, const LocalTensor<float>& pairs,
                               uint32_t columns, uint32_t rows) {
  const uint32_t across = columns / kFractal;
  if (across > 2 * kWindow && across <= kWindows * kWindow && rows <= kFractal) {
    MaxWideRows(narrow, from, work, pairs, across, rows);
  } else {
    ReduceRows<Largest>(narrow, from, work, pairs, columns, rows);
  }
}

// matrix = matrix * factor - statistic, in each row. `negated` is the wide statistic times -1,
// `factor` a block of eight equal floats.
__aicore__ inline void ScaleAndSubtract(const LocalTensor<float>& matrix,
                                        const LocalTensor<float>& factor,
                                        const LocalTensor<float>& negated, uint32_t columns,
                                        uint32_t rows) {
  const uint32_t across = columns / kFractal;
  const uint32_t column = rows * kFractal;
  const uint32_t quads = rows / 4;
  const uint64_t all = kRepeat;
  if (across <= quads) {
    const AscendC::BinaryRepeatParams params(1, 0, 1, 8, 0, 8);
    for (uint32_t j = 0; j < across; ++j) {
      AscendC::FusedMulAdd(matrix[j * column], factor, negated, all, static_cast<uint8_t>(quads),
                           params);
    }
    return;
  }
  const AscendC::BinaryRepeatParams params(1, 0, 1, static_cast<uint8_t>(rows * 2), 0, 0);
  for (uint32_t quad = 0; quad < quads; ++quad) {
    AscendC::FusedMulAdd(matrix[quad * kRepeat], factor, negated[quad * kRepeat], all,
                         static_cast<uint8_t>(across), params);
  }
}

// Sets the columns from `first` on; `rows` is a multiple of 4.
__aicore__ inline void FillColumns(const LocalTensor<float>& matrix, uint32_t first,
                                   uint32_t columns, uint32_t rows, float value) {
  if (first >= columns) return;
  const uint32_t column = rows * kFractal;
  uint32_t block = first / kFractal;
  const uint32_t lane = first % kFractal;
  if (lane) {
    const uint64_t lanes = (0xFFFFull << lane) & 0xFFFFull;
    uint64_t mask[2] = {lanes | (lanes << 16) | (lanes << 32) | (lanes << 48), 0};
    AscendC::Duplicate(matrix[block * column], value, mask, static_cast<uint8_t>(rows / 4), 1, 8);
    ++block;
  }
  const uint32_t whole = columns / kFractal - block;
  if (whole) {
    AscendC::Duplicate(matrix[block * column], value, static_cast<int32_t>(whole * column));
  }
}

}  // namespace omfuse

#endif  // OMFUSE_FA_VECTOR_H_
