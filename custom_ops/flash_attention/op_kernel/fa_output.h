// The output of a task on one core: accumulation, normalisation, and the way out.
//
// The accumulator is fp32, [value depth / 16 + 1][core rows][16]; its last 16 columns are the row
// sums of the softmax. At the end of a task it is divided by them, cast, brought back to plain
// rows, and written in chunks.
#ifndef OMFUSE_FA_OUTPUT_H_
#define OMFUSE_FA_OUTPUT_H_

#include "fa_schedule.h"
#include "fa_softmax.h"

namespace omfuse {

template <typename T>
class Output {
 public:
  __aicore__ inline void Init(TPipe* pipe, const FlashAttentionTiling* tiling, const Inputs& in,
                              uint32_t coreRows) {
    tiling_ = tiling;
    coreRows_ = coreRows;
    pipe->InitBuffer(sums_, coreRows * (tiling->valuePad + kFractal) * sizeof(float));
    pipe->InitBuffer(wide_, tiling->chunkRows * 64);
    pipe->InitBuffer(rows_, 1, tiling->chunkRows * tiling->valuePad * sizeof(T));
    output_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(in.output));
    if (tiling->taskRun) pipe->InitBuffer(edge_, kFractal * sizeof(T));
    if (tiling->lse) {
      pipe->InitBuffer(logs_, coreRows * 32);
      pipe->InitBuffer(lines_, 1, coreRows * sizeof(float));
      lse_.SetGlobalBuffer(reinterpret_cast<__gm__ float*>(in.lse));
    }
  }

#if !OMFUSE_FA_SPLIT
  // The range of the output that this core alone writes, cleared for additions.
  __aicore__ inline void Own(uint64_t begin, uint64_t end) {
    end_ = end;
    LocalTensor<T> zeros = rows_.template AllocTensor<T>();
    const uint32_t most = tiling_->chunkRows * tiling_->valuePad;
    AscendC::Duplicate(zeros, static_cast<T>(0.0f), static_cast<int32_t>(most));
    rows_.EnQue(zeros);
    zeros = rows_.template DeQue<T>();
    while (end - begin >= kFractal) {
      const uint32_t some = static_cast<uint32_t>(Least(most, static_cast<int64_t>(end - begin))) /
                            kFractal * kFractal;
      AscendC::DataCopy(output_[begin], zeros, some);
      begin += some;
    }
    if (begin < end) AscendC::DataCopy(output_[end - kFractal], zeros, kFractal);
    rows_.FreeTensor(zeros);
    PipeBarrier<PIPE_MTE3>();  // additions come after
  }
#endif

  // Nothing yet, or the sink: a sum of exp(sink - m) = 1 without a value.
  __aicore__ inline void Start(const Step& step) {
    AscendC::Duplicate(sums_.Get<float>(), 0.0f,
                       static_cast<int32_t>(coreRows_ * tiling_->valuePad));
    AscendC::Duplicate(RowSums(0), StartsWithSink(*tiling_, step) ? 1.0f : 0.0f,
                       static_cast<int32_t>(coreRows_ * kFractal));
    Barrier();
  }

  // sums = alpha * sums + part, for `rows` rows from `row`; part is [..][rows][16].
  __aicore__ inline void Accumulate(const LocalTensor<float>& part, const LocalTensor<float>& alpha,
                                    uint32_t row, uint32_t rows) {
    const LocalTensor<float> wide = wide_.Get<float>();
    const int32_t column = static_cast<int32_t>(rows * kFractal);
    Widen(wide, alpha[row * kLane], rows);
    Barrier();
    for (uint32_t j = 0; j <= tiling_->valuePad / kFractal; ++j) {
      const LocalTensor<float> sums = Column(j, row);
      AscendC::FusedMulAdd(sums, wide, part[j * rows * kFractal], column);
    }
    Barrier();
  }

