// Bias, boolean mask, bounds, and the keys that do not exist.
//
// Masking is a minimum with a tensor of +inf (keep) and the mask value (drop), or a fill where a
// whole range goes.
#ifndef OMFUSE_FA_MASK_H_
#define OMFUSE_FA_MASK_H_

#include "fa_bounds.h"

namespace omfuse {

template <typename T>
class Mask {
 public:
  __aicore__ inline void Init(TPipe* pipe, const FlashAttentionTiling* tiling, const Inputs& in) {
    tiling_ = tiling;
    drop_ = tiling->maskedRows == kRowsUniform ? Lowest() : MinusInfinity();
    const uint32_t cells = tiling->groupRows * RoundUp(tiling->stepColumns, 32);
    bias_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(in.bias));
    biasBits_.SetGlobalBuffer(reinterpret_cast<__gm__ uint16_t*>(in.bias));
    biasWide_.SetGlobalBuffer(reinterpret_cast<__gm__ float*>(in.bias));
    mask_.SetGlobalBuffer(reinterpret_cast<__gm__ uint8_t*>(in.mask));
    const bool biasRows = tiling->bias && !tiling->biasPerRow;
    const bool maskRows = tiling->mask && !tiling->maskPerRow;
    if (biasRows) {
      pipe->InitBuffer(rows_, 1, cells * (tiling->bias == kFloat32 ? 4 : 2));
    }
    if (maskRows) {
      pipe->InitBuffer(bits_, 1, cells);
      pipe->InitBuffer(halves_, cells * sizeof(half));
      pipe->InitBuffer(sorted_, cells * sizeof(half));
    }
    if (maskRows || (biasRows && tiling->bias == kSameType)) {
      pipe->InitBuffer(wide_, cells * sizeof(float));
    }
    if (tiling->biasPerRow || tiling->maskPerRow) {
      pipe->InitBuffer(perRow_, tiling->groupRows * kFractal * sizeof(float));
    }
    bounds_.Init(pipe, tiling, drop_);
  }

  // `first`: row in the unit of the first row of the group.
  __aicore__ inline void Apply(const LocalTensor<float>& scores, const Step& step, uint32_t first,
                               uint32_t rows) {
    if (tiling_->biasPerRow) {
      AddBiasPerRow(scores, step, first, rows);
    } else if (tiling_->bias) {
      AddBias(scores, step, first, rows);
    }
    if (tiling_->maskPerRow) {
      ApplyMaskPerRow(scores, step, first, rows);
    } else if (tiling_->mask) {
      ApplyMask(scores, step, first, rows);
    }
    bounds_.Apply(scores, step, first, rows);
    const int64_t kept = static_cast<int64_t>(step.valid) - step.begin;
    if (kept < step.count) {
      FillColumns(scores, static_cast<uint32_t>(Most(0, kept)), step.countPad, rows, drop_);
      Barrier();
    }
    if (step.count < step.countPad) {
      FillColumns(scores, step.count, step.countPad, rows, MinusInfinity());
      Barrier();
    }
  }

 private:
  // The head and query of a row of the unit, for tensors in global memory; rows that do not exist
  // read what the last one reads.
  __aicore__ inline uint64_t RowOffset(const Step& step, uint32_t row, uint64_t batch,
                                       uint64_t head, uint64_t query) const {
    row = Smaller(row, step.firstRow + step.rows - 1);
    uint64_t headIndex = step.unit;
    if (tiling_->packed) {
      headIndex = step.kvHead * tiling_->group + row / tiling_->qLen;
      row %= tiling_->qLen;
    }
    return step.batch * batch + headIndex * head + row * query;
  }

