// The cube core of split chips.
//
// Loads run ahead of their use by a step, because a read from global memory takes longer than the
// multiplication of a panel: the keys of step i + 1 and the values of step i - 3 are on the way while
// step i multiplies.
#ifndef OMFUSE_FA_CUBE_CORE_H_
#define OMFUSE_FA_CUBE_CORE_H_

#include "fa_copy_in.h"
#include "fa_cube.h"
#include "fa_schedule.h"
#include "fa_slots.h"

#if OMFUSE_FA_SPLIT

namespace omfuse {

constexpr int32_t kResultFlags = 3;

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
    pipe->InitBuffer(keys_, two * tiling->loadKeys * tiling->depthPad);
    pipe->InitBuffer(values_, two * tiling->loadKeys * tiling->valuePad);
    pipe->InitBuffer(probs_, two * tiling->loadKeys * tiling->blockRows);
    partColumns_ = tiling->valuePad + kFractal;
    const uint32_t columns = partColumns_ > 2 * kPanel ? partColumns_ : 2 * kPanel;
    pipe->InitBuffer(results_,
                     tiling->blockRows * columns * static_cast<uint32_t>(sizeof(float)));
    cube_.Init(pipe);
    for (int32_t i = 0; i < 8; ++i) SetFlag<HardEvent::MTE1_MTE2>(i);
    for (int32_t i = 0; i < kResultFlags; ++i) SetFlag<HardEvent::FIX_M>(i);
    Walk(in, core);
    for (int32_t i = 0; i < 8; ++i) WaitFlag<HardEvent::MTE1_MTE2>(i);
    for (int32_t i = 0; i < kResultFlags; ++i) WaitFlag<HardEvent::FIX_M>(i);
    cube_.Finish();
  }

 private:
  // The loads of one kind of operand: two buffers in turn, a part of a step each.
  struct Loads {
    uint32_t parts = 0;  // of the step at hand
    uint32_t issued = 0, used = 0;  // since the start; their parity is the buffer
    uint32_t base = 0;   // `issued` at the start of the step
  };

  __aicore__ inline void Walk(const Inputs& in, uint32_t core) {
    StepWalker walker;
    walker.Init(tiling_, in.kvLengths, core);
    Step ring[kRing];  // steps i - kLag to i + 1
    uint32_t end = 0;
    if (walker.Next(&ring[0])) {
      end = 1;
      PrefetchKeys(ring[0]);
    }
    for (uint32_t i = 0; i < end + kLag; ++i) {
      const Step& back = ring[(i - kLag) % kRing];
      if (i >= kLag) {
        Begin(&valueLoads_, back);
        for (uint32_t part = 0; part < Smaller(2, valueLoads_.parts); ++part) LoadValues(back);
        AscendC::CrossCoreWaitFlag(kProbsReady);
        Begin(&probLoads_, back);
        for (uint32_t part = 0; part < Smaller(2, probLoads_.parts); ++part) LoadProbs(back);
      }
      if (i < end) {
        ComputeScores(ring[i % kRing]);
        AscendC::CrossCoreSetFlag<2, PIPE_FIX>(kScoresReady);
        if (walker.Next(&ring[(i + 1) % kRing])) {
          end = i + 2;
          PrefetchKeys(ring[(i + 1) % kRing]);
        }
      }
      if (i >= kLag) {
        ComputeParts(back);
        AscendC::CrossCoreSetFlag<2, PIPE_FIX>(kPartsReady);
      }
    }
  }

  __aicore__ inline void Begin(Loads* loads, const Step& step) {
    loads->parts = CeilDiv(step.count, tiling_->loadKeys);
    loads->base = loads->issued;
  }

  // First key, and keys, of a part of a step.
  __aicore__ inline uint32_t PartBegin(uint32_t part) const { return part * tiling_->loadKeys; }
  __aicore__ inline uint32_t PartKeys(const Step& step, uint32_t part) const {
    return Smaller(tiling_->loadKeys, step.count - PartBegin(part));
  }

  __aicore__ inline void PrefetchKeys(const Step& step) {
    if (step.first) LoadQueries(step);
    Begin(&keyLoads_, step);
    for (uint32_t part = 0; part < Smaller(2, keyLoads_.parts); ++part) LoadKeys(step);
  }

  __aicore__ inline LocalTensor<T> Queries(const Step& step) {
    return queries_.template Get<T>()[step.turn % 2 * tiling_->blockRows * tiling_->depthPad];
  }

  __aicore__ inline void LoadQueries(const Step& step) {
    const FlashAttentionTiling& t = *tiling_;
    const int32_t flag = static_cast<int32_t>(step.turn % 2);
    const LocalTensor<T> to = Queries(step);
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
  }

  // The next part of the keys of a step, panel by panel.
  __aicore__ inline void LoadKeys(const Step& step) {
    const FlashAttentionTiling& t = *tiling_;
    const uint32_t buffer = keyLoads_.issued % 2;
    const int32_t flag = static_cast<int32_t>(2 + buffer);
    const uint32_t begin = PartBegin(keyLoads_.issued - keyLoads_.base);
    const uint32_t keys = PartKeys(step, keyLoads_.issued - keyLoads_.base);
    const GlobalTensor<T> source =
        key_[step.batch * t.kBatchStride + step.kvHead * t.kHeadStride];
    const LocalTensor<T> to = keys_.template Get<T>()[buffer * t.loadKeys * t.depthPad];
    WaitFlag<HardEvent::MTE1_MTE2>(flag);
    for (uint32_t done = 0; done < keys; done += kPanel) {
      const uint64_t row = step.begin + begin + done;
      MatrixToL1(to[done * t.depthPad], source[row * t.kRowStride], Smaller(kPanel, keys - done),
                 t.depth, t.kRowStride);
    }
    SetFlag<HardEvent::MTE2_MTE1>(flag);
    ++keyLoads_.issued;
  }

  __aicore__ inline void LoadValues(const Step& step) {
    const FlashAttentionTiling& t = *tiling_;
    const uint32_t buffer = valueLoads_.issued % 2;
    const int32_t flag = static_cast<int32_t>(4 + buffer);
    const uint32_t begin = PartBegin(valueLoads_.issued - valueLoads_.base);
    const uint32_t keys = PartKeys(step, valueLoads_.issued - valueLoads_.base);
    const GlobalTensor<T> source =
        value_[step.batch * t.vBatchStride + step.kvHead * t.vHeadStride];
    const LocalTensor<T> to = values_.template Get<T>()[buffer * t.loadKeys * t.valuePad];
    WaitFlag<HardEvent::MTE1_MTE2>(flag);
    for (uint32_t done = 0; done < keys; done += kPanel) {
      const uint64_t row = step.begin + begin + done;
      MatrixToL1(to[done * t.valuePad], source[row * t.vRowStride], Smaller(kPanel, keys - done),
                 t.valueDepth, t.vRowStride);
    }
    SetFlag<HardEvent::MTE2_MTE1>(flag);
    ++valueLoads_.issued;
  }

  __aicore__ inline void LoadProbs(const Step& step) {
    const FlashAttentionTiling& t = *tiling_;
    const uint32_t buffer = probLoads_.issued % 2;
    const int32_t flag = static_cast<int32_t>(6 + buffer);
    const uint32_t begin = PartBegin(probLoads_.issued - probLoads_.base);
    const uint32_t keys = PartKeys(step, probLoads_.issued - probLoads_.base);
    WaitFlag<HardEvent::MTE1_MTE2>(flag);
    AscendC::DataCopy(probs_.template Get<T>()[buffer * t.loadKeys * t.blockRows],
                      slots_.probs[step.slot][begin * step.rowsPad],
                      RoundUp(keys, kFractal) * step.rowsPad);
    SetFlag<HardEvent::MTE2_MTE1>(flag);
    ++probLoads_.issued;
  }

  __aicore__ inline void ComputeScores(const Step& step) {
    const FlashAttentionTiling& t = *tiling_;
    const int32_t queryFlag = static_cast<int32_t>(step.turn % 2);
    if (step.first) WaitFlag<HardEvent::MTE2_MTE1>(queryFlag);
    for (uint32_t part = 0; part < keyLoads_.parts; ++part) {
      const uint32_t buffer = keyLoads_.used % 2;
      const int32_t flag = static_cast<int32_t>(2 + buffer);
      const uint32_t keys = PartKeys(step, part);
      const LocalTensor<T> from = keys_.template Get<T>()[buffer * t.loadKeys * t.depthPad];
      WaitFlag<HardEvent::MTE2_MTE1>(flag);
      for (uint32_t done = 0; done < keys; done += kPanel) {
        ScorePanel(step, from[done * t.depthPad], PartBegin(part) + done,
                   RoundUp(Smaller(kPanel, keys - done), kFractal));
      }
      SetFlag<HardEvent::MTE1_MTE2>(flag);
      ++keyLoads_.used;
      if (keyLoads_.issued - keyLoads_.base < keyLoads_.parts) LoadKeys(step);
    }
    if (step.last) SetFlag<HardEvent::MTE1_MTE2>(queryFlag);
  }

  // Scores of `keys` keys, which start at key `at` of the step.
  __aicore__ inline void ScorePanel(const Step& step, const LocalTensor<T>& panel, uint32_t at,
                                    uint32_t keys) {
    const FlashAttentionTiling& t = *tiling_;
    const int32_t flag = static_cast<int32_t>(resultTurn_);
    const LocalTensor<float> to = Result(resultTurn_);
    WaitFlag<HardEvent::FIX_M>(flag);
    for (uint32_t first = 0; first < t.depthPad; first += kDepthPart) {
      const uint32_t depth = Smaller(kDepthPart, t.depthPad - first);
      cube_.Open();
      cube_.LoadLeft(Queries(step), step.rowsPad, step.rowsPad, first, depth);
      cube_.LoadKeys(panel, keys, first, depth);
      cube_.Multiply(to, step.rowsPad, keys, depth, first == 0);
    }
    Store(slots_.scores[step.slot][at * step.rowsPad], to, step.rowsPad, keys, flag);
    resultTurn_ ^= 1;
  }

  // The output part: value columns, then the row sums, in pieces of 128 columns. One piece uses a
  // half of L0C in turn; several use all of it.
  __aicore__ inline void ComputeParts(const Step& step) {
    const FlashAttentionTiling& t = *tiling_;
    const uint32_t pieces = CeilDiv(partColumns_, kDepthPart);
    const uint32_t first = pieces > 1 ? 0 : resultTurn_;
    for (uint32_t piece = 0; piece < pieces; ++piece) {
      WaitFlag<HardEvent::FIX_M>(static_cast<int32_t>(first + piece));
    }
    for (uint32_t part = 0; part < valueLoads_.parts; ++part) {
      const uint32_t buffer = valueLoads_.used % 2;
      const int32_t valueFlag = static_cast<int32_t>(4 + buffer);
      const int32_t probFlag = static_cast<int32_t>(6 + buffer);
      const uint32_t keys = PartKeys(step, part);
      const LocalTensor<T> values = values_.template Get<T>()[buffer * t.loadKeys * t.valuePad];
      const LocalTensor<T> probs = probs_.template Get<T>()[buffer * t.loadKeys * t.blockRows];
      WaitFlag<HardEvent::MTE2_MTE1>(valueFlag);
      WaitFlag<HardEvent::MTE2_MTE1>(probFlag);
      for (uint32_t done = 0; done < keys; done += kPanel) {
        PartPanel(step, probs[done * step.rowsPad], values[done * t.valuePad],
                  RoundUp(Smaller(kPanel, keys - done), kFractal), first, pieces,
                  part == 0 && done == 0);
      }
      SetFlag<HardEvent::MTE1_MTE2>(valueFlag);
      SetFlag<HardEvent::MTE1_MTE2>(probFlag);
      ++valueLoads_.used;
      if (valueLoads_.issued - valueLoads_.base < valueLoads_.parts) {
        LoadValues(step);
        LoadProbs(step);
      }
    }
    for (uint32_t piece = 0; piece < pieces; ++piece) {
      const uint32_t column = piece * kDepthPart;
      Store(slots_.parts[step.slot][column * step.rowsPad], Result(first + piece), step.rowsPad,
            Smaller(kDepthPart, partColumns_ - column), static_cast<int32_t>(first + piece));
    }
    resultTurn_ ^= 1;
  }

  __aicore__ inline void PartPanel(const Step& step, const LocalTensor<T>& probs,
                                   const LocalTensor<T>& values, uint32_t keys, uint32_t first,
                                   uint32_t pieces, bool fresh) {
    const FlashAttentionTiling& t = *tiling_;
    for (uint32_t piece = 0; piece < pieces; ++piece) {
      const uint32_t column = piece * kDepthPart;
      const uint32_t columns = Smaller(kDepthPart, partColumns_ - column);
      const bool ones = piece + 1 == pieces;
      cube_.Open();
      cube_.LoadLeft(probs, step.rowsPad, step.rowsPad, 0, keys);
      cube_.LoadValues(values, keys, column, ones ? columns - kFractal : columns, ones);
      cube_.Multiply(Result(first + piece), step.rowsPad, columns, keys, fresh);
    }
  }

  // L0C to a slot, columns of 16 as they are.
  __aicore__ inline void Store(const GlobalTensor<float>& to, const LocalTensor<float>& from,
                               uint32_t rows, uint32_t columns, int32_t flag) {
    SetFlag<HardEvent::M_FIX>(flag);
    WaitFlag<HardEvent::M_FIX>(flag);
    AscendC::FixpipeParamsV220 params;
    params.nSize = static_cast<uint16_t>(columns);
    params.mSize = static_cast<uint16_t>(rows);
    params.srcStride = static_cast<uint16_t>(rows);
    params.dstStride = rows * 2;  // blocks of 32 bytes
    params.quantPre = QuantMode_t::NoQuant;
    AscendC::Fixpipe<float, float, AscendC::CFG_NZ>(to, from, params);
    SetFlag<HardEvent::FIX_M>(flag);
  }

  __aicore__ inline LocalTensor<float> Result(uint32_t piece) {
    return results_.Get<float>()[piece * tiling_->blockRows * kDepthPart];
  }

  const FlashAttentionTiling* tiling_;
  GlobalTensor<T> query_, key_, value_;
  Slots<T> slots_;
  Cube<T> cube_;
  TBuf<TPosition::A1> queries_, probs_;
  TBuf<TPosition::B1> keys_, values_;
  TBuf<TPosition::CO1> results_;
  Loads keyLoads_, valueLoads_, probLoads_;
  uint32_t partColumns_, resultTurn_ = 0;
};

}  // namespace omfuse

#endif  // OMFUSE_FA_SPLIT
#endif  // OMFUSE_FA_CUBE_CORE_H_