  // The accumulator of one core with its row sums: `Size()` floats.
  __aicore__ inline uint32_t Size() const { return coreRows_ * (tiling_->valuePad + kFractal); }
  __aicore__ inline LocalTensor<float> Sums() { return sums_.Get<float>(); }

  // part = part * factor in each row, a narrow statistic.
  __aicore__ inline void ScalePart(const LocalTensor<float>& part, const LocalTensor<float>& factor,
                                   uint32_t row, uint32_t rows) {
    const LocalTensor<float> wide = wide_.Get<float>();
    Widen(wide, factor[row * kLane], rows);
    Barrier();
    for (uint32_t j = 0; j <= tiling_->valuePad / kFractal; ++j) {
      const LocalTensor<float> column = part[j * rows * kFractal];
      AscendC::Mul(column, column, wide, static_cast<int32_t>(rows * kFractal));
    }
    Barrier();
  }

  // Ends a task: `coreFirst` is the first of the core's rows in the unit, `rows` how many are held
  // and `valid` how many of them exist. `max` and `sums` are for lse.
  __aicore__ inline void Finish(const Step& step, const LocalTensor<float>& max,
                                const LocalTensor<float>& sums, uint32_t coreFirst, uint32_t rows,
                                uint32_t valid) {
    if (tiling_->lse) WriteLse(step, max, sums, coreFirst, rows, valid);
    if (tiling_->maskedRows == kRowsZero || tiling_->sink) {
      // A row without keys has a sum of 0 and an accumulator of 0; any other sum is at least 1.
      AscendC::Maxs(RowSums(0), RowSums(0), 1.0e-30f, static_cast<int32_t>(rows * kFractal));
      Barrier();
    }
    for (uint32_t row = 0; row < rows; row += tiling_->chunkRows) {
      const uint32_t some = Smaller(tiling_->chunkRows, rows - row);
      LocalTensor<T> plain = rows_.template AllocTensor<T>();
      Normalise(plain, row, some);
      rows_.EnQue(plain);
      plain = rows_.template DeQue<T>();
      if (row < valid) WriteRows(step, plain, coreFirst + row, Smaller(some, valid - row));
      rows_.FreeTensor(plain);
    }
  }

 private:
  __aicore__ inline LocalTensor<float> Column(uint32_t j, uint32_t row) {
    return sums_.Get<float>()[(j * coreRows_ + row) * kFractal];
  }

  __aicore__ inline LocalTensor<float> RowSums(uint32_t row) {
    return Column(tiling_->valuePad / kFractal, row);
  }

  // Rows [rows][valuePad] in T from the accumulator.
  __aicore__ inline void Normalise(const LocalTensor<T>& plain, uint32_t row, uint32_t rows) {
    const uint32_t across = tiling_->valuePad / kFractal;
    for (uint32_t j = 0; j < across; ++j) {
      const LocalTensor<float> sums = Column(j, row);
      AscendC::Div(sums, sums, RowSums(row), static_cast<int32_t>(rows * kFractal));
    }
    Barrier();
    const AscendC::UnaryRepeatParams params(static_cast<uint16_t>(across), 1,
                                            static_cast<uint8_t>(4 * across), 8);
    const uint64_t lanes = kRepeat;
    for (uint32_t j = 0; j < across; ++j) {
      AscendC::Cast(plain[j * kFractal], Column(j, row), kNarrow, lanes,
                    static_cast<uint8_t>(rows / 4), params);
    }
#if !OMFUSE_FA_SPLIT
    if (!tiling_->taskRun) return;
    // Rows are added to their block and what follows in it.
    Barrier();
    const uint64_t rest = 0xFFFFull & ~((1ull << tiling_->valueDepth) - 1);
    const uint64_t four = rest | (rest << 16) | (rest << 32) | (rest << 48);
    uint64_t mask[2] = {four, four};
    AscendC::Duplicate(plain, static_cast<T>(0.0f), mask, static_cast<uint8_t>(rows / 8), 1, 8);
#endif
  }

