// The online softmax of one step on a group of rows.
//
// For each row it keeps the largest score so far (m; of unscaled scores where the scale is late); a
// step gives alpha = exp(m_before - m_after), by which the output so far shrinks. m starts finite,
// so that a row in which everything is masked (-inf) gives exp(-inf) = 0 and not NaN. The sum of
// exp(score - m) that divides the output is not taken here: the cube adds the probabilities up, as
// a column of the output (see fa_cube.h).
#ifndef OMFUSE_FA_SOFTMAX_H_
#define OMFUSE_FA_SOFTMAX_H_

#include "fa_mask.h"
#include "fa_vector.h"

namespace omfuse {

// The sink belongs to the first part of the keys.
__aicore__ inline bool StartsWithSink(const FlashAttentionTiling& tiling, const Step& step) {
  return tiling.sink && step.part == 0;
}

// Scratch of the row maxima.
__aicore__ inline uint32_t WorkBytes(const FlashAttentionTiling& t) {
  const uint32_t partial = t.stepColumns / kFractal * t.groupRows * 8;
  return t.groupRows <= kFractal && partial < t.groupRows * 256 ? t.groupRows * 256 : partial;
}

template <typename T>
class Softmax {
 public:
  // `coreRows`: rows of a task on this core.
  __aicore__ inline void Init(TPipe* pipe, const FlashAttentionTiling* tiling, const Inputs& in,
                              uint32_t coreRows) {
    tiling_ = tiling;
    coreRows_ = coreRows;
    pipe->InitBuffer(max_, kSlots * coreRows * 32);
    pipe->InitBuffer(alpha_, kSlots * coreRows * 32);
    if (tiling->lse) pipe->InitBuffer(sums_, kSlots * coreRows * 32);
    const uint32_t rows = tiling->groupRows;
    pipe->InitBuffer(work_, WorkBytes(*tiling));
    pipe->InitBuffer(pairs_, rows * 64);
    pipe->InitBuffer(wide_, rows * 64);
    pipe->InitBuffer(narrow_, rows * 32);
    // Where nothing comes between scale and maximum, the scale is applied while the maximum is
    // subtracted: one pass less. Only the uniform policy's finite mask value would not survive it.
    late_ = tiling->softcap <= 0.0f && !tiling->bias && tiling->scale > 0.0f &&
            tiling->maskedRows != kRowsUniform;
    pipe->InitBuffer(factor_, 32);
    AscendC::Duplicate(factor_.Get<float>(), late_ ? tiling->scale : 1.0f, 8);
    if (tiling->softcap > 0.0f) pipe->InitBuffer(constant_, 32);
    if (tiling->sink) sink_.SetGlobalBuffer(reinterpret_cast<__gm__ uint16_t*>(in.sink));
    if (tiling->sink) sinkWide_.SetGlobalBuffer(reinterpret_cast<__gm__ float*>(in.sink));
    if (tiling->softcap > 0.0f) AscendC::Duplicate(constant_.Get<float>(), 2.0f, 8);
    mask_.Init(pipe, tiling, in);
  }

  __aicore__ inline LocalTensor<float> Max(const Step& step) {
    return max_.Get<float>()[step.turn % kSlots * coreRows_ * kLane];
  }
  __aicore__ inline LocalTensor<float> Alpha(const Step& step) {
    return alpha_.Get<float>()[step.slot * coreRows_ * kLane];
  }

  // Sums of exp(score - m), only where lse is wanted: in fp32, finer than those of the cube, which
  // sums probabilities rounded to the type of the output.
  __aicore__ inline LocalTensor<float> Sums(const Step& step) {
    return sums_.Get<float>()[step.turn % kSlots * coreRows_ * kLane];
  }

  // Ends a task of `rows` rows: its maxima become those of scaled scores.
  __aicore__ inline void Settle(const Step& step, uint32_t rows) {
    if (!late_) return;
    const LocalTensor<float> max = Max(step);
    AscendC::Muls(max, max, tiling_->scale, static_cast<int32_t>(rows * kLane));
    Barrier();
  }

  // Starts a task: nothing seen, or the sink, which is a score without a value.
  __aicore__ inline void Start(const Step& step, uint32_t coreFirst, uint32_t rows) {
    const LocalTensor<float> max = Max(step);
    if (tiling_->lse) {
      AscendC::Duplicate(Sums(step), StartsWithSink(*tiling_, step) ? 1.0f : 0.0f,
                         static_cast<int32_t>(rows * kLane));
    }
    if (!StartsWithSink(*tiling_, step)) {
      AscendC::Duplicate(max, Floor(), static_cast<int32_t>(rows * kLane));
    } else if (!tiling_->packed) {
      AscendC::Duplicate(max, SinkOf(step.unit), static_cast<int32_t>(rows * kLane));
    } else {
      for (uint32_t row = 0; row < rows;) {
        const uint32_t head = Smaller((coreFirst + row) / tiling_->qLen, tiling_->group - 1);
        const uint32_t end = head + 1 == tiling_->group
                                 ? rows
                                 : Smaller(rows, (head + 1) * tiling_->qLen - coreFirst);
        AscendC::Duplicate(max[row * kLane], SinkOf(step.kvHead * tiling_->group + head),
                           static_cast<int32_t>((end - row) * kLane));
        row = end;
      }
    }
    Barrier();
  }

