// The pipeline of coupled chips: one core, everything on chip.
//
// Scores go from L0C to UB, probabilities from UB to L1, no global memory between. While the vector
// unit works on the softmax of step i and adds the output part of step i - 2, the cube computes the
// scores of step i + 1 and the part of step i - 1.
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
    softmax_.Init(pipe, tiling, in, tiling->blockRows);
    output_.Init(pipe, tiling, in, tiling->blockRows);
    OpenFlags();
    if (tiling->taskRun) {
      output_.Own(FirstElement(*tiling, FirstTask(*tiling, core)),
                  FirstElement(*tiling, FirstTask(*tiling, core + 1)));
    }

    StepWalker walker;
    walker.Init(tiling, in.kvLengths, core);
    Step ring[kRing];
    uint32_t loaded = 0;  // steps whose keys are on the way
    for (uint32_t i = 0; i < 2 && loaded == i; ++i) {
      if (!walker.Next(&ring[i])) break;
      LoadKeys(ring[loaded++]);
      PassKeys(ring[i]);
    }
    if (loaded) ComputeScores(ring[0]);
    for (uint32_t i = 0; i < loaded + kLag; ++i) {
      if (i < loaded) LoadValues(ring[i % kRing]);
      if (i + 1 < loaded) ComputeScores(ring[(i + 1) % kRing]);
      const bool more = i + 2 == loaded && walker.Next(&ring[loaded % kRing]);
      if (more) LoadKeys(ring[loaded++ % kRing]);
      if (i < loaded) ComputeProbs(ring[i % kRing]);
      if (i >= kLag && i - kLag < loaded) {
        AddPart(ring[(i - kLag) % kRing]);  // makes room for the next part
      }
      if (more) PassKeys(ring[(i + 2) % kRing]);
      if (i >= 1 && i - 1 < loaded) ComputeParts(ring[(i - 1) % kRing]);
    }
    CloseFlags();
  }

 private:
  __aicore__ inline void InitBuffers(TPipe* pipe) {
    const FlashAttentionTiling& t = *tiling_;
    const uint32_t size = static_cast<uint32_t>(sizeof(T));
    pipe->InitBuffer(queries_, 2 * t.blockRows * t.depthPad * size);
    pipe->InitBuffer(keys_, 2 * kPanel * t.depthPad * size);
    pipe->InitBuffer(values_, 2 * kPanel * t.valuePad * size);
    pipe->InitBuffer(operands_, 2 * kPanel * t.blockRows * size);
    partColumns_ = t.valuePad + kFractal;
    pipe->InitBuffer(
        results_, t.blockRows * (2 * kPanel + partColumns_) * static_cast<uint32_t>(sizeof(float)));
    cube_.Init(pipe);
    const uint32_t cells = t.blockRows * kPanel;
    const uint32_t part = t.chunkRows * partColumns_;
    pipe->InitBuffer(scores_, (part > cells ? part : cells) * static_cast<uint32_t>(sizeof(float)));
    pipe->InitBuffer(probs_, 1, t.blockRows * kPanel * size);
    if (t.depth % kFractal) pipe->InitBuffer(staging_, t.blockRows * t.depthPad * size);
    if (ShortKeys()) pipe->InitBuffer(keyStaging_, kPanel * t.depthPad * size);
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
      RepeatRow(to[step.rows * kFractal], first, step.rowsPad - step.rows, t.depth, step.rowsPad);
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

  // The keys of a step, and the queries of its task.
  __aicore__ inline void LoadKeys(const Step& step) {
    const FlashAttentionTiling& t = *tiling_;
    if (step.first) LoadQueries(step, Queries(step), static_cast<int32_t>(step.turn % 2));
    const int32_t flag = static_cast<int32_t>(2 + keyTurn_);
    const uint64_t at = step.batch * t.kBatchStride + step.kvHead * t.kHeadStride +
                        static_cast<uint64_t>(step.begin) * t.kRowStride;
    if (ShortKeys()) {
      WaitFlag<HardEvent::MTE3_MTE2>(kKeyStagingFlag);
      MatrixToL1(keyStaging_.template Get<T>(), key_[at], step.count, t.depth, t.kRowStride);
      SetFlag<HardEvent::MTE2_V>(kKeyStagingFlag);
      return;
    }
    WaitFlag<HardEvent::MTE1_MTE2>(flag);
    MatrixToL1(keys_.template Get<T>()[keyTurn_ * kPanel * t.depthPad], key_[at], step.count,
               t.depth, t.kRowStride);
    SetFlag<HardEvent::MTE2_MTE1>(flag);
    keyTurn_ ^= 1;
  }

  // Short keys go by UB, where what is not theirs becomes zero: another row's NaN or infinity would
  // survive the zeros of the queries.
  __aicore__ inline void PassKeys(const Step& step) {
    if (!ShortKeys()) return;
    const FlashAttentionTiling& t = *tiling_;
    const int32_t flag = static_cast<int32_t>(4 + keyTurn_);
    const LocalTensor<T> staging = keyStaging_.template Get<T>();
    WaitFlag<HardEvent::MTE2_V>(kKeyStagingFlag);
    ClearLanes(staging, step.countPad, Foreign());
    SetFlag<HardEvent::V_MTE3>(kKeyStagingFlag);
    WaitFlag<HardEvent::V_MTE3>(kKeyStagingFlag);
    WaitFlag<HardEvent::MTE1_MTE3>(flag);
    const AscendC::DataCopyParams params(1, static_cast<uint16_t>(step.countPad), 0, 0);
    AscendC::DataCopy(keys_.template Get<T>()[keyTurn_ * kPanel * t.depthPad], staging, params);
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

  __aicore__ inline void LoadValues(const Step& step) {
    const FlashAttentionTiling& t = *tiling_;
    const int32_t flag = static_cast<int32_t>(4 + valueTurn_);
    const uint64_t at = step.batch * t.vBatchStride + step.kvHead * t.vHeadStride +
                        static_cast<uint64_t>(step.begin) * t.vRowStride;
    WaitFlag<HardEvent::MTE1_MTE2>(flag);
    MatrixToL1(values_.template Get<T>()[valueTurn_ * kPanel * t.valuePad], value_[at], step.count,
               t.valueDepth, t.vRowStride);
    SetFlag<HardEvent::MTE2_MTE1>(flag);
    valueTurn_ ^= 1;
  }

  __aicore__ inline LocalTensor<T> Queries(const Step& step) {
    return queries_.template Get<T>()[step.turn % 2 * tiling_->blockRows * tiling_->depthPad];
  }

  __aicore__ inline void ComputeScores(const Step& step) {
    const FlashAttentionTiling& t = *tiling_;
    const int32_t turn = static_cast<int32_t>(step.turn % 2);
    const LocalTensor<T> queries = Queries(step);
    if (step.first) WaitQueries(turn);
    const LocalTensor<T> keys = keys_.template Get<T>()[scoreTurn_ * kPanel * t.depthPad];
    WaitKeys(scoreTurn_);
    const int32_t result = static_cast<int32_t>(scoreTurn_);
    WaitFlag<HardEvent::V_M>(result);
    for (uint32_t first = 0; first < t.depthPad; first += kDepthPart) {
      const uint32_t depth = Smaller(kDepthPart, t.depthPad - first);
      cube_.Open();
      cube_.LoadLeft(queries, step.rowsPad, step.rowsPad, first, depth);
      cube_.LoadKeys(keys, step.countPad, 0, step.countPad, first, depth, 0);
      cube_.Close();
      cube_.Multiply(Result(result), step.rowsPad, step.countPad, depth, first == 0);
      cube_.Release();
    }
    FreeKeys(scoreTurn_);
    SetFlag<HardEvent::M_V>(result);
    if (step.last) FreeQueries(turn);
    scoreTurn_ ^= 1;
  }

  __aicore__ inline void ComputeProbs(const Step& step) {
    if (step.first) softmax_.Start(step, step.firstRow, step.rowsPad);
    const int32_t result = static_cast<int32_t>(probTurn_);
    const LocalTensor<float> scores = scores_.Get<float>();
    WaitFlag<HardEvent::M_V>(result);
    FromL0c(scores, Result(result), 1, step.rowsPad * step.countPad, 0);
    Barrier();
    SetFlag<HardEvent::V_M>(result);
    softmax_.Process(scores, step, step.firstRow, 0, step.rowsPad);
    LocalTensor<T> probs = probs_.template AllocTensor<T>();
    AscendC::Cast(probs, scores, kNarrow, step.countPad * step.rowsPad);
    probs_.EnQue(probs);
    probs = probs_.template DeQue<T>();
    WaitFlag<HardEvent::MTE1_MTE3>(result);
    const AscendC::DataCopyParams params(
        1, static_cast<uint16_t>(step.rowsPad * step.countPad / kFractal), 0, 0);
    AscendC::DataCopy(operands_.template Get<T>()[probTurn_ * kPanel * tiling_->blockRows], probs,
                      params);
    SetFlag<HardEvent::MTE3_MTE1>(result);
    probs_.FreeTensor(probs);
    probTurn_ ^= 1;
  }

  __aicore__ inline void ComputeParts(const Step& step) {
    const FlashAttentionTiling& t = *tiling_;
    const int32_t turn = static_cast<int32_t>(partTurn_);
    const int32_t flag = 4 + turn;
    const LocalTensor<T> values = values_.template Get<T>()[partTurn_ * kPanel * t.valuePad];
    WaitFlag<HardEvent::MTE2_MTE1>(flag);
    WaitFlag<HardEvent::MTE3_MTE1>(turn);
    WaitFlag<HardEvent::V_M>(2);
    const LocalTensor<T> probs = operands_.template Get<T>()[partTurn_ * kPanel * t.blockRows];
    for (uint32_t first = 0; first < partColumns_; first += kDepthPart) {
      const uint32_t columns = Smaller(kDepthPart, partColumns_ - first);
      const bool ones = first + columns == partColumns_;
      cube_.Open();
      cube_.LoadLeft(probs, step.rowsPad, step.rowsPad, 0, step.countPad);
      cube_.LoadValues(values, step.countPad, first, ones ? columns - kFractal : columns, ones);
      cube_.Close();
      cube_.Multiply(Result(2)[first * step.rowsPad], step.rowsPad, columns, step.countPad, true);
      cube_.Release();
    }
    SetFlag<HardEvent::MTE1_MTE2>(flag);
    SetFlag<HardEvent::MTE1_MTE3>(turn);
    SetFlag<HardEvent::M_V>(2);
    partTurn_ ^= 1;
  }

  __aicore__ inline void AddPart(const Step& step) {
    const FlashAttentionTiling& t = *tiling_;
    if (step.first) output_.Start(step);
    WaitFlag<HardEvent::M_V>(2);
    const LocalTensor<float> part = scores_.Get<float>();  // whose scores became probabilities
    for (uint32_t row = 0; row < step.rowsPad; row += t.chunkRows) {
      const uint32_t rows = Smaller(t.chunkRows, step.rowsPad - row);
      FromL0c(part, Result(2)[row * kFractal], partColumns_ / kFractal, rows * kFractal,
              (step.rowsPad - rows) / kFractal);
      Barrier();
      output_.Accumulate(part, softmax_.Alpha(step), row, rows);
    }
    SetFlag<HardEvent::V_M>(2);
    if (step.last) {
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
    return results_.Get<float>()[static_cast<uint32_t>(index) * tiling_->blockRows * kPanel];
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
  uint32_t keyTurn_ = 0, valueTurn_ = 0, scoreTurn_ = 0, probTurn_ = 0, partTurn_ = 0;
};

}  // namespace omfuse

#endif  // !OMFUSE_FA_SPLIT
#endif  // OMFUSE_FA_COUPLED_H_
