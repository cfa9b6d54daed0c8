// Operands from L1 to L0, and the multiplication.
//
// The two halves of L0A and L0B work in turn: while the cube multiplies one, the next operands load
// into the other. Values get 16 more columns of ones: their product with the probabilities is the
// row sum of the softmax, already in fp32 and in the layout that the output needs.
#ifndef OMFUSE_FA_CUBE_H_
#define OMFUSE_FA_CUBE_H_

#include "fa_common.h"

namespace omfuse {

constexpr uint32_t kHalfL0 = 32 * 1024;  // bytes: 128 x 128 elements of two bytes

// The halves' flags, M_MTE1 and MTE1_M. TPipe itself sets M_MTE1 0 to 2 on a cube core of split
// chips, for the library's own multiplications, and waits for them at the end.
constexpr event_t kHalfFlags[2] = {EVENT_ID3, EVENT_ID4};

constexpr uint32_t kSmallProduct = 10;  // fractals

template <typename T>
class Cube {
 public:
  __aicore__ inline void Init(TPipe* pipe) {
    pipe->InitBuffer(left_, 2 * kHalfL0);
    pipe->InitBuffer(right_, 2 * kHalfL0);
    half_ = 0;
    pipe->InitBuffer(ones_, kFractal * kFractal * static_cast<uint32_t>(sizeof(T)));
    AscendC::InitConstValue(ones_.template Get<T>(),
                            AscendC::InitConstValueParams<T>(1, kFractal, 0, static_cast<T>(1.0f)));
    SetFlag<HardEvent::MTE2_MTE1>(EVENT_ID0);
    WaitFlag<HardEvent::MTE2_MTE1>(EVENT_ID0);
    for (uint32_t i = 0; i < 2; ++i) SetFlag<HardEvent::M_MTE1>(kHalfFlags[i]);
  }

  __aicore__ inline void Finish() {
    for (uint32_t i = 0; i < 2; ++i) WaitFlag<HardEvent::M_MTE1>(kHalfFlags[i]);
  }

  // Opens a half for loading.
  __aicore__ inline void Open() { WaitFlag<HardEvent::M_MTE1>(Event()); }

  // The left operand: `rows` x `columns` from column `first` of a matrix [..][pitch][16] in L1.
  __aicore__ inline void LoadLeft(const LocalTensor<T>& from, uint32_t pitch, uint32_t rows,
                                  uint32_t first, uint32_t columns) {
    const LocalTensor<T> to = left_.template Get<T>()[half_ * (kHalfL0 / sizeof(T))];
    const uint32_t across = columns / kFractal;
    const uint32_t down = pitch / kFractal;
    AscendC::LoadData2DParams params;
    params.repeatTimes = static_cast<uint8_t>(across);
    params.srcStride = static_cast<uint16_t>(down);
    params.dstGap = 0;
    params.ifTranspose = false;
    for (uint32_t row = 0; row < rows / kFractal; ++row) {
      params.startIndex = static_cast<uint16_t>(first / kFractal * down + row);
      AscendC::LoadData(to[row * across * kFractal * kFractal], from, params);
    }
  }

  // The right operand from keys: its columns are `keys` keys from `key` of [..][pitch][16] in L1,
  // its rows the matrix columns `first`.. there. It goes to element `at` of the half.
  __aicore__ inline void LoadKeys(const LocalTensor<T>& from, uint32_t pitch, uint32_t key,
                                  uint32_t keys, uint32_t first, uint32_t columns, uint32_t at) {
    const LocalTensor<T> to = right_.template Get<T>()[half_ * (kHalfL0 / sizeof(T)) + at];
    const uint32_t across = keys / kFractal;
    const uint32_t down = columns / kFractal;
    const uint32_t start = first / kFractal * (pitch / kFractal) + key / kFractal;
    AscendC::LoadData2DParams params;
    params.srcStride = 1;
    params.dstGap = 0;
    params.ifTranspose = false;
    if (keys == pitch) {
      params.startIndex = static_cast<uint16_t>(start);
      params.repeatTimes = static_cast<uint8_t>(across * down);
      AscendC::LoadData(to, from, params);
      return;
    }
    params.repeatTimes = static_cast<uint8_t>(across);
    for (uint32_t row = 0; row < down; ++row) {
      params.startIndex = static_cast<uint16_t>(start + row * (pitch / kFractal));
      AscendC::LoadData(to[row * across * kFractal * kFractal], from, params);
    }
  }

  // The right operand from values: rows are keys, columns `first`.. of [..][keys][16] in L1, and
  // behind them, if wanted, 16 columns of ones. It goes to element `at` of the half.
  __aicore__ inline void LoadValues(const LocalTensor<T>& from, uint32_t keys, uint32_t first,
                                    uint32_t columns, bool ones, uint32_t at = 0) {
    const LocalTensor<T> to = right_.template Get<T>()[half_ * (kHalfL0 / sizeof(T)) + at];
    const uint32_t across = columns / kFractal;
    const uint32_t pitch = across + (ones ? 1 : 0);
    const uint32_t down = keys / kFractal;
    AscendC::LoadData2DParams params;
    params.repeatTimes = static_cast<uint8_t>(across);
    params.srcStride = static_cast<uint16_t>(down);
    params.dstGap = 0;
    params.ifTranspose = true;
    for (uint32_t row = 0; across && row < down; ++row) {
      params.startIndex = static_cast<uint16_t>(first / kFractal * down + row);
      AscendC::LoadData(to[row * pitch * kFractal * kFractal], from, params);
    }
    if (!ones) return;
    params.startIndex = 0;
    params.repeatTimes = static_cast<uint8_t>(down);
    params.srcStride = 0;  // the same fractal for every row
    params.dstGap = static_cast<uint16_t>(pitch - 1);
    params.ifTranspose = false;
    AscendC::LoadData(to[across * kFractal * kFractal], ones_.template Get<T>(), params);
  }

  // Ends loading the open half; it can be multiplied from then on.
  __aicore__ inline void Close() {
    SetFlag<HardEvent::MTE1_M>(Event());
    WaitFlag<HardEvent::MTE1_M>(Event());
  }

  // Multiplies the left operand by the right one at element `at` of the closed half.
  __aicore__ inline void Multiply(const LocalTensor<float>& to, uint32_t rows, uint32_t columns,
                                  uint32_t depth, bool fresh, uint32_t at = 0) {
    AscendC::MmadParams params;
    params.m = static_cast<uint16_t>(rows);
    params.n = static_cast<uint16_t>(columns);
    params.k = static_cast<uint16_t>(depth);
    params.cmatrixSource = false;
    params.cmatrixInitVal = fresh;
    const uint32_t begin = half_ * (kHalfL0 / sizeof(T));
    AscendC::Mmad(to, left_.template Get<T>()[begin], right_.template Get<T>()[begin + at], params);
    // A product of few fractals is not there yet when the next one could add to it.
    if (rows / kFractal * (columns / kFractal) < kSmallProduct) PipeBarrier<PIPE_M>();
  }

  // Hands the half back and turns to the other one.
  __aicore__ inline void Release() {
    SetFlag<HardEvent::M_MTE1>(Event());
    half_ ^= 1;
  }

 private:
  __aicore__ inline event_t Event() const { return kHalfFlags[half_]; }

  TBuf<TPosition::A2> left_;
  TBuf<TPosition::B2> right_;
  TBuf<TPosition::B1> ones_;
  uint32_t half_;
};

}  // namespace omfuse

#endif  // OMFUSE_FA_CUBE_H_