  // Scores [countPad / 16][rows][16] of `rows` rows from `row` of this core become probabilities,
  // not yet divided by their sum, in place.
  __aicore__ inline void Process(const LocalTensor<float>& scores, const Step& step,
                                 uint32_t coreFirst, uint32_t row, uint32_t rows) {
    const int32_t all = static_cast<int32_t>(step.countPad * rows);
    if (!late_) Scale(scores, all);
    mask_.Apply(scores, step, coreFirst + row, rows);

    const LocalTensor<float> max = Max(step)[row * kLane];
    const LocalTensor<float> alpha = Alpha(step)[row * kLane];
    const LocalTensor<float> narrow = narrow_.Get<float>();
    const LocalTensor<float> wide = wide_.Get<float>();
    const LocalTensor<float> work = work_.Get<float>();
    const LocalTensor<float> pairs = pairs_.Get<float>();
    const int32_t stats = static_cast<int32_t>(rows * kLane);

    MaxRows(narrow, scores, work, pairs, step.countPad, rows);
    AscendC::Max(narrow, narrow, max, stats);
    Barrier();
    AscendC::Sub(alpha, max, narrow, stats);
    Widen(wide, narrow, rows, late_ ? -tiling_->scale : -1.0f);
    Barrier();
    if (late_) AscendC::Muls(alpha, alpha, tiling_->scale, stats);
    ScaleAndSubtract(scores, factor_.Get<float>(), wide, step.countPad, rows);
    AscendC::Adds(max, narrow, 0.0f, stats);
    Barrier();
    AscendC::Exp(alpha, alpha, stats);
    AscendC::Exp(scores, scores, all);
    Barrier();
    if (!tiling_->lse) return;
    const LocalTensor<float> sums = Sums(step)[row * kLane];
    ReduceRows<Sum>(narrow, scores, work, pairs, step.countPad, rows);
    AscendC::FusedMulAdd(sums, alpha, narrow, stats);
    Barrier();
  }

 private:
  // Where a maximum starts: below every score, above what a masked key gets. 310P turns infinities
  // into the largest number, so a gap is left there.
  __aicore__ inline float Floor() const {
    return OMFUSE_FA_SPLIT || tiling_->maskedRows == kRowsUniform ? Lowest() : -1.0e20f;
  }

  // A sink as a score of the matrix at hand, which may still lack the scale.
  __aicore__ inline float SinkOf(uint32_t head) {
    const float sink = tiling_->sink == kFloat32 ? sinkWide_.GetValue(head)
                                                 : FromHalfBits<T>(sink_.GetValue(head));
    return late_ ? sink / tiling_->scale : sink;
  }

  // softcap * tanh(z / softcap) as softcap * (1 - 2 / (exp(2 z / softcap) + 1)).
  __aicore__ inline void Scale(const LocalTensor<float>& scores, int32_t all) {
    const float cap = tiling_->softcap;
    if (cap <= 0.0f) {
      if (tiling_->scale != 1.0f) {
        AscendC::Muls(scores, scores, tiling_->scale, all);
        Barrier();
      }
      return;
    }
    AscendC::Muls(scores, scores, 2.0f * tiling_->scale / cap, all);
    Barrier();
    AscendC::Exp(scores, scores, all);
    Barrier();
    AscendC::Adds(scores, scores, 1.0f, all);
    Barrier();
    const AscendC::BinaryRepeatParams params(1, 0, 1, 8, 0, 8);
    const uint32_t repeats = static_cast<uint32_t>(all) / kRepeat;
    const uint64_t lanes = kRepeat;
    for (uint32_t done = 0; done < repeats; done += kMaxRepeats) {
      const LocalTensor<float> part = scores[done * kRepeat];
      AscendC::Div(part, constant_.Get<float>(), part, lanes,
                   static_cast<uint8_t>(Smaller(kMaxRepeats, repeats - done)), params);
    }
    Barrier();
    AscendC::Muls(scores, scores, -cap, all);
    Barrier();
    AscendC::Adds(scores, scores, cap, all);
    Barrier();
  }

  const FlashAttentionTiling* tiling_;
  uint32_t coreRows_;
  bool late_;
  GlobalTensor<uint16_t> sink_;
  GlobalTensor<float> sinkWide_;
  TBuf<TPosition::VECCALC> max_, alpha_, sums_, work_, pairs_, wide_, narrow_, factor_, constant_;
  Mask<T> mask_;
};

}  // namespace omfuse

#endif  // OMFUSE_FA_SOFTMAX_H_
