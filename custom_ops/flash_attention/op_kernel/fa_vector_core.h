// A vector core of split chips: softmax and output of half of the rows.
//
// Its work is one sequence of items: for each i the row groups of step i (scores to probabilities),
// then the row chunks of step i - 3 (parts into the output). A second cursor walks the same sequence
// two items ahead and starts the loads, so that the latency of global memory is hidden. The lag of
// three steps gives the cube core time to finish a part before anyone asks for it.
#ifndef OMFUSE_FA_VECTOR_CORE_H_
#define OMFUSE_FA_VECTOR_CORE_H_

#include "fa_output.h"
#include "fa_slots.h"
#include "fa_split.h"

#if OMFUSE_FA_SPLIT

namespace omfuse {

constexpr uint32_t kAhead = 2;  // items

template <typename T>
class VectorCore {
 public:
  // `side`: 0 or 1, which half of the rows.
  __aicore__ inline void Run(TPipe* pipe, const FlashAttentionTiling* tiling, const Inputs& in,
                             uint32_t core, uint32_t side) {
    tiling_ = tiling;
    side_ = side;
    slots_.Init(*tiling, in.workspace, core);
    const uint32_t coreRows = tiling->blockRows / 2;
    const uint32_t cells = tiling->groupRows * tiling->stepColumns;
    pipe->InitBuffer(loaded_, kAhead + 1, cells * static_cast<uint32_t>(sizeof(float)));
    pipe->InitBuffer(probs_, 1, cells * static_cast<uint32_t>(sizeof(T)));
    combiner_.Init(tiling, in.workspace);
    softmax_.Init(pipe, tiling, in, coreRows);
    output_.Init(pipe, tiling, in, coreRows);
    walker_.Init(tiling, in.kvLengths, core);
    OpenIteration();
    for (now_ = 0; now_ < end_ + kLag; ++now_) {
      if (now_ < end_) {
        ComputeProbs(ring_[now_ % kRing]);
        AscendC::CrossCoreSetFlag<2, PIPE_MTE3>(kProbsReady);
      }
      if (now_ >= kLag) AddPart(ring_[(now_ - kLag) % kRing]);
    }
    if (tiling->splits > 1) {
      AscendC::SyncAll<true>();
      combiner_.Combine(&softmax_, &output_, loaded_, core * 2 + side);
    }
  }

 private:
  __aicore__ inline uint32_t Rows(const Step& step) const { return step.rowsPad / 2; }
  __aicore__ inline uint32_t Offset(const Step& step) const { return side_ * Rows(step); }

  // Moves the loading cursor to the first item of iteration `at_`.
  __aicore__ inline void OpenIteration() {
    row_ = 0;
    inScores_ = more_ && walker_.Next(&ring_[at_ % kRing]);
    if (inScores_) {
      end_ = at_ + 1;
    } else {
      more_ = false;
    }
  }

  // Starts loads until as many are on the way as there are buffers. Never so far ahead that
  // the cube core would first need probabilities that this core has not yet handed over.
  __aicore__ inline void Load() {
    while (flying_ <= kAhead && end_ > 0 && at_ + 1 < now_ + kLag && at_ < end_ + kLag) {
      if (inScores_ || at_ >= kLag) {
        LoadOne();
      } else {  // an iteration without scores and parts
        ++at_;
        OpenIteration();
      }
    }
  }

  __aicore__ inline void LoadOne() {
    const Step& step = ring_[(inScores_ ? at_ : at_ - kLag) % kRing];
    if (row_ == 0) AscendC::CrossCoreWaitFlag(inScores_ ? kScoresReady : kPartsReady);
    const uint32_t rows =
        Smaller(inScores_ ? tiling_->groupRows : tiling_->chunkRows, Rows(step) - row_);
    const uint32_t columns = inScores_ ? step.countPad : tiling_->valuePad + kFractal;
    const GlobalTensor<float>& slot =
        inScores_ ? slots_.scores[step.slot] : slots_.parts[step.slot];
    LocalTensor<float> to = loaded_.template AllocTensor<float>();
    const AscendC::DataCopyParams params(static_cast<uint16_t>(columns / kFractal),
                                         static_cast<uint16_t>(rows * 2),
                                         static_cast<uint16_t>((step.rowsPad - rows) * 2), 0);
    AscendC::DataCopy(to, slot[(Offset(step) + row_) * kFractal], params);
    loaded_.EnQue(to);
    ++flying_;
    row_ += rows;
    if (row_ < Rows(step)) return;
    row_ = 0;
    if (inScores_ && at_ >= kLag) {
      inScores_ = false;
    } else {
      ++at_;
      OpenIteration();
    }
  }

  __aicore__ inline void ComputeProbs(const Step& step) {
    const uint32_t held = Rows(step);
    const uint32_t coreFirst = step.firstRow + Offset(step);
    if (step.first) softmax_.Start(step, coreFirst, held);
    for (uint32_t row = 0; row < held; row += tiling_->groupRows) {
      const uint32_t rows = Smaller(tiling_->groupRows, held - row);
      Load();
      LocalTensor<float> scores = loaded_.template DeQue<float>();
      softmax_.Process(scores, step, coreFirst, row, rows);
      LocalTensor<T> probs = probs_.template AllocTensor<T>();
      AscendC::Cast(probs, scores, kNarrow, step.countPad * rows);
      loaded_.FreeTensor(scores);
      --flying_;
      probs_.EnQue(probs);
      probs = probs_.template DeQue<T>();
      const AscendC::DataCopyParams params(static_cast<uint16_t>(step.countPad / kFractal),
                                           static_cast<uint16_t>(rows), 0,
                                           static_cast<uint16_t>(step.rowsPad - rows));
      AscendC::DataCopy(slots_.probs[step.slot][(Offset(step) + row) * kFractal], probs, params);
      probs_.FreeTensor(probs);
    }
  }

  __aicore__ inline void AddPart(const Step& step) {
    const uint32_t held = Rows(step);
    if (step.first) output_.Start(step);
    for (uint32_t row = 0; row < held; row += tiling_->chunkRows) {
      const uint32_t rows = Smaller(tiling_->chunkRows, held - row);
      Load();
      LocalTensor<float> part = loaded_.template DeQue<float>();
      output_.Accumulate(part, softmax_.Alpha(step), row, rows);
      loaded_.FreeTensor(part);
      --flying_;
    }
    if (!step.last) return;
    if (tiling_->splits > 1) {
      combiner_.Keep(step, side_, softmax_.Max(step), output_.Sums());
      return;
    }
    const uint32_t offset = Offset(step);
    const uint32_t valid = step.rows > offset ? Smaller(held, step.rows - offset) : 0;
    output_.Finish(step, softmax_.Max(step), step.firstRow + offset, held, valid);
  }

  const FlashAttentionTiling* tiling_;
  uint32_t side_;
  Slots<T> slots_;
  TQue<TPosition::VECIN, kAhead + 1> loaded_;
  TQue<TPosition::VECOUT, 1> probs_;
  Softmax<T> softmax_;
  Output<T> output_;
  Combiner<T> combiner_;
  StepWalker walker_;
  Step ring_[kRing];
  uint32_t end_ = 0;          // steps seen so far
  uint32_t now_ = 0;           // the iteration at work
  uint32_t at_ = 0, row_ = 0;  // the loading cursor
  uint32_t flying_ = 0;        // loads not yet used up
  bool inScores_ = false, more_ = true;
};

}  // namespace omfuse

#endif  // OMFUSE_FA_SPLIT
#endif  // OMFUSE_FA_VECTOR_CORE_H_
