// The pipeline of split chips: cube and vector cores joined by slots in global memory.
//
// The cube core computes the scores of step i and then the output part of step i - 2; its two vector
// cores turn the scores of step i into probabilities and then add the part of step i - 1. Three
// slots a stage are enough for that without any flag that says "slot free": whoever overwrites a
// slot has already waited for a later result of its reader.
#ifndef OMFUSE_FA_SPLIT_H_
#define OMFUSE_FA_SPLIT_H_

#include "fa_copy_in.h"
#include "fa_cube.h"
#include "fa_output.h"

#if OMFUSE_FA_SPLIT

namespace omfuse {

constexpr uint16_t kScoresReady = 0;  // cross-core flags
constexpr uint16_t kProbsReady = 1;
constexpr uint16_t kPartsReady = 2;
constexpr uint32_t kHalfL0c = 64 * 1024;

// The slots of one cube core and its vector cores.
template <typename T>
struct Slots {
  GlobalTensor<float> scores[kSlots], parts[kSlots];
  GlobalTensor<T> probs[kSlots];

  __aicore__ inline void Init(const FlashAttentionTiling& t, GM_ADDR workspace, uint32_t core) {
    GM_ADDR base = workspace + t.coreBytes * core;
    for (uint32_t i = 0; i < kSlots; ++i) {
      scores[i].SetGlobalBuffer(
          reinterpret_cast<__gm__ float*>(base + t.scoresOffset + i * t.scoresSlot));
      probs[i].SetGlobalBuffer(reinterpret_cast<__gm__ T*>(base + t.probsOffset + i * t.probsSlot));
      parts[i].SetGlobalBuffer(
          reinterpret_cast<__gm__ float*>(base + t.partsOffset + i * t.partsSlot));
    }
  }
};

// Flags of L1: queries 0 and 1, keys 2 and 3, values 4 and 5, probabilities 6 and 7.
template <typename T>
class CubeCore {
 public:
  __aicore__ inline void Run(TPipe* pipe, const FlashAttentionTiling* tiling, const Inputs& in,
                             uint32_t core) {
    tiling_ = tiling;
    query_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(in.query));
    key_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(in.key));
    value_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(in.value));
    slots_.Init(*tiling, in.workspace, core);
    const uint32_t two = 2 * static_cast<uint32_t>(sizeof(T));
    pipe->InitBuffer(queries_, two * tiling->blockRows * tiling->depthPad);
    pipe->InitBuffer(keys_, two * kPanel * tiling->depthPad);
    pipe->InitBuffer(values_, two * kPanel * tiling->valuePad);
    pipe->InitBuffer(probs_, two * kPanel * tiling->blockRows);
    pipe->InitBuffer(results_, 2 * kHalfL0c);
    cube_.Init(pipe);
    for (int32_t i = 0; i < 8; ++i) SetFlag<HardEvent::MTE1_MTE2>(i);
    SetFlag<HardEvent::FIX_M>(EVENT_ID0);
    SetFlag<HardEvent::FIX_M>(EVENT_ID1);

    StepWalker walker;
    walker.Init(tiling, in.kvLengths, core);
    Step steps[kSlots];
    bool more = true;
    uint32_t end = 0;
    for (uint32_t i = 0; more || i < end + 2; ++i) {
      if (more) more = walker.Next(&steps[i % kSlots]);
      if (more) {
        ComputeScores(steps[i % kSlots]);
        AscendC::CrossCoreSetFlag<2, PIPE_FIX>(kScoresReady);
        end = i + 1;
      }
      if (i >= 2 && i - 2 < end) {
        AscendC::CrossCoreWaitFlag(kProbsReady);
        ComputeParts(steps[(i - 2) % kSlots]);
        AscendC::CrossCoreSetFlag<2, PIPE_FIX>(kPartsReady);
      }
    }

    for (int32_t i = 0; i < 8; ++i) WaitFlag<HardEvent::MTE1_MTE2>(i);
    WaitFlag<HardEvent::FIX_M>(EVENT_ID0);
    WaitFlag<HardEvent::FIX_M>(EVENT_ID1);
    cube_.Finish();
  }

 private:
  __aicore__ inline void LoadQueries(const Step& step, const LocalTensor<T>& to, int32_t flag) {
    const FlashAttentionTiling& t = *tiling_;
    WaitFlag<HardEvent::MTE1_MTE2>(flag);
    const uint64_t batch = step.batch * t.qBatchStride;
    if (!t.packed) {
      const uint64_t at = batch + step.unit * t.qHeadStride +
                          static_cast<uint64_t>(step.firstRow) * t.qRowStride;
      MatrixToL1(to, query_[at], step.rows, t.depth, t.qRowStride);
    } else {
      const GlobalTensor<T> first = query_[batch + step.kvHead * t.group * t.qHeadStride];
      for (uint32_t head = 0; head < t.group; ++head) {
        RowsToL1(to[head * t.qLen * kFractal], first[head * t.qHeadStride], t.qLen, t.depth,
                 t.qRowStride, step.rowsPad);
      }
      if (step.rowsPad > step.rows) {
        RepeatRow(to[step.rows * kFractal], first, step.rowsPad - step.rows, t.depth,
                  step.rowsPad);
      }
    }
    SetFlag<HardEvent::MTE2_MTE1>(flag);
    WaitFlag<HardEvent::MTE2_MTE1>(flag);
  }

  __aicore__ inline void ComputeScores(const Step& step) {
    const FlashAttentionTiling& t = *tiling_;
    const uint32_t turn = step.turn % 2;
    const LocalTensor<T> queries =
        queries_.template Get<T>()[turn * t.blockRows * t.depthPad];
    if (step.first) LoadQueries(step, queries, static_cast<int32_t>(turn));
    const GlobalTensor<T> source =
        key_[step.batch * t.kBatchStride + step.kvHead * t.kHeadStride];
    for (uint32_t done = 0; done < step.count; done += kPanel) {
      const uint32_t some = Smaller(kPanel, step.count - done);
      const uint32_t padded = RoundUp(some, kFractal);
      const int32_t flag = static_cast<int32_t>(2 + keyTurn_);
      const LocalTensor<T> keys = keys_.template Get<T>()[keyTurn_ * kPanel * t.depthPad];
      WaitFlag<HardEvent::MTE1_MTE2>(flag);
      MatrixToL1(keys, source[static_cast<uint64_t>(step.begin + done) * t.kRowStride], some,
                 t.depth, t.kRowStride);
      SetFlag<HardEvent::MTE2_MTE1>(flag);
      WaitFlag<HardEvent::MTE2_MTE1>(flag);
      const event_t result = ResultEvent();
      const LocalTensor<float> to = Result(resultTurn_);
      WaitFlag<HardEvent::FIX_M>(result);
      for (uint32_t first = 0; first < t.depthPad; first += kDepthPart) {
        const uint32_t depth = Smaller(kDepthPart, t.depthPad - first);
        cube_.Open();
        cube_.LoadLeft(queries, step.rowsPad, step.rowsPad, first, depth);
        cube_.LoadKeys(keys, padded, first, depth);
        cube_.Multiply(to, step.rowsPad, padded, depth, first == 0);
      }
      SetFlag<HardEvent::MTE1_MTE2>(flag);
      keyTurn_ ^= 1;
      SetFlag<HardEvent::M_FIX>(result);
      WaitFlag<HardEvent::M_FIX>(result);
      Store(slots_.scores[step.slot][done * step.rowsPad], to, step.rowsPad, padded);
      SetFlag<HardEvent::FIX_M>(result);
      resultTurn_ ^= 1;
    }
    if (step.last) SetFlag<HardEvent::MTE1_MTE2>(static_cast<int32_t>(turn));
  }

  __aicore__ inline void ComputeParts(const Step& step) {
    const FlashAttentionTiling& t = *tiling_;
    const GlobalTensor<T> source =
        value_[step.batch * t.vBatchStride + step.kvHead * t.vHeadStride];
    const uint32_t halves = CeilDiv(t.valuePad, kDepthPart);  // 1, or 2 and all of L0C
    if (halves > 1) resultTurn_ = 0;
    for (uint32_t half = 0; half < halves; ++half) {
      WaitFlag<HardEvent::FIX_M>(half || resultTurn_ ? EVENT_ID1 : EVENT_ID0);
    }
    for (uint32_t done = 0; done < step.count; done += kPanel) {
      const uint32_t some = Smaller(kPanel, step.count - done);
      const uint32_t padded = RoundUp(some, kFractal);
      const int32_t valueFlag = static_cast<int32_t>(4 + valueTurn_);
      const int32_t probFlag = static_cast<int32_t>(6 + valueTurn_);
      const LocalTensor<T> values = values_.template Get<T>()[valueTurn_ * kPanel * t.valuePad];
      const LocalTensor<T> probs = probs_.template Get<T>()[valueTurn_ * kPanel * t.blockRows];
      WaitFlag<HardEvent::MTE1_MTE2>(valueFlag);
      MatrixToL1(values, source[static_cast<uint64_t>(step.begin + done) * t.vRowStride], some,
                 t.valueDepth, t.vRowStride);
      SetFlag<HardEvent::MTE2_MTE1>(valueFlag);
      WaitFlag<HardEvent::MTE1_MTE2>(probFlag);
      AscendC::DataCopy(probs, slots_.probs[step.slot][done * step.rowsPad],
                        padded * step.rowsPad);
      SetFlag<HardEvent::MTE2_MTE1>(probFlag);
      WaitFlag<HardEvent::MTE2_MTE1>(valueFlag);
      WaitFlag<HardEvent::MTE2_MTE1>(probFlag);
      for (uint32_t half = 0; half < halves; ++half) {
        const uint32_t first = half * kDepthPart;
        const uint32_t columns = Smaller(kDepthPart, t.valuePad - first);
        cube_.Open();
        cube_.LoadLeft(probs, step.rowsPad, step.rowsPad, 0, padded);
        cube_.LoadValues(values, padded, first, columns);
        cube_.Multiply(Result(half + resultTurn_), step.rowsPad, columns, padded, done == 0);
      }
      SetFlag<HardEvent::MTE1_MTE2>(valueFlag);
      SetFlag<HardEvent::MTE1_MTE2>(probFlag);
      valueTurn_ ^= 1;
    }
    for (uint32_t half = 0; half < halves; ++half) {
      const event_t result = half || resultTurn_ ? EVENT_ID1 : EVENT_ID0;
      const uint32_t first = half * kDepthPart;
      SetFlag<HardEvent::M_FIX>(result);
      WaitFlag<HardEvent::M_FIX>(result);
      Store(slots_.parts[step.slot][first * step.rowsPad], Result(half + resultTurn_),
            step.rowsPad, Smaller(kDepthPart, t.valuePad - first));
      SetFlag<HardEvent::FIX_M>(result);
    }
    resultTurn_ ^= 1;
  }

  // L0C to a slot, columns of 16 as they are.
  __aicore__ inline void Store(const GlobalTensor<float>& to, const LocalTensor<float>& from,
                               uint32_t rows, uint32_t columns) {
    AscendC::FixpipeParamsV220 params;
    params.nSize = static_cast<uint16_t>(columns);
    params.mSize = static_cast<uint16_t>(rows);
    params.srcStride = static_cast<uint16_t>(rows);
    params.dstStride = rows * 2;  // blocks of 32 bytes
    params.quantPre = QuantMode_t::NoQuant;
    AscendC::Fixpipe<float, float, AscendC::CFG_NZ>(to, from, params);
  }

  __aicore__ inline event_t ResultEvent() const { return resultTurn_ ? EVENT_ID1 : EVENT_ID0; }
  __aicore__ inline LocalTensor<float> Result(uint32_t turn) {
    return results_.Get<float>()[turn * (kHalfL0c / sizeof(float))];
  }

  const FlashAttentionTiling* tiling_;
  GlobalTensor<T> query_, key_, value_;
  Slots<T> slots_;
  Cube<T> cube_;
  TBuf<TPosition::A1> queries_, probs_;
  TBuf<TPosition::B1> keys_, values_;
  TBuf<TPosition::CO1> results_;
  uint32_t keyTurn_ = 0, valueTurn_ = 0, resultTurn_ = 0;
};

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
                     tiling->chunkRows * tiling->valuePad * static_cast<uint32_t>(sizeof(float)));
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
    const AscendC::DataCopyParams params(static_cast<uint16_t>(tiling_->valuePad / kFractal),
                                         static_cast<uint16_t>(rows * 2),
                                         static_cast<uint16_t>((step.rowsPad - rows) * 2), 0);
    AscendC::DataCopy(part, slots_.parts[step.slot][(Offset(step) + row) * kFractal], params);
    parts_.EnQue(part);
  }

  __aicore__ inline void AddPart(const Step& step) {
    const uint32_t held = Rows(step);
    LoadPart(step, 0);
    if (step.first) output_.Start(held);
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
    output_.Finish(step, softmax_.Max(step), softmax_.Sum(step), step.firstRow + offset, held,
                   valid);
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
#endif  // OMFUSE_FA_SPLIT_H_