  // `first`: row in the unit. Packed rows of several heads are written head by head.
  __aicore__ inline void WriteRows(const Step& step, const LocalTensor<T>& plain, uint32_t first,
                                   uint32_t rows) {
    const FlashAttentionTiling& t = *tiling_;
    for (uint32_t done = 0; done < rows;) {
      uint64_t head = step.unit;
      uint32_t query = first + done;
      uint32_t some = rows - done;
      if (t.packed) {
        head = step.kvHead * t.group + query / t.qLen;
        query %= t.qLen;
        some = Smaller(some, t.qLen - query);
      }
      const uint64_t at = step.batch * t.oBatchStride + head * t.oHeadStride +
                          static_cast<uint64_t>(query) * t.oRowStride;
      StoreRows(at, plain[done * t.valuePad], some);
      done += some;
    }
  }

  // To element `at` of the output.
  __aicore__ inline void StoreRows(uint64_t at, const LocalTensor<T>& from, uint32_t rows) {
    const FlashAttentionTiling& t = *tiling_;
#if OMFUSE_FA_SPLIT
    const uint32_t bytes = t.valueDepth * static_cast<uint32_t>(sizeof(T));
    const AscendC::DataCopyExtParams params(
        static_cast<uint16_t>(rows), bytes, 0,
        (t.oRowStride - t.valueDepth) * static_cast<uint32_t>(sizeof(T)), 0);
    AscendC::DataCopyPad(output_[at], from, params);
#else
    if (t.taskRun) {
      AddRows(at, from, rows);
      return;
    }
    // The last block of a row holds its last 16 elements (see fa_copy_in.h), so that whole blocks
    // end exactly at the row's end.
    const uint32_t whole = t.valueDepth / kFractal;
    StoreBlocks(at, from, rows, whole);
    if (t.valueDepth % kFractal) {
      StoreBlocks(at + t.valueDepth - kFractal, from[whole * kFractal], rows, 1);
    }
#endif
  }

#if !OMFUSE_FA_SPLIT
  // `blocks` blocks of each row, the rows that begin alike in a block together.
  __aicore__ inline void StoreBlocks(uint64_t at, const LocalTensor<T>& from, uint32_t rows,
                                     uint32_t blocks) {
    const FlashAttentionTiling& t = *tiling_;
    const uint32_t cycle = BlockCycle(t.oRowStride, rows);
    const uint64_t step = cycle * static_cast<uint64_t>(t.oRowStride) / kFractal;
    for (uint32_t row = 0; row < Smaller(cycle, rows); ++row) {
      const AscendC::DataCopyParams params(
          static_cast<uint16_t>(CeilDiv(rows - row, cycle)), static_cast<uint16_t>(blocks),
          static_cast<uint16_t>(cycle * t.valuePad / kFractal - blocks),
          static_cast<uint16_t>(step - blocks));
      AscendC::DataCopy(output_[at + static_cast<uint64_t>(row) * t.oRowStride],
                        from[row * t.valuePad], params);
    }
  }

  // Rows shorter than a block: each is added, with the zeros that follow it in its block, to an
  // output that was cleared, so rows may go in any order.
  __aicore__ inline void AddRows(uint64_t at, const LocalTensor<T>& from, uint32_t rows) {
    const FlashAttentionTiling& t = *tiling_;
    uint32_t inside = 0;  // rows whose block lies in this core's range
    if (at + kFractal <= end_) {
      inside = static_cast<uint32_t>(
          Least(rows, static_cast<int64_t>((end_ - kFractal - at) / t.oRowStride + 1)));
    }
    AscendC::SetAtomicAdd<T>();
    if (inside) StoreBlocks(at, from, inside, 1);
    for (uint32_t row = inside; row < rows; ++row) {
      AddLastRow(at + static_cast<uint64_t>(row) * t.oRowStride, from[row * kFractal]);
    }
    AscendC::SetAtomicNone();
  }

