// Which core does which rows against which keys, in which order.
//
// A task is a block of query rows of one head (or, packed, of all heads of one kv head) against the
// keys that some row of it may see; a step is a part of the keys. Tasks lie head by head, so that
// cores that work at the same time read the same keys from L2; every other round runs backwards,
// which evens out causal tasks. Cube and vector cores walk the same steps, each on its own.
#ifndef OMFUSE_FA_SCHEDULE_H_
#define OMFUSE_FA_SCHEDULE_H_

#include "fa_common.h"

namespace omfuse {

struct Step {
  uint32_t batch, unit;  // unit = head, or kv head when packed
  uint32_t kvHead;
  uint32_t block;  // row block in the unit
  uint32_t part;   // of a split KV range
  uint32_t firstRow, rows, rowsPad;
  uint32_t begin, count, countPad;  // keys
  uint32_t valid;                   // keys of this batch row
  uint32_t turn;                    // number of the task on this core
  uint32_t slot;                    // number of the step modulo kSlots
  bool first, last;                 // step of its task
};

// Rows, heads and part of the task `index`. Where cores own ranges of the output, tasks are in the
// order of the output, which may have the heads of a row side by side.
__aicore__ inline void Describe(const FlashAttentionTiling& t, uint32_t index, Step* task) {
  task->part = index % t.splits;
  index /= t.splits;
  if (t.taskRun && t.oRowStride > t.valueDepth) {
    task->unit = index % t.unitHeads;
    index /= t.unitHeads;
    task->block = index % t.rowBlocks;
    task->batch = index / t.rowBlocks;
  } else {
    task->block = index % t.rowBlocks;
    index /= t.rowBlocks;
    task->unit = index % t.unitHeads;
    task->batch = index / t.unitHeads;
  }
  task->kvHead = t.packed ? task->unit : task->unit / t.group;
  task->firstRow = task->block * t.blockRows;
  task->rows = Smaller(t.blockRows, t.unitRows - task->firstRow);
  task->rowsPad = RoundUp(task->rows, kFractal);
}

// Number of a task with all its parts.
__aicore__ inline uint32_t WholeTask(const FlashAttentionTiling& t, const Step& task) {
  return (task.batch * t.unitHeads + task.unit) * t.rowBlocks + task.block;
}

// Where cores own ranges of the output: the first task of a core, which is the end of the one
// before, and the first element of a task in the output.
__aicore__ inline uint32_t FirstTask(const FlashAttentionTiling& t, uint32_t core) {
  const uint64_t runs = t.tasks / t.taskRun;
  return static_cast<uint32_t>(core * runs / t.cores) * t.taskRun;
}
__aicore__ inline uint64_t FirstElement(const FlashAttentionTiling& t, uint32_t task) {
  if (task == t.tasks) return t.batch * t.oBatchStride;
  Step step;
  Describe(t, task, &step);
  const uint64_t head = t.packed ? step.unit * t.group : step.unit;
  return step.batch * t.oBatchStride + head * t.oHeadStride +
         static_cast<uint64_t>(step.firstRow) * t.oRowStride;
}

class StepWalker {
 public:
  __aicore__ inline void Init(const FlashAttentionTiling* tiling, GM_ADDR kvLengths,
                              uint32_t core) {
    tiling_ = tiling;
    core_ = core;
    if (tiling->kvLengths) lengths_.SetGlobalBuffer(reinterpret_cast<__gm__ int32_t*>(kvLengths));
    round_ = 0;
    number_ = 0;
    open_ = OpenTask();
  }

  // False when this core has no more steps.
  __aicore__ inline bool Next(Step* step) {
    if (!open_) return false;
    *step = task_;
    const uint32_t left = end_ - at_;
    step->begin = at_;
    step->count = Smaller(left, tiling_->stepColumns);
    step->countPad = RoundUp(step->count, kFractal);
    step->first = at_ == start_;
    at_ += step->count;
    step->last = at_ >= end_;
    step->slot = number_ % kSlots;
    ++number_;
    if (step->last) {
      ++round_;
      open_ = OpenTask();
    }
    return true;
  }

 private:
  __aicore__ inline bool OpenTask() {
    const FlashAttentionTiling& t = *tiling_;
    const uint64_t base = static_cast<uint64_t>(round_) * t.cores;
    uint64_t index = base + (round_ % 2 ? t.cores - 1 - core_ : core_);
    uint64_t end = t.tasks;  // a short last round may leave this core out
    if (t.taskRun) {
      index = FirstTask(t, core_) + round_;
      end = FirstTask(t, core_ + 1);
    }
    if (index >= end) return false;
    Describe(t, static_cast<uint32_t>(index), &task_);
    task_.turn = round_;
    SetKeys();
    return true;
  }

  __aicore__ inline void SetKeys() {
    const FlashAttentionTiling& t = *tiling_;
    int64_t valid = t.kvLen;
    if (t.kvLengths) valid = Most(0, Least(valid, lengths_.GetValue(task_.batch)));
    task_.valid = static_cast<uint32_t>(valid);
    int64_t low = 0;
    int64_t high = t.kvLen;
    if (t.skipBlocks) {
      const int64_t firstQuery = t.packed ? 0 : task_.firstRow;
      const int64_t lastQuery = t.packed ? t.qLen - 1 : task_.firstRow + task_.rows - 1;
      const int64_t offset = t.causal == kCausalBottomRight ? valid - t.qLen : 0;
      high = valid;
      if (t.causal != kCausalNone) high = Least(high, lastQuery + offset + 1);
      if (t.windowRight >= 0) high = Least(high, lastQuery + offset + t.windowRight + 1);
      if (t.windowLeft >= 0) low = Most(0, firstQuery + offset - t.windowLeft);
    }
    const int64_t partBegin = static_cast<int64_t>(task_.part) * t.splitColumns;
    low = Most(low / kFractal * kFractal, partBegin);
    high = Least(high, partBegin + t.splitColumns);
    if (high <= low) {  // no key at all: one step in which everything is masked
      low = partBegin;
      high = Least(t.kvLen, partBegin + kFractal);
    }
    start_ = at_ = static_cast<uint32_t>(low);
    end_ = static_cast<uint32_t>(high);
  }

  const FlashAttentionTiling* tiling_;
  GlobalTensor<int32_t> lengths_;
  uint32_t core_, round_, number_;
  uint32_t start_, at_, end_;
  bool open_;
  Step task_;
};

}  // namespace omfuse

#endif  // OMFUSE_FA_SCHEDULE_H_