  // One row of `count` elements to blocks of 32 bytes, `gap` blocks apart.
  template <typename U>
  __aicore__ inline void ScatterRow(const LocalTensor<U>& to, const GlobalTensor<U>& from,
                                    uint32_t count, uint32_t blocks, uint32_t gap) {
    const uint32_t each = blocks * 32 / sizeof(U);  // elements a piece
#if OMFUSE_FA_SPLIT
    const uint32_t whole = count / each;
    const AscendC::DataCopyPadExtParams<U> pad(false, 0, 0, static_cast<U>(0));
    if (whole) {
      const AscendC::DataCopyExtParams params(static_cast<uint16_t>(whole), blocks * 32, 0, gap, 0);
      AscendC::DataCopyPad(to, from, params, pad);
    }
    const uint32_t rest = count - whole * each;
    if (rest) {
      const AscendC::DataCopyExtParams params(1, rest * static_cast<uint32_t>(sizeof(U)), 0, 0, 0);
      AscendC::DataCopyPad(to[whole * (blocks + gap) * (32 / sizeof(U))], from[whole * each],
                           params, pad);
    }
#else
    // Reads up to 31 bytes beyond the row: of the next row, or of the slack that the device
    // allocator leaves behind every tensor. What is read there is masked below.
    const AscendC::DataCopyParams params(static_cast<uint16_t>(CeilDiv(count, each)),
                                         static_cast<uint16_t>(blocks), 0,
                                         static_cast<uint16_t>(gap));
    AscendC::DataCopy(to, from, params);
#endif
  }

  __aicore__ inline void AddBias(const LocalTensor<float>& scores, const Step& step, uint32_t first,
                                 uint32_t rows) {
    const int32_t all = static_cast<int32_t>(step.countPad * rows);
    const FlashAttentionTiling& t = *tiling_;
    if (t.bias == kFloat32) {
      LocalTensor<float> loaded = rows_.template AllocTensor<float>();
      for (uint32_t row = 0; row < rows; ++row) {
        const uint64_t at =
            RowOffset(step, first + row, t.biasBatchStride, t.biasHeadStride, t.biasRowStride) +
            step.begin;
        ScatterRow(loaded[row * kFractal], biasWide_[at], step.count, 2, (rows - 1) * 2);
      }
      rows_.EnQue(loaded);
      loaded = rows_.template DeQue<float>();
      SettleTail(loaded, step, rows);
      AscendC::Add(scores, scores, loaded, all);
      Barrier();
      rows_.FreeTensor(loaded);
      return;
    }
    LocalTensor<T> loaded = rows_.template AllocTensor<T>();
    for (uint32_t row = 0; row < rows; ++row) {
      const uint64_t at =
          RowOffset(step, first + row, t.biasBatchStride, t.biasHeadStride, t.biasRowStride) +
          step.begin;
      ScatterRow(loaded[row * kFractal], bias_[at], step.count, 1, rows - 1);
    }
    rows_.EnQue(loaded);
    loaded = rows_.template DeQue<T>();
    const LocalTensor<float> wide = wide_.Get<float>();
    AscendC::Cast(wide, loaded, RoundMode::CAST_NONE, static_cast<uint32_t>(all));
    Barrier();
    rows_.FreeTensor(loaded);
    AscendC::Add(scores, scores, wide, all);
    Barrier();
  }

  // The last piece of fp32 rows may be a single block; give the other one a value.
  __aicore__ inline void SettleTail(const LocalTensor<float>& loaded, const Step& step,
                                    uint32_t rows) {
    if (step.count == step.countPad) return;
    FillColumns(loaded, step.count, step.countPad, rows, 0.0f);
    Barrier();
  }

