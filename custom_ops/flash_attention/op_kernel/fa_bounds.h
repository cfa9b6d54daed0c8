// Causal and window bounds.
//
// On columns of 16 rows lie side by side, so above a diagonal whole rows of a column are one range,
// and the diagonal itself always is the same 16 x 16 triangle: a fill and a minimum at any offset.
#ifndef OMFUSE_FA_BOUNDS_H_
#define OMFUSE_FA_BOUNDS_H_

#include "fa_schedule.h"
#include "fa_vector.h"

namespace omfuse {

class Bounds {
 public:
  // `drop`: the score of a key that a row may not see.
  __aicore__ inline void Init(TPipe* pipe, const FlashAttentionTiling* tiling, float drop) {
    tiling_ = tiling;
    drop_ = drop;
    if (tiling->causal != kCausalNone || tiling->windowRight >= 0) {
      pipe->InitBuffer(above_, kFractal * kFractal * sizeof(float));
      MakeTriangle(above_.Get<float>(), drop_, Infinity());
    }
    if (tiling->windowLeft >= 0) {
      pipe->InitBuffer(below_, kFractal * kFractal * sizeof(float));
      MakeTriangle(below_.Get<float>(), Infinity(), drop_);
    }
  }

  // `first`: row in the unit of the first row of the group.
  __aicore__ inline void Apply(const LocalTensor<float>& scores, const Step& step, uint32_t first,
                               uint32_t rows) {
    if (tiling_->causal == kCausalNone && tiling_->windowRight < 0 && tiling_->windowLeft < 0) {
      return;
    }
    // Packed rows are one run of queries after another, a head each.
    for (uint32_t row = 0; row < rows;) {
      uint32_t query = first + row;
      uint32_t end = rows;
      if (tiling_->packed) {
        query = (first + row) % tiling_->qLen;
        end = Smaller(rows, row + tiling_->qLen - query);
      }
      ApplyBounds(scores, step, query, row, end, rows);
      row = end;
    }
  }

 private:
  // Row i: `left` in the first i lanes, `right` in the others.
  __aicore__ inline void MakeTriangle(const LocalTensor<float>& to, float right, float left) {
    AscendC::Duplicate(to, right, static_cast<int32_t>(kFractal * kFractal));
    Barrier();
    for (uint32_t row = 1; row < kFractal; ++row) {
      uint64_t mask[2] = {(1ull << row) - 1, 0};
      AscendC::Duplicate(to[row * kFractal], left, mask, 1, 1, 8);
    }
    Barrier();
  }

  // Bounds of the rows [from, to) of the group, whose first query is `query`.
  __aicore__ inline void ApplyBounds(const LocalTensor<float>& scores, const Step& step,
                                     uint32_t query, uint32_t from, uint32_t to, uint32_t rows) {
    const FlashAttentionTiling& t = *tiling_;
    int64_t position = static_cast<int64_t>(query) - from - step.begin;  // of row 0, as a column
    if (t.causal == kCausalBottomRight) position += static_cast<int64_t>(step.valid) - t.qLen;
    if (t.causal != kCausalNone) Upper(scores, position + 1, from, to, rows, step.countPad);
    if (t.windowRight >= 0) {
      Upper(scores, position + t.windowRight + 1, from, to, rows, step.countPad);
    }
    if (t.windowLeft >= 0) {
      Lower(scores, position - t.windowLeft, from, to, rows, step.countPad);
    }
  }

  // Row x keeps columns below bound + x.
  __aicore__ inline void Upper(const LocalTensor<float>& scores, int64_t bound, uint32_t from,
                               uint32_t to, uint32_t rows, uint32_t columns) {
    const uint32_t start = static_cast<uint32_t>(Most(0, bound + from) / kFractal);
    for (uint32_t j = start; j < columns / kFractal; ++j) {
      const int64_t left = static_cast<int64_t>(j) * kFractal - bound;  // x <= left: all dropped
      const uint32_t cut = static_cast<uint32_t>(Most(from, Least(to, left + 1)));
      const uint32_t end = static_cast<uint32_t>(Most(cut, Least(to, left + kFractal)));
      const LocalTensor<float> column = scores[j * rows * kFractal];
      if (cut > from) {
        AscendC::Duplicate(column[from * kFractal], drop_,
                           static_cast<int32_t>((cut - from) * kFractal));
      }
      if (end > cut) {
        const uint32_t row = static_cast<uint32_t>(static_cast<int64_t>(cut) - left);
        const LocalTensor<float> part = column[cut * kFractal];
        AscendC::Min(part, part, above_.Get<float>()[row * kFractal],
                     static_cast<int32_t>((end - cut) * kFractal));
      }
    }
    Barrier();
  }

  // Row x keeps columns from bound + x on.
  __aicore__ inline void Lower(const LocalTensor<float>& scores, int64_t bound, uint32_t from,
                               uint32_t to, uint32_t rows, uint32_t columns) {
    for (uint32_t j = 0; j < columns / kFractal; ++j) {
      const int64_t left = static_cast<int64_t>(j) * kFractal - bound;  // x <= left: all kept
      if (left >= static_cast<int64_t>(to)) break;
      const uint32_t cut = static_cast<uint32_t>(Most(from, left + 1));
      const uint32_t end = static_cast<uint32_t>(Most(cut, Least(to, left + kFractal)));
      const LocalTensor<float> column = scores[j * rows * kFractal];
      if (end > cut) {
        const uint32_t row = static_cast<uint32_t>(static_cast<int64_t>(cut) - left);
        const LocalTensor<float> part = column[cut * kFractal];
        AscendC::Min(part, part, below_.Get<float>()[row * kFractal],
                     static_cast<int32_t>((end - cut) * kFractal));
      }
      if (to > end) {
        AscendC::Duplicate(column[end * kFractal], drop_,
                           static_cast<int32_t>((to - end) * kFractal));
      }
    }
    Barrier();
  }

  const FlashAttentionTiling* tiling_;
  float drop_;
  TBuf<TPosition::VECCALC> above_, below_;
};

}  // namespace omfuse

#endif  // OMFUSE_FA_BOUNDS_H_
