// Split KV: the parts of a task's keys on several cores, then one result from all parts.
//
// With few queries there are too few tasks for all cores (decoding), so each task's keys are cut.
// Every part leaves its maximum and its unnormalised output in global memory; after a barrier of
// all vector cores each takes some tasks and adds up: with m the larger maximum, the output so far
// counts exp(m_so_far - m) and the part exp(m_part - m).
#ifndef OMFUSE_FA_SPLIT_H_
#define OMFUSE_FA_SPLIT_H_

#include "fa_output.h"

#if OMFUSE_FA_SPLIT

namespace omfuse {

template <typename T>
class Combiner {
 public:
  __aicore__ inline void Init(const FlashAttentionTiling* tiling, GM_ADDR workspace) {
    tiling_ = tiling;
    coreRows_ = tiling->blockRows / 2;
    parts_.SetGlobalBuffer(reinterpret_cast<__gm__ float*>(workspace + tiling->splitOffset));
  }

  // Leaves the result of a part. Once a task, so the whole core may wait for the copy.
  __aicore__ inline void Keep(const Step& step, uint32_t side, const LocalTensor<float>& max,
                              const LocalTensor<float>& fine, const LocalTensor<float>& sums) {
    const GlobalTensor<float> to = Place(WholeTask(*tiling_, step), step.part, side);
    PipeBarrier<PIPE_ALL>();
    AscendC::DataCopy(to, max, coreRows_ * kLane);
    AscendC::DataCopy(to[coreRows_ * kLane], sums, coreRows_ * (tiling_->valuePad + kFractal));
    if (tiling_->lse) AscendC::DataCopy(to[FineOffset()], fine, coreRows_ * kLane);
    PipeBarrier<PIPE_ALL>();
  }

  // `worker`: number of this vector core. `loads` is a queue with buffers of at least a chunk.
  template <typename Queue>
  __aicore__ inline void Combine(Softmax<T>* softmax, Output<T>* output, Queue& loads,
                                 uint32_t worker) {
    const uint32_t tasks = tiling_->tasks / tiling_->splits;
    for (uint32_t item = worker; item < tasks * 2; item += tiling_->cores * 2) {
      Step task;
      Describe(*tiling_, item / 2 * tiling_->splits, &task);
      task.turn = 0;
      task.slot = 0;
      const uint32_t side = item % 2;
      const uint32_t held = task.rowsPad / 2;
      AscendC::Duplicate(softmax->Max(task), Lowest(), static_cast<int32_t>(held * kLane));
      if (tiling_->lse) {
        AscendC::Duplicate(softmax->Sums(task), 0.0f, static_cast<int32_t>(held * kLane));
      }
      task.part = 1;  // the sink, if any, is in part 0
      output->Start(task);
      for (uint32_t part = 0; part < tiling_->splits; ++part) {
        AddPart(task, softmax, output, loads, part, side, held);
      }
      const uint32_t offset = side * held;
      const uint32_t valid = task.rows > offset ? Smaller(held, task.rows - offset) : 0;
      output->Finish(task, softmax->Max(task), softmax->Sums(task), task.firstRow + offset, held,
                     valid);
    }
  }

 private:
  __aicore__ inline GlobalTensor<float> Place(uint32_t task, uint32_t part, uint32_t side) {
    const uint64_t index = (static_cast<uint64_t>(task) * tiling_->splits + part) * 2 + side;
    return parts_[index * (tiling_->splitBytes / sizeof(float))];
  }

  // The finer sums lie behind maxima and output.
  __aicore__ inline uint32_t FineOffset() const {
    return coreRows_ * (kLane + tiling_->valuePad + kFractal);
  }

  template <typename Queue>
  __aicore__ inline void AddPart(const Step& task, Softmax<T>* softmax, Output<T>* output,
                                 Queue& loads, uint32_t part, uint32_t side, uint32_t held) {
    const GlobalTensor<float> from = Place(WholeTask(*tiling_, task), part, side);
    const int32_t stats = static_cast<int32_t>(held * kLane);
    Step other = task;
    other.slot = 1;
    const LocalTensor<float> max = softmax->Max(task);
    const LocalTensor<float> alpha = softmax->Alpha(task);
    const LocalTensor<float> beta = softmax->Alpha(other);
    LocalTensor<float> theirs = loads.template AllocTensor<float>();
    AscendC::DataCopy(theirs, from, held * kLane);
    loads.EnQue(theirs);
    theirs = loads.template DeQue<float>();
    AscendC::Adds(alpha, max, 0.0f, stats);
    Barrier();
    AscendC::Max(max, max, theirs, stats);
    Barrier();
    AscendC::Sub(alpha, alpha, max, stats);
    AscendC::Sub(beta, theirs, max, stats);
    Barrier();
    loads.FreeTensor(theirs);
    AscendC::Exp(alpha, alpha, stats);
    AscendC::Exp(beta, beta, stats);
    Barrier();
    if (tiling_->lse) {
      LocalTensor<float> fine = loads.template AllocTensor<float>();
      AscendC::DataCopy(fine, from[FineOffset()], held * kLane);
      loads.EnQue(fine);
      fine = loads.template DeQue<float>();
      AscendC::Mul(fine, fine, beta, stats);
      Barrier();
      AscendC::FusedMulAdd(softmax->Sums(task), alpha, fine, stats);
      Barrier();
      loads.FreeTensor(fine);
    }
    for (uint32_t row = 0; row < held; row += tiling_->chunkRows) {
      const uint32_t rows = Smaller(tiling_->chunkRows, held - row);
      LocalTensor<float> chunk = loads.template AllocTensor<float>();
      const AscendC::DataCopyParams params(static_cast<uint16_t>(tiling_->valuePad / kFractal + 1),
                                           static_cast<uint16_t>(rows * 2),
                                           static_cast<uint16_t>((coreRows_ - rows) * 2), 0);
      AscendC::DataCopy(chunk, from[coreRows_ * kLane + row * kFractal], params);
      loads.EnQue(chunk);
      chunk = loads.template DeQue<float>();
      output->ScalePart(chunk, beta, row, rows);
      output->Accumulate(chunk, alpha, row, rows);
      loads.FreeTensor(chunk);
    }
  }

  const FlashAttentionTiling* tiling_;
  uint32_t coreRows_;
  GlobalTensor<float> parts_;
};

}  // namespace omfuse

#endif  // OMFUSE_FA_SPLIT
#endif  // OMFUSE_FA_SPLIT_H_