  __aicore__ inline void ApplyMask(const LocalTensor<float>& scores, const Step& step,
                                   uint32_t first, uint32_t rows) {
    const FlashAttentionTiling& t = *tiling_;
    LocalTensor<uint8_t> loaded = bits_.template AllocTensor<uint8_t>();
    // One row for all queries of a head is read once, and spread by a block stride of 0 below.
    const bool shared = t.maskRowStride == 0 && (!t.packed || t.maskHeadStride == 0);
    const uint32_t lines = shared ? 1 : rows;
    for (uint32_t row = 0; row < lines; ++row) {
      const uint64_t at =
          RowOffset(step, first + row, t.maskBatchStride, t.maskHeadStride, t.maskRowStride) +
          step.begin;
      ScatterRow(loaded[row * 32], mask_[at], step.count, 1, lines - 1);
    }
    bits_.EnQue(loaded);
    loaded = bits_.template DeQue<uint8_t>();
    const uint32_t pairs = CeilDiv(step.count, 32);
    const LocalTensor<half> halves = halves_.Get<half>();
    const LocalTensor<half> sorted = sorted_.Get<half>();
    const LocalTensor<float> wide = wide_.Get<float>();
    AscendC::Cast(halves, loaded, RoundMode::CAST_NONE, pairs * lines * 32);
    Barrier();
    bits_.FreeTensor(loaded);
    // [column / 32][row][2][16] to [column / 16][row][16], and 0 or 1 to -0.5 or 0.5.
    const half shift = static_cast<half>(-0.5f);
    const AscendC::UnaryRepeatParams params(1, shared ? 0 : 2, static_cast<uint8_t>(rows * 2),
                                            static_cast<uint8_t>(lines * 2));
    const uint64_t lanes = 2 * kRepeat;
    for (uint32_t side = 0; side < 2; ++side) {
      for (uint32_t row = 0; row < rows; row += 8) {
        AscendC::Adds(sorted[(side * rows + row) * kFractal],
                      halves[(shared ? 0 : row * 32) + side * kFractal], shift, lanes,
                      static_cast<uint8_t>(pairs), params);
      }
    }
    Barrier();
    const int32_t all = static_cast<int32_t>(step.countPad * rows);
    AscendC::Cast(wide, sorted, RoundMode::CAST_NONE, static_cast<uint32_t>(all));
    Barrier();
    AscendC::Muls(wide, wide, Infinity(), all);
    Barrier();
    if (drop_ != MinusInfinity()) {
      AscendC::Maxs(wide, wide, drop_, all);
      Barrier();
    }
    AscendC::Min(scores, scores, wide, all);
    Barrier();
  }

  // One value for all keys of a row: read by the scalar unit, spread over the columns here.
  __aicore__ inline void AddBiasPerRow(const LocalTensor<float>& scores, const Step& step,
                                       uint32_t first, uint32_t rows) {
    const FlashAttentionTiling& t = *tiling_;
    const LocalTensor<float> values = perRow_.Get<float>();
    for (uint32_t row = 0; row < rows; ++row) {
      const uint64_t at =
          RowOffset(step, first + row, t.biasBatchStride, t.biasHeadStride, t.biasRowStride);
      const float value =
          t.bias == kFloat32 ? biasWide_.GetValue(at) : FromHalfBits<T>(biasBits_.GetValue(at));
      AscendC::Duplicate(values[row * kFractal], value, static_cast<int32_t>(kFractal));
    }
    Barrier();
    const uint32_t column = rows * kFractal;
    for (uint32_t j = 0; j < step.countPad / kFractal; ++j) {
      const LocalTensor<float> part = scores[j * column];
      AscendC::Add(part, part, values, static_cast<int32_t>(column));
    }
    Barrier();
  }

  __aicore__ inline void ApplyMaskPerRow(const LocalTensor<float>& scores, const Step& step,
                                         uint32_t first, uint32_t rows) {
    const FlashAttentionTiling& t = *tiling_;
    const LocalTensor<float> values = perRow_.Get<float>();
    for (uint32_t row = 0; row < rows; ++row) {
      const uint64_t at =
          RowOffset(step, first + row, t.maskBatchStride, t.maskHeadStride, t.maskRowStride);
      AscendC::Duplicate(values[row * kFractal], mask_.GetValue(at) ? Infinity() : drop_,
                         static_cast<int32_t>(kFractal));
    }
    Barrier();
    const uint32_t column = rows * kFractal;
    for (uint32_t j = 0; j < step.countPad / kFractal; ++j) {
      const LocalTensor<float> part = scores[j * column];
      AscendC::Min(part, part, values, static_cast<int32_t>(column));
    }
    Barrier();
  }

  const FlashAttentionTiling* tiling_;
  float drop_;
  GlobalTensor<T> bias_;
  GlobalTensor<uint16_t> biasBits_;
  GlobalTensor<float> biasWide_;
  GlobalTensor<uint8_t> mask_;
  TQue<TPosition::VECIN, 1> rows_, bits_;
  TBuf<TPosition::VECCALC> halves_, sorted_, wide_, perRow_;
  Bounds bounds_;
};

}  // namespace omfuse

#endif  // OMFUSE_FA_MASK_H_
