// The cube core of split chips.
//
// Loads run ahead of their use by a step, because a read from global memory takes longer than the
// multiplication of a panel: each kind of operand is a stream of loads through two buffers, and a
// buffer fills again as soon as it is free, with the next step's part if need be.
#ifndef OMFUSE_FA_CUBE_CORE_H_
#define OMFUSE_FA_CUBE_CORE_H_

#include "fa_copy_in.h"
#include "fa_cube.h"
#include "fa_schedule.h"
#include "fa_slots.h"

#if OMFUSE_FA_SPLIT

namespace omfuse {

constexpr int32_t kResultFlags = 5;

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
    pieceColumns_ =
        kHalfL0 / static_cast<uint32_t>(sizeof(T)) / tiling->panelKeys / kFractal * kFractal;
    together_ = tiling->alternate && partColumns_ <= pieceColumns_;
    if (tiling->alternate) {
      pieceColumns_ = Smaller(pieceColumns_, RoundUp(CeilDiv(partColumns_, 2), kFractal));
    }
    uint32_t columns = tiling->panelKeys + partColumns_;
    if (!tiling->alternate) columns = partColumns_ > 2 * kPanel ? partColumns_ : 2 * kPanel;
    pipe->InitBuffer(results_, tiling->blockRows * columns * static_cast<uint32_t>(sizeof(float)));
    cube_.Init(pipe);
    for (int32_t i = 0; i < 8; ++i) SetFlag<HardEvent::MTE1_MTE2>(i);
    for (int32_t i = 0; i < kResultFlags; ++i) SetFlag<HardEvent::FIX_M>(i);
    Walk(in, core);
    for (int32_t i = 0; i < 8; ++i) WaitFlag<HardEvent::MTE1_MTE2>(i);
    for (int32_t i = 0; i < kResultFlags; ++i) WaitFlag<HardEvent::FIX_M>(i);
    cube_.Finish();
  }

 private:
  // The loads of one kind of operand, a stream over the parts of all steps through two buffers.
  struct Loads {
    uint32_t issued = 0, used = 0;  // their parity is the buffer
    uint32_t index = 0, part = 0;   // of the next load: step and part
  };

  __aicore__ inline void Walk(const Inputs& in, uint32_t core) {
    walker_.Init(tiling_, in.kvLengths, core);
    if (walker_.Next(&ring_[0])) end_ = 1;
    for (uint32_t i = 0; i < end_ + kLag; ++i) {
      if (i + 1 == end_ && walker_.Next(&ring_[end_ % kRing])) ++end_;
      FillKeys();
      const Step& step = ring_[i % kRing];
      const Step& back = ring_[(i - kLag) % kRing];
      bool scores = i < end_;
      bool parts = i >= kLag;
      if (parts) {
        FillValues();
        FillProbs(i - kLag);
      }
      if (scores) BeginScores(step);
      if (!tiling_->alternate && scores) {
        while (NextScores(step)) {
        }
        EndScores(step);
        scores = false;
      }
      if (parts) BeginParts();
      // Alternating: a panel of scores leaves L0C while a panel of values multiplies.
      bool left = scores || parts;
      while (left) {
        left = scores && NextScores(step);
        left = (parts && NextParts(back, i + 1 - kLag)) || left;
      }
      if (scores) EndScores(step);
      if (parts) EndParts(back);
    }
  }

  __aicore__ inline uint32_t Parts(const Step& step) const {
    return CeilDiv(step.count, tiling_->loadKeys);
  }
  // First key, and keys, of a part of a step.
  __aicore__ inline uint32_t PartBegin(uint32_t part) const { return part * tiling_->loadKeys; }
  __aicore__ inline uint32_t PartKeys(const Step& step, uint32_t part) const {
    return Smaller(tiling_->loadKeys, step.count - PartBegin(part));
  }

  // Whether a buffer is free for one more part of a step up to `last`.
  __aicore__ inline bool Wanted(const Loads& loads, uint32_t last) const {
    return loads.issued - loads.used < 2 && loads.index < end_ && loads.index <= last;
  }
  __aicore__ inline void Advance(Loads* loads) {
    ++loads->issued;
    if (++loads->part < Parts(ring_[loads->index % kRing])) return;
    loads->part = 0;
    ++loads->index;
  }

  __aicore__ inline void FillKeys() {
    while (Wanted(keyLoads_, end_)) {
      const Step& step = ring_[keyLoads_.index % kRing];
      if (keyLoads_.part == 0 && step.first) LoadQueries(step);
      LoadKeys(step);
      Advance(&keyLoads_);
    }
  }
  __aicore__ inline void FillValues() {
    while (Wanted(valueLoads_, end_)) {
      LoadValues(ring_[valueLoads_.index % kRing]);
      Advance(&valueLoads_);
    }
  }
  // Probabilities come from the vector cores, so only as far as `last`, whose scores they have.
  __aicore__ inline void FillProbs(uint32_t last) {
    while (Wanted(probLoads_, last)) {
      if (probLoads_.part == 0) AscendC::CrossCoreWaitFlag(kProbsReady);
      LoadProbs(ring_[probLoads_.index % kRing]);
      Advance(&probLoads_);
    }
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
      const uint64_t at =
          batch + step.unit * t.qHeadStride + static_cast<uint64_t>(step.firstRow) * t.qRowStride;
      MatrixToL1(to, query_[at], step.rows, t.depth, t.qRowStride);
    } else {
      const GlobalTensor<T> first = query_[batch + step.kvHead * t.group * t.qHeadStride];
      for (uint32_t head = 0; head < t.group; ++head) {
        RowsToL1(to[head * t.qLen * kFractal], first[head * t.qHeadStride], t.qLen, t.depth,
                 t.qRowStride, step.rowsPad);
      }
      if (step.rowsPad > step.rows) {
        RepeatRows(to[step.rows * kFractal], first, t.qLen, step.rowsPad - step.rows, t.depth,
                   t.qRowStride, step.rowsPad);
      }
    }
    SetFlag<HardEvent::MTE2_MTE1>(flag);
  }

  // The next part of the keys of a step, panel by panel.
  __aicore__ inline void LoadKeys(const Step& step) {
    const FlashAttentionTiling& t = *tiling_;
    const uint32_t buffer = keyLoads_.issued % 2;
    const int32_t flag = static_cast<int32_t>(2 + buffer);
    const uint32_t begin = PartBegin(keyLoads_.part);
    const uint32_t keys = PartKeys(step, keyLoads_.part);
    const GlobalTensor<T> source = key_[step.batch * t.kBatchStride + step.kvHead * t.kHeadStride];
    const LocalTensor<T> to = keys_.template Get<T>()[buffer * t.loadKeys * t.depthPad];
    WaitFlag<HardEvent::MTE1_MTE2>(flag);
    for (uint32_t done = 0; done < keys; done += t.panelKeys) {
      const uint64_t row = step.begin + begin + done;
      MatrixToL1(to[done * t.depthPad], source[row * t.kRowStride],
                 Smaller(t.panelKeys, keys - done), t.depth, t.kRowStride);
    }
    SetFlag<HardEvent::MTE2_MTE1>(flag);
  }

  __aicore__ inline void LoadValues(const Step& step) {
    const FlashAttentionTiling& t = *tiling_;
    const uint32_t buffer = valueLoads_.issued % 2;
    const int32_t flag = static_cast<int32_t>(4 + buffer);
    const uint32_t begin = PartBegin(valueLoads_.part);
    const uint32_t keys = PartKeys(step, valueLoads_.part);
    const GlobalTensor<T> source =
        value_[step.batch * t.vBatchStride + step.kvHead * t.vHeadStride];
    const LocalTensor<T> to = values_.template Get<T>()[buffer * t.loadKeys * t.valuePad];
    WaitFlag<HardEvent::MTE1_MTE2>(flag);
    for (uint32_t done = 0; done < keys; done += t.panelKeys) {
      const uint64_t row = step.begin + begin + done;
      MatrixToL1(to[done * t.valuePad], source[row * t.vRowStride],
                 Smaller(t.panelKeys, keys - done), t.valueDepth, t.vRowStride);
    }
    SetFlag<HardEvent::MTE2_MTE1>(flag);
  }

  __aicore__ inline void LoadProbs(const Step& step) {
    const FlashAttentionTiling& t = *tiling_;
    const uint32_t buffer = probLoads_.issued % 2;
    const int32_t flag = static_cast<int32_t>(6 + buffer);
    const uint32_t begin = PartBegin(probLoads_.part);
    const uint32_t keys = PartKeys(step, probLoads_.part);
    WaitFlag<HardEvent::MTE1_MTE2>(flag);
    AscendC::DataCopy(probs_.template Get<T>()[buffer * t.loadKeys * t.blockRows],
                      slots_.probs[step.slot][begin * step.rowsPad],
                      RoundUp(keys, kFractal) * step.rowsPad);
    SetFlag<HardEvent::MTE2_MTE1>(flag);
  }

  // Where the multiplications of a step stand: part of the loads, and keys done of it.
  struct Cursor {
    uint32_t part = 0, done = 0;
  };

  __aicore__ inline void BeginScores(const Step& step) {
    scores_ = Cursor();
    if (step.first) WaitFlag<HardEvent::MTE2_MTE1>(static_cast<int32_t>(step.turn % 2));
  }

  // The next panel of scores; false when the step has no more.
  __aicore__ inline bool NextScores(const Step& step) {
    const FlashAttentionTiling& t = *tiling_;
    if (scores_.part == Parts(step)) return false;
    const uint32_t buffer = keyLoads_.used % 2;
    const int32_t flag = static_cast<int32_t>(2 + buffer);
    const uint32_t keys = PartKeys(step, scores_.part);
    const LocalTensor<T> from = keys_.template Get<T>()[buffer * t.loadKeys * t.depthPad];
    if (scores_.done == 0) WaitFlag<HardEvent::MTE2_MTE1>(flag);
    ScorePanel(step, from[scores_.done * t.depthPad], PartBegin(scores_.part) + scores_.done,
               RoundUp(Smaller(t.panelKeys, keys - scores_.done), kFractal));
    scores_.done += t.panelKeys;
    if (scores_.done < keys) return true;
    SetFlag<HardEvent::MTE1_MTE2>(flag);
    ++keyLoads_.used;
    FillKeys();
    scores_.done = 0;
    ++scores_.part;
    return true;
  }

  __aicore__ inline void EndScores(const Step& step) {
    if (step.last) SetFlag<HardEvent::MTE1_MTE2>(static_cast<int32_t>(step.turn % 2));
    AscendC::CrossCoreSetFlag<2, PIPE_FIX>(kScoresReady);
  }

  // Scores of `keys` keys, which start at key `at` of the step. In two blocks, so that the first
  // leaves L0C while the second multiplies.
  __aicore__ inline void ScorePanel(const Step& step, const LocalTensor<T>& panel, uint32_t at,
                                    uint32_t keys) {
    const FlashAttentionTiling& t = *tiling_;
    const uint32_t most = t.alternate ? RoundUp(t.panelKeys / 2, kFractal) : t.panelKeys;
    const uint32_t blocks = CeilDiv(keys, most);
    for (uint32_t first = 0; first < t.depthPad; first += kDepthPart) {
      const uint32_t depth = Smaller(kDepthPart, t.depthPad - first);
      cube_.Open();
      cube_.LoadLeft(Queries(step), step.rowsPad, step.rowsPad, first, depth);
      for (uint32_t block = 0; block < blocks; ++block) {
        cube_.LoadKeys(panel, keys, block * most, Smaller(most, keys - block * most), first, depth,
                       block * most * depth);
      }
      cube_.Close();
      for (uint32_t block = 0; block < blocks; ++block) {
        if (first == 0) WaitFlag<HardEvent::FIX_M>(ScoreFlag(block));
        cube_.Multiply(ScoreResult(block, most), step.rowsPad, Smaller(most, keys - block * most),
                       depth, first == 0, block * most * depth);
        if (first + depth == t.depthPad) SetFlag<HardEvent::M_FIX>(ScoreFlag(block));
      }
      cube_.Release();
    }
    for (uint32_t block = 0; block < blocks; ++block) {
      const uint32_t place = (at + block * most) * step.rowsPad;
      const uint32_t columns = Smaller(most, keys - block * most);
      if (t.innerHalf) {
        Store<half>(slots_.halfScores[step.slot][place], ScoreResult(block, most), step.rowsPad,
                    columns, ScoreFlag(block));
      } else {
        Store<float>(slots_.scores[step.slot][place], ScoreResult(block, most), step.rowsPad,
                     columns, ScoreFlag(block));
      }
    }
    if (!t.alternate) resultTurn_ ^= 1;
  }

  // Alternating, the blocks of a panel lie side by side; otherwise panels take halves of L0C in
  // turn.
  __aicore__ inline int32_t ScoreFlag(uint32_t block) const {
    return static_cast<int32_t>(tiling_->alternate ? block : resultTurn_);
  }
  __aicore__ inline LocalTensor<float> ScoreResult(uint32_t block, uint32_t width) {
    const uint32_t column = tiling_->alternate ? block * width : resultTurn_ * kDepthPart;
    return results_.Get<float>()[column * tiling_->blockRows];
  }

  // The output part: value columns, then the row sums, in pieces that fit in L0B. Alternating with
  // scores they have their own place in L0C; otherwise one piece takes a half of L0C in turn, and
  // several take all of it.
  __aicore__ inline void BeginParts() {
    valuesAt_ = Cursor();
    pieces_ = CeilDiv(partColumns_, pieceColumns_);
    firstPiece_ = tiling_->alternate ? 2 : pieces_ > 1 ? 0 : resultTurn_;
  }

  // Adds the next panel of values; false when the step has no more. Loads go on up to step `next`.
  __aicore__ inline bool NextParts(const Step& step, uint32_t next) {
    const FlashAttentionTiling& t = *tiling_;
    if (valuesAt_.part == Parts(step)) return false;
    const uint32_t buffer = valueLoads_.used % 2;
    const int32_t valueFlag = static_cast<int32_t>(4 + buffer);
    const int32_t probFlag = static_cast<int32_t>(6 + buffer);
    const uint32_t keys = PartKeys(step, valuesAt_.part);
    const uint32_t done = valuesAt_.done;
    const LocalTensor<T> values = values_.template Get<T>()[buffer * t.loadKeys * t.valuePad];
    const LocalTensor<T> probs = probs_.template Get<T>()[buffer * t.loadKeys * t.blockRows];
    if (done == 0) {
      WaitFlag<HardEvent::MTE2_MTE1>(valueFlag);
      WaitFlag<HardEvent::MTE2_MTE1>(probFlag);
    }
    PartPanel(step, probs[done * step.rowsPad], values[done * t.valuePad],
              RoundUp(Smaller(t.panelKeys, keys - done), kFractal),
              valuesAt_.part == 0 && done == 0,
              done + t.panelKeys >= keys && valuesAt_.part + 1 == Parts(step));
    valuesAt_.done += t.panelKeys;
    if (valuesAt_.done < keys) return true;
    SetFlag<HardEvent::MTE1_MTE2>(valueFlag);
    SetFlag<HardEvent::MTE1_MTE2>(probFlag);
    ++valueLoads_.used;
    ++probLoads_.used;
    FillValues();
    FillProbs(next);
    valuesAt_.done = 0;
    ++valuesAt_.part;
    return true;
  }

  __aicore__ inline void EndParts(const Step& step) {
    for (uint32_t piece = 0; piece < pieces_; ++piece) {
      const uint32_t column = piece * pieceColumns_;
      Store<float>(slots_.parts[step.slot][column * step.rowsPad], PartResult(piece), step.rowsPad,
                   PieceColumns(piece), PieceFlag(piece));
    }
    if (!tiling_->alternate) resultTurn_ = pieces_ > 1 ? 0 : resultTurn_ ^ 1;
    AscendC::CrossCoreSetFlag<2, PIPE_FIX>(kPartsReady);
  }

  __aicore__ inline int32_t PieceFlag(uint32_t piece) const {
    return static_cast<int32_t>(firstPiece_ + piece);
  }
  __aicore__ inline uint32_t PieceColumns(uint32_t piece) const {
    return Smaller(pieceColumns_, partColumns_ - piece * pieceColumns_);
  }

  // A panel of a step's values, the `first` or `last` of the step. Alternating, there are at least
  // two pieces, so that one leaves L0C while the other still multiplies; they load together if they
  // can.
  __aicore__ inline void PartPanel(const Step& step, const LocalTensor<T>& probs,
                                   const LocalTensor<T>& values, uint32_t keys, bool first,
                                   bool last) {
    const uint32_t together = together_ ? pieces_ : 1;
    for (uint32_t begin = 0; begin < pieces_; begin += together) {
      cube_.Open();
      cube_.LoadLeft(probs, step.rowsPad, step.rowsPad, 0, keys);
      for (uint32_t i = 0; i < together; ++i) {
        const uint32_t column = (begin + i) * pieceColumns_;
        const uint32_t columns = PieceColumns(begin + i);
        const bool ones = begin + i + 1 == pieces_;
        cube_.LoadValues(values, keys, column, ones ? columns - kFractal : columns, ones,
                         i * pieceColumns_ * keys);
      }
      cube_.Close();
      for (uint32_t i = 0; i < together; ++i) {
        const uint32_t piece = begin + i;
        if (first) WaitFlag<HardEvent::FIX_M>(PieceFlag(piece));
        cube_.Multiply(PartResult(piece), step.rowsPad, PieceColumns(piece), keys, first,
                       i * pieceColumns_ * keys);
        if (last) SetFlag<HardEvent::M_FIX>(PieceFlag(piece));
      }
      cube_.Release();
    }
  }

  // L0C to a slot, columns of 16 as they are, once the cube has raised `flag`.
  template <typename U>
  __aicore__ inline void Store(const GlobalTensor<U>& to, const LocalTensor<float>& from,
                               uint32_t rows, uint32_t columns, int32_t flag) {
    WaitFlag<HardEvent::M_FIX>(flag);
    AscendC::FixpipeParamsV220 params;
    params.nSize = static_cast<uint16_t>(columns);
    params.mSize = static_cast<uint16_t>(rows);
    params.srcStride = static_cast<uint16_t>(rows);
    params.dstStride = rows * static_cast<uint32_t>(sizeof(U)) / 2;  // blocks of 32 bytes
    params.quantPre =
        AscendC::IsSameType<U, half>::value ? QuantMode_t::F322F16 : QuantMode_t::NoQuant;
    AscendC::Fixpipe<U, float, AscendC::CFG_NZ>(to, from, params);
    SetFlag<HardEvent::FIX_M>(flag);
  }

  __aicore__ inline LocalTensor<float> PartResult(uint32_t piece) {
    const FlashAttentionTiling& t = *tiling_;
    const uint32_t before = t.alternate ? t.panelKeys : firstPiece_ * kDepthPart;
    return results_.Get<float>()[(before + piece * pieceColumns_) * t.blockRows];
  }

  const FlashAttentionTiling* tiling_;
  GlobalTensor<T> query_, key_, value_;
  Slots<T> slots_;
  Cube<T> cube_;
  TBuf<TPosition::A1> queries_, probs_;
  TBuf<TPosition::B1> keys_, values_;
  TBuf<TPosition::CO1> results_;
  StepWalker walker_;
  Step ring_[kRing];  // steps i - kLag to i + 1
  uint32_t end_ = 0;  // steps seen so far
  Loads keyLoads_, valueLoads_, probLoads_;
  Cursor scores_, valuesAt_;
  uint32_t partColumns_, pieceColumns_, pieces_, firstPiece_, resultTurn_ = 0;
  bool together_;
};

}  // namespace omfuse

#endif  // OMFUSE_FA_SPLIT
#endif  // OMFUSE_FA_CUBE_CORE_H_
