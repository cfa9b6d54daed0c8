// The pipeline of coupled chips: one core, everything on chip.
//
// Scores go from L0C to UB, probabilities from UB to L1, no global memory between. An item is a
// group of rows against the keys of a step: wide steps update the output seldom, small groups let
// their scores fit. While the vector unit works on the softmax of item i and adds the output part
// of item i - 2, the cube computes the scores of item i + 1 and the part of item i - 1, and the
// keys of item i + 3 and the values of item i + 1 load.
#ifndef OMFUSE_FA_COUPLED_H_
#define OMFUSE_FA_COUPLED_H_

#include "fa_copy_in.h"
#include "fa_cube.h"
#include "fa_output.h"

#if !OMFUSE_FA_SPLIT

namespace omfuse {

constexpr int32_t kStagingFlag = 7;  // the queues take theirs from 0 upwards
constexpr int32_t kKeyStagingFlag = 6;

// Flags of L1: queries 0 and 1, keys 2 and 3, values 4 and 5 (with MTE2); probabilities 0 and 1,
// queries 2 and 3, keys 4 and 5 (with MTE3). Flags of L0C: scores 0 and 1, parts 2.
template <typename T>
class CoupledCore {
 public:
  __aicore__ inline void Run(TPipe* pipe, const FlashAttentionTiling* tiling, const Inputs& in,
                             uint32_t core) {
    tiling_ = tiling;
    query_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(in.query));
    key_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(in.key));
    value_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(in.value));
    InitBuffers(pipe);
    step_.rowsPad = 0;
    softmax_.Init(pipe, tiling, in, tiling->blockRows);
    output_.Init(pipe, tiling, in, tiling->blockRows);
    OpenFlags();
    if (tiling->taskRun) {
      output_.Own(FirstElement(*tiling, FirstTask(*tiling, core)),
                  FirstElement(*tiling, FirstTask(*tiling, core + 1)));
    }

    walker_.Init(tiling, in.kvLengths, core);
    Item ring[kRing];
    uint32_t pulled = 0;  // items whose keys are on the way
    for (uint32_t i = 0; i < 3; ++i) {
      if (!Pull(&ring[i])) break;
      LoadKeys(ring[i]);
      PassOn(ring[i]);
      if (i == 0) {
        LoadValues(ring[0]);
        ComputeScores(ring[0]);
      }
      ++pulled;
    }
    for (uint32_t i = 0; i < pulled + kLag; ++i) {
      if (i + 1 < pulled) ComputeScores(ring[(i + 1) % kRing]);
      const bool more = i + 3 == pulled && Pull(&ring[pulled % kRing]);
      if (more) LoadKeys(ring[pulled++ % kRing]);
      if (i < pulled) ComputeProbs(ring[i % kRing]);
      if (i >= kLag && i - kLag < pulled) {
        AddPart(ring[(i - kLag) % kRing]);  // makes room for the next part
      }
      if (more) PassOn(ring[(i + 3) % kRing]);
      if (i >= 1 && i - 1 < pulled) ComputeParts(ring[(i - 1) % kRing]);
      if (i + 1 < pulled) LoadValues(ring[(i + 1) % kRing]);
    }
    CloseFlags();
  }

 private:
  struct Item {  // a group of rows of a step
    Step step;
    uint32_t row, rows;
    bool opens, closes;  // the first or last group of the step
  };

  // False when this core has no more items.
  __aicore__ inline bool Pull(Item* item) {
    if (row_ >= step_.rowsPad) {
      if (!walker_.Next(&step_)) return false;
      row_ = 0;
    }
    item->step = step_;
    item->row = row_;
    item->rows = Smaller(tiling_->groupRows, step_.rowsPad - row_);
    item->opens = row_ == 0;
    row_ += item->rows;
    item->closes = row_ >= step_.rowsPad;
    return true;
  }

  __aicore__ inline void InitBuffers(TPipe* pipe) {
    const FlashAttentionTiling& t = *tiling_;
    const uint32_t size = static_cast<uint32_t>(sizeof(T));
    pipe->InitBuffer(queries_, 2 * t.blockRows * t.depthPad * size);
    pipe->InitBuffer(keys_, 2 * t.stepColumns * t.depthPad * size);
    pipe->InitBuffer(values_, 2 * t.stepColumns * t.valuePad * size);
    const uint32_t cells = t.groupRows * t.stepColumns;
    pipe->InitBuffer(operands_, 2 * cells * size);
    partColumns_ = t.valuePad + kFractal;
    const uint32_t wide = static_cast<uint32_t>(sizeof(float));
    pipe->InitBuffer(results_, (2 * cells + t.groupRows * partColumns_) * wide);
    cube_.Init(pipe);
    const uint32_t part = t.chunkRows * partColumns_;
    pipe->InitBuffer(scores_, (part > cells ? part : cells) * wide);
    pipe->InitBuffer(probs_, 1, cells * size);
    if (t.depth % kFractal) pipe->InitBuffer(staging_, t.blockRows * t.depthPad * size);
    if (ShortKeys()) pipe->InitBuffer(keyStaging_, t.stepColumns * t.depthPad * size);
  }

  // A key shorter than a block comes with elements of the next one, which have to go.
  __aicore__ inline bool ShortKeys() const { return tiling_->depth < kFractal; }

  __aicore__ inline void OpenFlags() {
    for (int32_t i = 0; i < 6; ++i) SetFlag<HardEvent::MTE1_MTE2>(i);
    for (int32_t i = 0; i < 2; ++i) SetFlag<HardEvent::MTE1_MTE3>(i);
    for (int32_t i = 0; i < 3; ++i) SetFlag<HardEvent::V_M>(i);
    if (tiling_->depth % kFractal) {
      SetFlag<HardEvent::MTE3_MTE2>(kStagingFlag);
      for (int32_t i = 2; i < 4; ++i) SetFlag<HardEvent::MTE1_MTE3>(i);
    }
    if (ShortKeys()) {
      SetFlag<HardEvent::MTE3_MTE2>(kKeyStagingFlag);
      for (int32_t i = 4; i < 6; ++i) SetFlag<HardEvent::MTE1_MTE3>(i);
    }
  }

  __aicore__ inline void CloseFlags() {
    for (int32_t i = 0; i < 6; ++i) WaitFlag<HardEvent::MTE1_MTE2>(i);
    for (int32_t i = 0; i < 2; ++i) WaitFlag<HardEvent::MTE1_MTE3>(i);
    for (int32_t i = 0; i < 3; ++i) WaitFlag<HardEvent::V_M>(i);
    if (tiling_->depth % kFractal) {
      WaitFlag<HardEvent::MTE3_MTE2>(kStagingFlag);
      for (int32_t i = 2; i < 4; ++i) WaitFlag<HardEvent::MTE1_MTE3>(i);
    }
    if (ShortKeys()) {
      WaitFlag<HardEvent::MTE3_MTE2>(kKeyStagingFlag);
      for (int32_t i = 4; i < 6; ++i) WaitFlag<HardEvent::MTE1_MTE3>(i);
    }
    cube_.Finish();
  }

  // The rows of a task to `to`, in L1 or UB.
  __aicore__ inline void CopyQueries(const Step& step, const LocalTensor<T>& to) {
    const FlashAttentionTiling& t = *tiling_;
    const uint64_t batch = step.batch * t.qBatchStride;
    const uint32_t heads = t.packed ? t.group : 1;
    const uint32_t each = t.packed ? t.qLen : step.rows;
    const uint32_t head = t.packed ? step.kvHead * t.group : step.unit;
    const GlobalTensor<T> first =
        query_[batch + head * t.qHeadStride + static_cast<uint64_t>(step.firstRow) * t.qRowStride];
    for (uint32_t i = 0; i < heads; ++i) {
      RowsToL1(to[i * each * kFractal], first[i * t.qHeadStride], each, t.depth, t.qRowStride,
               step.rowsPad);
    }
    if (step.rowsPad > step.rows) {
      RepeatRows(to[step.rows * kFractal], first, each, step.rowsPad - step.rows, t.depth,
                 t.qRowStride, step.rowsPad);
    }
  }

  __aicore__ inline void LoadQueries(const Step& step, const LocalTensor<T>& to, int32_t turn) {
    const FlashAttentionTiling& t = *tiling_;
    if (t.depth % kFractal == 0) {
      WaitFlag<HardEvent::MTE1_MTE2>(turn);
      CopyQueries(step, to);
      SetFlag<HardEvent::MTE2_MTE1>(turn);
      return;
    }
    // The last column of 16 repeats elements of the one before, or holds some of the next row (see
    // fa_copy_in.h): as zeros in the queries they count once, or not at all.
    const LocalTensor<T> staging = staging_.template Get<T>();
    WaitFlag<HardEvent::MTE3_MTE2>(kStagingFlag);
    CopyQueries(step, staging);
    SetFlag<HardEvent::MTE2_V>(kStagingFlag);
  }

  __aicore__ inline void PassQueries(const Step& step) {
    const FlashAttentionTiling& t = *tiling_;
    const int32_t turn = static_cast<int32_t>(step.turn % 2);
    const LocalTensor<T> to = Queries(step);
    const LocalTensor<T> staging = staging_.template Get<T>();
    WaitFlag<HardEvent::MTE2_V>(kStagingFlag);
    const uint64_t repeated = (1ull << (kFractal - t.depth % kFractal)) - 1;
    ClearLanes(staging[(t.depthPad - kFractal) * step.rowsPad], step.rowsPad,
               ShortKeys() ? Foreign() : repeated);
    SetFlag<HardEvent::V_MTE3>(kStagingFlag);
    WaitFlag<HardEvent::V_MTE3>(kStagingFlag);
    WaitFlag<HardEvent::MTE1_MTE3>(2 + turn);
    const AscendC::DataCopyParams params(
        1, static_cast<uint16_t>(step.rowsPad * t.depthPad / kFractal), 0, 0);
    AscendC::DataCopy(to, staging, params);
    SetFlag<HardEvent::MTE3_MTE2>(kStagingFlag);
    SetFlag<HardEvent::MTE3_MTE1>(2 + turn);
  }

  // Lanes of a block that belong to the next row.
  __aicore__ inline uint64_t Foreign() const { return 0xFFFFull & ~((1ull << tiling_->depth) - 1); }

  // Zeros in some lanes of a column of 16.
  __aicore__ inline void ClearLanes(const LocalTensor<T>& column, uint32_t rows, uint64_t lanes) {
    const uint64_t four = lanes | (lanes << 16) | (lanes << 32) | (lanes << 48);
    uint64_t mask[2] = {four, four};
    AscendC::Duplicate(column, static_cast<T>(0.0f), mask, static_cast<uint8_t>(rows / 8), 1, 8);
  }

  __aicore__ inline void WaitQueries(int32_t turn) {
    if (tiling_->depth % kFractal == 0) {
      WaitFlag<HardEvent::MTE2_MTE1>(turn);
    } else {
      WaitFlag<HardEvent::MTE3_MTE1>(2 + turn);
    }
  }

  __aicore__ inline void FreeQueries(int32_t turn) {
    if (tiling_->depth % kFractal == 0) {
      SetFlag<HardEvent::MTE1_MTE2>(turn);
    } else {
      SetFlag<HardEvent::MTE1_MTE3>(2 + turn);
    }
  }

  // Keys or values of a step, panel by panel.
  __aicore__ inline void LoadPanels(const LocalTensor<T>& to, const GlobalTensor<T>& from,
                                    uint32_t count, uint32_t depth, uint32_t pad,
                                    uint32_t rowStride) {
    for (uint32_t done = 0; done < count; done += kPanel) {
      MatrixToL1(to[done * pad], from[static_cast<uint64_t>(done) * rowStride],
                 Smaller(kPanel, count - done), depth, rowStride);
    }
  }

  // The keys of a step, and the queries of its task.
  __aicore__ inline void LoadKeys(const Item& item) {
    if (!item.opens) return;
    const FlashAttentionTiling& t = *tiling_;
    const Step& step = item.step;
    if (step.first) LoadQueries(step, Queries(step), static_cast<int32_t>(step.turn % 2));
    const int32_t flag = static_cast<int32_t>(2 + keyTurn_);
    const GlobalTensor<T> from = key_[step.batch * t.kBatchStride + step.kvHead * t.kHeadStride +
                                      static_cast<uint64_t>(step.begin) * t.kRowStride];
    if (ShortKeys()) {
      WaitFlag<HardEvent::MTE3_MTE2>(kKeyStagingFlag);
      LoadPanels(keyStaging_.template Get<T>(), from, step.count, t.depth, t.depthPad,
                 t.kRowStride);
      SetFlag<HardEvent::MTE2_V>(kKeyStagingFlag);
      return;
    }
    WaitFlag<HardEvent::MTE1_MTE2>(flag);
    LoadPanels(Keys(keyTurn_), from, step.count, t.depth, t.depthPad, t.kRowStride);
    SetFlag<HardEvent::MTE2_MTE1>(flag);
    keyTurn_ ^= 1;
  }

  __aicore__ inline LocalTensor<T> Keys(uint32_t buffer) {
    return keys_.template Get<T>()[buffer * tiling_->stepColumns * tiling_->depthPad];
  }
  __aicore__ inline LocalTensor<T> Values(uint32_t buffer) {
    return values_.template Get<T>()[buffer * tiling_->stepColumns * tiling_->valuePad];
  }
  __aicore__ inline LocalTensor<T> Operand(uint32_t buffer) {
    return operands_.template Get<T>()[buffer * tiling_->groupRows * tiling_->stepColumns];
  }

  // What has to pass UB on its way to L1, later than the loads, so that the vector unit does not
  // wait for them.
  __aicore__ inline void PassOn(const Item& item) {
    if (!item.opens) return;
    if (tiling_->depth % kFractal && item.step.first) PassQueries(item.step);
    if (ShortKeys()) PassKeys(item);
  }

  // Short keys go by UB, where what is not theirs becomes zero: another row's NaN or infinity would
  // survive the zeros of the queries.
  __aicore__ inline void PassKeys(const Item& item) {
    const int32_t flag = static_cast<int32_t>(4 + keyTurn_);
    const LocalTensor<T> staging = keyStaging_.template Get<T>();
    WaitFlag<HardEvent::MTE2_V>(kKeyStagingFlag);
    ClearLanes(staging, item.step.countPad, Foreign());
    SetFlag<HardEvent::V_MTE3>(kKeyStagingFlag);
    WaitFlag<HardEvent::V_MTE3>(kKeyStagingFlag);
    WaitFlag<HardEvent::MTE1_MTE3>(flag);
    const AscendC::DataCopyParams params(1, static_cast<uint16_t>(item.step.countPad), 0, 0);
    AscendC::DataCopy(Keys(keyTurn_), staging, params);
    SetFlag<HardEvent::MTE3_MTE2>(kKeyStagingFlag);
    SetFlag<HardEvent::MTE3_MTE1>(flag);
    keyTurn_ ^= 1;
  }

  __aicore__ inline void WaitKeys(uint32_t buffer) {
    if (ShortKeys()) {
      WaitFlag<HardEvent::MTE3_MTE1>(static_cast<int32_t>(4 + buffer));
    } else {
      WaitFlag<HardEvent::MTE2_MTE1>(static_cast<int32_t>(2 + buffer));
    }
  }

  __aicore__ inline void FreeKeys(uint32_t buffer) {
    if (ShortKeys()) {
      SetFlag<HardEvent::MTE1_MTE3>(static_cast<int32_t>(4 + buffer));
    } else {
      SetFlag<HardEvent::MTE1_MTE2>(static_cast<int32_t>(2 + buffer));
    }
  }

  __aicore__ inline void LoadValues(const Item& item) {
    if (!item.opens) return;
    const FlashAttentionTiling& t = *tiling_;
    const Step& step = item.step;
    const int32_t flag = static_cast<int32_t>(4 + valueTurn_);
    const GlobalTensor<T> from = value_[step.batch * t.vBatchStride + step.kvHead * t.vHeadStride +
                                        static_cast<uint64_t>(step.begin) * t.vRowStride];
    WaitFlag<HardEvent::MTE1_MTE2>(flag);
    LoadPanels(Values(valueTurn_), from, step.count, t.valueDepth, t.valuePad, t.vRowStride);
    SetFlag<HardEvent::MTE2_MTE1>(flag);
    valueTurn_ ^= 1;
  }

  __aicore__ inline LocalTensor<T> Queries(const Step& step) {
    return queries_.template Get<T>()[step.turn % 2 * tiling_->blockRows * tiling_->depthPad];
  }

  __aicore__ inline void ComputeScores(const Item& item) {
    const FlashAttentionTiling& t = *tiling_;
    const Step& step = item.step;
    const int32_t turn = static_cast<int32_t>(step.turn % 2);
    const LocalTensor<T> queries = Queries(step)[item.row * kFractal];
    if (step.first && item.opens) WaitQueries(turn);
    if (item.opens) WaitKeys(scoreTurn_);
    const int32_t result = static_cast<int32_t>(scoreItem_);
    WaitFlag<HardEvent::V_M>(result);
    for (uint32_t done = 0; done < step.count; done += kPanel) {
      const LocalTensor<T> keys = Keys(scoreTurn_)[done * t.depthPad];
      const uint32_t some = Smaller(kPanel, step.countPad - done);
      for (uint32_t first = 0; first < t.depthPad; first += kDepthPart) {
        const uint32_t depth = Smaller(kDepthPart, t.depthPad - first);
        cube_.Open();
        cube_.LoadLeft(queries, step.rowsPad, item.rows, first, depth);
        cube_.LoadKeys(keys, some, 0, some, first, depth, 0);
        cube_.Close();
        cube_.Multiply(Result(result)[done * item.rows], item.rows, some, depth, first == 0);
        cube_.Release();
      }
    }
    if (item.closes) {
      FreeKeys(scoreTurn_);
      scoreTurn_ ^= 1;
      if (step.last) FreeQueries(turn);
    }
    SetFlag<HardEvent::M_V>(result);
    scoreItem_ ^= 1;
  }

  __aicore__ inline void ComputeProbs(const Item& item) {
    const Step& step = item.step;
    if (step.first && item.opens) softmax_.Start(step, step.firstRow, step.rowsPad);
    const int32_t result = static_cast<int32_t>(probItem_);
    const uint32_t cells = item.rows * step.countPad;
    const LocalTensor<float> scores = scores_.Get<float>();
    WaitFlag<HardEvent::M_V>(result);
    FromL0c(scores, Result(result), 1, cells, 0);
    Barrier();
    SetFlag<HardEvent::V_M>(result);
    softmax_.Process(scores, step, step.firstRow, item.row, item.rows);
    LocalTensor<T> probs = probs_.template AllocTensor<T>();
    AscendC::Cast(probs, scores, kNarrow, cells);
    probs_.EnQue(probs);
    probs = probs_.template DeQue<T>();
    WaitFlag<HardEvent::MTE1_MTE3>(result);
    const AscendC::DataCopyParams params(1, static_cast<uint16_t>(cells / kFractal), 0, 0);
    AscendC::DataCopy(Operand(probItem_), probs, params);
    SetFlag<HardEvent::MTE3_MTE1>(result);
    probs_.FreeTensor(probs);
    probItem_ ^= 1;
  }

  __aicore__ inline void ComputeParts(const Item& item) {
    const Step& step = item.step;
    const int32_t turn = static_cast<int32_t>(partItem_);
    const int32_t flag = static_cast<int32_t>(4 + partTurn_);
    if (item.opens) WaitFlag<HardEvent::MTE2_MTE1>(flag);
    WaitFlag<HardEvent::MTE3_MTE1>(turn);
    WaitFlag<HardEvent::V_M>(2);
    for (uint32_t first = 0; first < partColumns_; first += kDepthPart) {
      const uint32_t columns = Smaller(kDepthPart, partColumns_ - first);
      const bool ones = first + columns == partColumns_;
      for (uint32_t done = 0; done < step.count; done += kPanel) {
        const uint32_t some = Smaller(kPanel, step.countPad - done);
        cube_.Open();
        cube_.LoadLeft(Operand(partItem_), item.rows, item.rows, done, some);
        cube_.LoadValues(Values(partTurn_)[done * tiling_->valuePad], some, first,
                         ones ? columns - kFractal : columns, ones);
        cube_.Close();
        cube_.Multiply(Result(2)[first * item.rows], item.rows, columns, some, done == 0);
        cube_.Release();
      }
    }
    if (item.closes) {
      SetFlag<HardEvent::MTE1_MTE2>(flag);
      partTurn_ ^= 1;
    }
    SetFlag<HardEvent::MTE1_MTE3>(turn);
    SetFlag<HardEvent::M_V>(2);
    partItem_ ^= 1;
  }

  __aicore__ inline void AddPart(const Item& item) {
    const FlashAttentionTiling& t = *tiling_;
    const Step& step = item.step;
    if (step.first && item.opens) output_.Start(step);
    WaitFlag<HardEvent::M_V>(2);
    const LocalTensor<float> part = scores_.Get<float>();  // whose scores became probabilities
    for (uint32_t row = 0; row < item.rows; row += t.chunkRows) {
      const uint32_t rows = Smaller(t.chunkRows, item.rows - row);
      FromL0c(part, Result(2)[row * kFractal], partColumns_ / kFractal, rows * kFractal,
              (item.rows - rows) / kFractal);
      Barrier();
      output_.Accumulate(part, softmax_.Alpha(step), item.row + row, rows);
    }
    SetFlag<HardEvent::V_M>(2);
    if (step.last && item.closes) {
      if (t.lse) softmax_.Settle(step, step.rowsPad);
      output_.Finish(step, softmax_.Max(step), softmax_.Sums(step), step.firstRow, step.rowsPad,
                     step.rows);
    }
  }

  // `blocks` runs of `length` floats, whole fractals, `gap` fractals apart.
  __aicore__ inline void FromL0c(const LocalTensor<float>& to, const LocalTensor<float>& from,
                                 uint32_t blocks, uint32_t length, uint32_t gap) {
    const AscendC::DataCopyParams params(static_cast<uint16_t>(blocks),
                                         static_cast<uint16_t>(length / (kFractal * kFractal)),
                                         static_cast<uint16_t>(gap), 0);
    AscendC::DataCopyEnhancedParams enhanced;
    enhanced.blockMode = AscendC::BlockMode::BLOCK_MODE_MATRIX;
    AscendC::DataCopy(to, from, params, enhanced);
  }

  __aicore__ inline LocalTensor<float> Result(int32_t index) {
    const uint32_t cells = tiling_->groupRows * tiling_->stepColumns;
    return results_.Get<float>()[static_cast<uint32_t>(index) * cells];
  }

  const FlashAttentionTiling* tiling_;
  GlobalTensor<T> query_, key_, value_;
  Cube<T> cube_;
  TBuf<TPosition::A1> queries_, operands_;
  TBuf<TPosition::B1> keys_, values_;
  TBuf<TPosition::CO1> results_;
  TBuf<TPosition::VECCALC> scores_, staging_, keyStaging_;
  TQue<TPosition::VECOUT, 1> probs_;
  Softmax<T> softmax_;
  Output<T> output_;
  uint32_t partColumns_;
  StepWalker walker_;
  Step step_;  // at hand, of which `row_` rows have been given out
  uint32_t row_ = 0;
  uint32_t keyTurn_ = 0, valueTurn_ = 0, scoreTurn_ = 0, partTurn_ = 0;  // buffers of steps
  uint32_t scoreItem_ = 0, probItem_ = 0, partItem_ = 0;                 // and of items
};

}  // namespace omfuse

#endif  // !OMFUSE_FA_SPLIT
#endif  // OMFUSE_FA_COUPLED_H_
