// A vector core of split chips: softmax and output of half of the rows.
#ifndef OMFUSE_FA_VECTOR_CORE_H_
#define OMFUSE_FA_VECTOR_CORE_H_

#include "fa_output.h"
#include "fa_slots.h"

#if OMFUSE_FA_SPLIT

namespace omfuse {

// Each of the two vector cores takes half of the rows.
template <typename T>
class VectorCore {
 public:
  __aicore__ inline void Run(TPipe* pipe, const FlashAttentionTiling* tiling, const Inputs& in,
                             uint32_t core, uint32_t side) {
    tiling_ = tiling;
    side_ = side;
    slots_.Init(*tiling, in.workspace, core);
    const uint32_t coreRows = tiling->blockRows / 2;
    const uint32_t cells = tiling->groupRows * tiling->stepColumns;
    pipe->InitBuffer(scores_, 2, cells * static_cast<uint32_t>(sizeof(float)));
    pipe->InitBuffer(probs_, 2, cells * static_cast<uint32_t>(sizeof(T)));
    pipe->InitBuffer(parts_, 2,
                     tiling->chunkRows * (tiling->valuePad + kFractal) *
                                static_cast<uint32_t>(sizeof(float)));
    softmax_.Init(pipe, tiling, in, coreRows);
    output_.Init(pipe, tiling, in, coreRows);

    StepWalker walker;
    walker.Init(tiling, in.kvLengths, core);
    Step steps[kSlots];
    bool more = walker.Next(&steps[0]);
    if (more) Announce(steps[0]);
    uint32_t end = more ? 1 : 0;
    for (uint32_t i = 0; i < end + 1; ++i) {
      if (i < end) {
        ComputeProbs(steps[i % kSlots]);
        AscendC::CrossCoreSetFlag<2, PIPE_MTE3>(kProbsReady);
      }
      if (more) more = walker.Next(&steps[(i + 1) % kSlots]);
      if (more) {  // its scores are on the way while the part below is added
        Announce(steps[(i + 1) % kSlots]);
        end = i + 2;
      }
      if (i >= 1 && i - 1 < end) {
        AscendC::CrossCoreWaitFlag(kPartsReady);
        AddPart(steps[(i - 1) % kSlots]);
      }
    }
  }

 private:
  __aicore__ inline uint32_t Rows(const Step& step) const { return step.rowsPad / 2; }
  __aicore__ inline uint32_t Offset(const Step& step) const { return side_ * Rows(step); }

  // Waits for the scores of a step and starts to load its first rows.
  __aicore__ inline void Announce(const Step& step) {
    AscendC::CrossCoreWaitFlag(kScoresReady);
    LoadScores(step, 0);
  }

  __aicore__ inline void LoadScores(const Step& step, uint32_t row) {
    const uint32_t rows = Smaller(tiling_->groupRows, Rows(step) - row);
    LocalTensor<float> scores = scores_.template AllocTensor<float>();
    const AscendC::DataCopyParams params(static_cast<uint16_t>(step.countPad / kFractal),
                                         static_cast<uint16_t>(rows * 2),
                                         static_cast<uint16_t>((step.rowsPad - rows) * 2), 0);
    AscendC::DataCopy(scores, slots_.scores[step.slot][(Offset(step) + row) * kFractal], params);
    scores_.EnQue(scores);
  }

  __aicore__ inline void ComputeProbs(const Step& step) {
    const uint32_t held = Rows(step);
    const uint32_t coreFirst = step.firstRow + Offset(step);
    if (step.first) softmax_.Start(step, coreFirst, held);
    for (uint32_t row = 0; row < held; row += tiling_->groupRows) {
      const uint32_t rows = Smaller(tiling_->groupRows, held - row);
      if (row + rows < held) LoadScores(step, row + rows);
      LocalTensor<float> scores = scores_.template DeQue<float>();
      LocalTensor<T> probs = probs_.template AllocTensor<T>();
      softmax_.Process(scores, probs, step, coreFirst, row, rows);
      scores_.FreeTensor(scores);
      probs_.EnQue(probs);
      probs = probs_.template DeQue<T>();
      const AscendC::DataCopyParams params(static_cast<uint16_t>(step.countPad / kFractal),
                                           static_cast<uint16_t>(rows), 0,
                                           static_cast<uint16_t>(step.rowsPad - rows));
      AscendC::DataCopy(slots_.probs[step.slot][(Offset(step) + row) * kFractal], probs, params);
      probs_.FreeTensor(probs);
    }
  }

  __aicore__ inline void LoadPart(const Step& step, uint32_t row) {
    const uint32_t rows = Smaller(tiling_->chunkRows, Rows(step) - row);
    LocalTensor<float> part = parts_.template AllocTensor<float>();
    const AscendC::DataCopyParams params(static_cast<uint16_t>(tiling_->valuePad / kFractal + 1),
                                         static_cast<uint16_t>(rows * 2),
                                         static_cast<uint16_t>((step.rowsPad - rows) * 2), 0);
    AscendC::DataCopy(part, slots_.parts[step.slot][(Offset(step) + row) * kFractal], params);
    parts_.EnQue(part);
  }

  __aicore__ inline void AddPart(const Step& step) {
    const uint32_t held = Rows(step);
    LoadPart(step, 0);
    if (step.first) output_.Start(step);
    for (uint32_t row = 0; row < held; row += tiling_->chunkRows) {
      const uint32_t rows = Smaller(tiling_->chunkRows, held - row);
      if (row + rows < held) LoadPart(step, row + rows);
      LocalTensor<float> part = parts_.template DeQue<float>();
      output_.Accumulate(part, softmax_.Alpha(step), row, rows);
      parts_.FreeTensor(part);
    }
    if (!step.last) return;
    const uint32_t offset = Offset(step);
    const uint32_t valid = step.rows > offset ? Smaller(held, step.rows - offset) : 0;
    output_.Finish(step, softmax_.Max(step), step.firstRow + offset, held, valid);
  }

  const FlashAttentionTiling* tiling_;
  uint32_t side_;
  Slots<T> slots_;
  TQue<TPosition::VECIN, 2> scores_, parts_;
  TQue<TPosition::VECOUT, 1> probs_;
  Softmax<T> softmax_;
  Output<T> output_;
};

}  // namespace omfuse

#endif  // OMFUSE_FA_SPLIT
#endif  // OMFUSE_FA_VECTOR_CORE_H_