  // A row in the last block of the range: the scalar unit moves it to its place there.
  __aicore__ inline void AddLastRow(uint64_t at, const LocalTensor<T>& row) {
    const uint32_t place = static_cast<uint32_t>(at + kFractal - end_);
    const LocalTensor<T> block = edge_.template Get<T>();
    const LocalTensor<uint16_t> to = block.template ReinterpretCast<uint16_t>();
    const LocalTensor<uint16_t> from = row.template ReinterpretCast<uint16_t>();
    SetFlag<HardEvent::V_S>(EVENT_ID0);
    WaitFlag<HardEvent::V_S>(EVENT_ID0);
    for (uint32_t i = 0; i < kFractal; ++i) {
      const bool mine = i >= place && i < place + tiling_->valueDepth;
      to.SetValue(i, mine ? from.GetValue(i - place) : static_cast<uint16_t>(0));
    }
    SetFlag<HardEvent::S_MTE3>(EVENT_ID0);
    WaitFlag<HardEvent::S_MTE3>(EVENT_ID0);
    AscendC::DataCopy(output_[end_ - kFractal], block, kFractal);
    SetFlag<HardEvent::MTE3_S>(EVENT_ID0);
    WaitFlag<HardEvent::MTE3_S>(EVENT_ID0);
  }
#endif

  // max + ln(sum), one float a row.
  __aicore__ inline void WriteLse(const Step& step, const LocalTensor<float>& max,
                                  const LocalTensor<float>& sums, uint32_t coreFirst, uint32_t rows,
                                  uint32_t valid) {
    const FlashAttentionTiling& t = *tiling_;
    const LocalTensor<float> logs = logs_.Get<float>();
    const int32_t stats = static_cast<int32_t>(rows * kLane);
    AscendC::Ln(logs, sums, stats);
    Barrier();
    AscendC::Add(logs, logs, max, stats);
    Barrier();
    if (t.maskedRows == kRowsUniform && !t.sink) {
      // A row without keys averages all values, but the sum of no exponentials is log 0.
      AscendC::Adds(max, max, 3.0e38f, stats);
      Barrier();
      AscendC::Muls(max, max, Infinity(), stats);
      Barrier();
      AscendC::Min(logs, logs, max, stats);
      Barrier();
    }
    LocalTensor<float> line = lines_.AllocTensor<float>();
    AscendC::BlockReduceMax(line, logs, static_cast<int32_t>(rows / 8), kRepeat, 1, 1, 8);
    lines_.EnQue(line);
    line = lines_.DeQue<float>();
    // lse is [B, N, Sq]; heads lie one after another, so packed rows do too.
    const uint64_t head = t.packed ? static_cast<uint64_t>(step.kvHead) * t.group : step.unit;
    const uint64_t at = (step.batch * static_cast<uint64_t>(t.heads) + head) * t.qLen + coreFirst;
    if (valid) {
#if OMFUSE_FA_SPLIT
      const AscendC::DataCopyExtParams params(1, valid * static_cast<uint32_t>(sizeof(float)), 0, 0,
                                              0);
      AscendC::DataCopyPad(lse_[at], line, params);
#else
      AscendC::DataCopy(lse_[at], line, valid);  // the tiling grants a multiple of 8 rows
#endif
    }
    lines_.FreeTensor(line);
  }

  const FlashAttentionTiling* tiling_;
  uint32_t coreRows_;
  uint64_t end_ = 0;  // of the range that this core owns, if it does
  GlobalTensor<T> output_;
  GlobalTensor<float> lse_;
  TBuf<TPosition::VECCALC> sums_, wide_, logs_, edge_;
  TQue<TPosition::VECOUT, 1> rows_, lines_;
};

}  // namespace omfuse

#endif  // OMFUSE_FA_OUTPUT_H_
