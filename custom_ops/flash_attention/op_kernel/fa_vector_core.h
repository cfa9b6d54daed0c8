// A vector core of split chips: softmax and output of half of the rows.
//
// Its work is one sequence of items: iteration i has the row groups of step i (scores to
// probabilities) and, between them, the row chunks of step i - kLag (parts into the output). A
// second cursor walks the same sequence two items ahead and starts the loads, so that the latency
// of global memory is hidden.
#ifndef OMFUSE_FA_VECTOR_CORE_H_
#define OMFUSE_FA_VECTOR_CORE_H_

#include "fa_output.h"
#include "fa_slots.h"
#include "fa_split.h"

#if OMFUSE_FA_SPLIT

namespace omfuse {

constexpr uint32_t kAhead = 2;  // items

// The order of items in an iteration: groups and chunks in turn, then what is left of either.
struct Items {
  uint32_t group, chunk;    // rows done of each
  uint32_t groups, chunks;  // rows there are
  bool chunkNext;
  __aicore__ inline void Open(uint32_t groupRows, uint32_t chunkRows) {
    group = chunk = 0;
    groups = groupRows;
    chunks = chunkRows;
    chunkNext = false;
  }
  __aicore__ inline bool Done() const { return group >= groups && chunk >= chunks; }
  __aicore__ inline bool IsChunk() const {
    return chunk < chunks && (chunkNext || group >= groups);
  }
};

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
    pipe->InitBuffer(loaded_, kAhead + 1, cells * (tiling->innerHalf ? 2 : 4));
    if (tiling->innerHalf) pipe->InitBuffer(wideScores_, cells * 4);
    pipe->InitBuffer(probs_, 1, cells * static_cast<uint32_t>(sizeof(T)));
    combiner_.Init(tiling, in.workspace);
    softmax_.Init(pipe, tiling, in, coreRows);
    output_.Init(pipe, tiling, in, coreRows);
    walker_.Init(tiling, in.kvLengths, core);
    OpenIteration();
    for (now_ = 0; now_ < end_ + kLag; ++now_) Iterate();
    if (tiling->splits > 1) {
      AscendC::SyncAll<true>();
      combiner_.Combine(&softmax_, &output_, loaded_, core * 2 + side);
    }
  }

 private:
  __aicore__ inline uint32_t Rows(const Step& step) const { return step.rowsPad / 2; }
  __aicore__ inline uint32_t Offset(const Step& step) const { return side_ * Rows(step); }

  __aicore__ inline uint32_t GroupRows(uint32_t i) const {
    return i < end_ ? Rows(ring_[i % kRing]) : 0;
  }
  __aicore__ inline uint32_t ChunkRows(uint32_t i) const {
    return i >= kLag && i - kLag < end_ ? Rows(ring_[(i - kLag) % kRing]) : 0;
  }

  __aicore__ inline void Iterate() {
    Items items;
    const Step& step = ring_[now_ % kRing];
    const Step& back = ring_[(now_ - kLag) % kRing];
    items.Open(GroupRows(now_), ChunkRows(now_));
    while (!items.Done()) {
      Load();
      if (items.IsChunk()) {
        AddPart(back, items.chunk);
        items.chunk += tiling_->chunkRows;
        items.chunkNext = false;
        continue;
      }
      ComputeProbs(step, items.group);
      items.group += tiling_->groupRows;
      items.chunkNext = true;
      if (items.group >= items.groups) AscendC::CrossCoreSetFlag<2, PIPE_MTE3>(kProbsReady);
    }
  }

  // Moves the loading cursor to the first item of iteration `at_`.
  __aicore__ inline void OpenIteration() {
    if (more_) more_ = walker_.Next(&ring_[at_ % kRing]);
    if (more_) end_ = at_ + 1;
    ahead_.Open(GroupRows(at_), ChunkRows(at_));
  }

  // Starts loads until as many are on the way as there are buffers. Never so far ahead that
  // the cube core would first need probabilities that this core has not yet handed over.
  __aicore__ inline void Load() {
    while (flying_ <= kAhead && end_ > 0 && at_ + 1 < now_ + kLag && at_ < end_ + kLag) {
      if (!ahead_.Done()) LoadOne();
      if (ahead_.Done()) {
        ++at_;
        OpenIteration();
      }
    }
  }

  __aicore__ inline void LoadOne() {
    const bool chunk = ahead_.IsChunk();
    const uint32_t row = chunk ? ahead_.chunk : ahead_.group;
    const Step& step = ring_[(chunk ? at_ - kLag : at_) % kRing];
    if (row == 0) AscendC::CrossCoreWaitFlag(chunk ? kPartsReady : kScoresReady);
    const uint32_t rows =
        Smaller(chunk ? tiling_->chunkRows : tiling_->groupRows, Rows(step) - row);
    const uint32_t columns = chunk ? tiling_->valuePad + kFractal : step.countPad;
    if (chunk) {
      Fetch(slots_.parts[step.slot], step, row, rows, columns);
    } else if (tiling_->innerHalf) {
      Fetch(slots_.halfScores[step.slot], step, row, rows, columns);
    } else {
      Fetch(slots_.scores[step.slot], step, row, rows, columns);
    }
    ++flying_;
    if (chunk) {
      ahead_.chunk += rows;
    } else {
      ahead_.group += rows;
    }
    ahead_.chunkNext = !chunk;
  }

  // Rows of this core from a slot, as columns of 16.
  template <typename U>
  __aicore__ inline void Fetch(const GlobalTensor<U>& slot, const Step& step, uint32_t row,
                               uint32_t rows, uint32_t columns) {
    constexpr uint32_t blocks = static_cast<uint32_t>(sizeof(U)) / 2;  // of 32 bytes, a row
    LocalTensor<U> to = loaded_.template AllocTensor<U>();
    const AscendC::DataCopyParams params(static_cast<uint16_t>(columns / kFractal),
                                         static_cast<uint16_t>(rows * blocks),
                                         static_cast<uint16_t>((step.rowsPad - rows) * blocks), 0);
    AscendC::DataCopy(to, slot[(Offset(step) + row) * kFractal], params);
    loaded_.EnQue(to);
  }

  // Scores of a group as they came, or widened.
  __aicore__ inline LocalTensor<float> Scores(uint32_t cells) {
    if (!tiling_->innerHalf) return loaded_.template DeQue<float>();
    LocalTensor<half> narrow = loaded_.template DeQue<half>();
    const LocalTensor<float> wide = wideScores_.Get<float>();
    AscendC::Cast(wide, narrow, RoundMode::CAST_NONE, cells);
    Barrier();
    loaded_.FreeTensor(narrow);
    --flying_;
    return wide;
  }

  __aicore__ inline void ComputeProbs(const Step& step, uint32_t row) {
    const uint32_t held = Rows(step);
    const uint32_t coreFirst = step.firstRow + Offset(step);
    if (step.first && row == 0) softmax_.Start(step, coreFirst, held);
    const uint32_t rows = Smaller(tiling_->groupRows, held - row);
    LocalTensor<float> scores = Scores(step.countPad * rows);
    softmax_.Process(scores, step, coreFirst, row, rows);
    LocalTensor<T> probs = probs_.template AllocTensor<T>();
    AscendC::Cast(probs, scores, kNarrow, step.countPad * rows);
    if (tiling_->innerHalf) {
      Barrier();  // the next group widens to the same place
    } else {
      loaded_.FreeTensor(scores);
      --flying_;
    }
    probs_.EnQue(probs);
    probs = probs_.template DeQue<T>();
    const AscendC::DataCopyParams params(static_cast<uint16_t>(step.countPad / kFractal),
                                         static_cast<uint16_t>(rows), 0,
                                         static_cast<uint16_t>(step.rowsPad - rows));
    AscendC::DataCopy(slots_.probs[step.slot][(Offset(step) + row) * kFractal], probs, params);
    probs_.FreeTensor(probs);
  }

  __aicore__ inline void AddPart(const Step& step, uint32_t row) {
    const uint32_t held = Rows(step);
    if (step.first && row == 0) output_.Start(step);
    const uint32_t rows = Smaller(tiling_->chunkRows, held - row);
    LocalTensor<float> part = loaded_.template DeQue<float>();
    output_.Accumulate(part, softmax_.Alpha(step), row, rows);
    loaded_.FreeTensor(part);
    --flying_;
    if (!step.last || row + rows < held) return;
    if (tiling_->lse || tiling_->splits > 1) softmax_.Settle(step, held);
    if (tiling_->splits > 1) {
      combiner_.Keep(step, side_, softmax_.Max(step), softmax_.Sums(step), output_.Sums());
      return;
    }
    const uint32_t offset = Offset(step);
    const uint32_t valid = step.rows > offset ? Smaller(held, step.rows - offset) : 0;
    output_.Finish(step, softmax_.Max(step), softmax_.Sums(step), step.firstRow + offset, held,
                   valid);
  }

  const FlashAttentionTiling* tiling_;
  uint32_t side_;
  Slots<T> slots_;
  TQue<TPosition::VECIN, kAhead + 1> loaded_;
  TQue<TPosition::VECOUT, 1> probs_;
  TBuf<TPosition::VECCALC> wideScores_;
  Softmax<T> softmax_;
  Output<T> output_;
  Combiner<T> combiner_;
  StepWalker walker_;
  Step ring_[kRing];
  uint32_t end_ = 0;     // steps seen so far
  uint32_t now_ = 0;     // the iteration at work
  uint32_t at_ = 0;      // the iteration of the loading cursor
  Items ahead_;          // its place there
  uint32_t flying_ = 0;  // loads not yet used up
  bool more_ = true;
};

}  // namespace omfuse

#endif  // OMFUSE_FA_SPLIT
#endif  // OMFUSE_FA_VECTOR_CORE_H_
