// The kernel for few query rows, as in decoding: lanes of a vector are depths, then keys.
//
// A row at a time reads the block of keys from the first caches; only its first reading goes to
// memory, which is what bounds the time.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "pack.h"

namespace omfuse {
namespace {

// With more rows the wide kernel wins although some of its lanes are idle (measured).
constexpr int kNarrowRows = Vec::kWidth == 16 ? 5 : Vec::kWidth / 2;

int64_t Padded(int64_t depth) { return (depth + Vec::kWidth - 1) / Vec::kWidth * Vec::kWidth; }

size_t NarrowScratch(const Problem& p) {
  const size_t depths = static_cast<size_t>(Padded(p.depth) + Padded(p.v_depth));
  return kNarrowRows * (depths + 2) + kKeys * (depths + 2) + 2 * Vec::kWidth;
}

// scores[key] = k[key] . q for all keys of a block; `depth` is a multiple of kWidth.
void ScoreRow(const float* q, const float* k, int64_t stride, int64_t depth, int keys,
              float* scores) {
  for (int j = 0; j < keys; j += Vec::kSums) {
    Vec sum[Vec::kSums];
    const float* row[Vec::kSums];  // keys too many repeat the last one
#pragma GCC unroll 16
    for (int i = 0; i < Vec::kSums; ++i) {
      sum[i] = Vec::Set(0);
      row[i] = k + std::min(j + i, keys - 1) * stride;
    }
    for (int64_t d = 0; d < depth; d += Vec::kWidth) {
      const Vec x = Vec::Load(q + d);
#pragma GCC unroll 16
      for (int i = 0; i < Vec::kSums; ++i) sum[i] = Vec::MulAdd(x, Vec::Load(row[i] + d), sum[i]);
    }
    for (int i = 0; i < Vec::kSums; i += Vec::kWidth) SumEach(sum + i).Store(scores + j + i);
  }
}

// out[e] = out[e] * alpha + sum over keys of p[key] * v[key][e] for M vectors of depths.
template <int M>
void ValueRow(const float* p, const float* v, int64_t stride, int keys, float alpha, float* out) {
  Vec sum[M];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) sum[m] = Vec::Load(out + m * Vec::kWidth) * Vec::Set(alpha);
  for (int j = 0; j < keys; ++j) {
    const Vec x = Vec::Set(p[j]);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      sum[m] = Vec::MulAdd(x, Vec::Load(v + j * stride + m * Vec::kWidth), sum[m]);
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) sum[m].Store(out + m * Vec::kWidth);
}

// Turns the scores of one row into weights; returns the factor for what came before.
float SoftmaxRow(const Problem& p, const Rows& rows, int row, int64_t key, int keys,
                 const float* terms, float* scores, float* top, float* total) {
  static_assert(Vec::kWidth <= 16, "more lanes need more numbers");
  alignas(64) static const float kCount[16] = {0, 1, 2,  3,  4,  5,  6,  7,
                                               8, 9, 10, 11, 12, 13, 14, 15};
  const Vec cap = Vec::Set(p.softcap), log2e = Vec::Set(kLog2E);
  const Vec low = Vec::Set(rows.low[row]);
  const Vec high = Vec::Set(std::min(rows.high[row], static_cast<float>(key + keys - 1)));
  Vec largest = Vec::Set(-INFINITY);
  for (int j = 0; j < keys; j += Vec::kWidth) {
    Vec s = Vec::Load(scores + j);
    if (p.softcap > 0) s = Tanh(s / cap) * cap;
    if (terms) s = s + Vec::Load(terms + j);
    s = Vec::KeepBetween(s, Vec::Load(kCount) + Vec::Set(static_cast<float>(key + j)), low, high);
    s.Store(scores + j);
    largest = Vec::Max(s, largest);
  }
  const float before = *top;
  *top = LargestLane(largest, before);
  const float shift = *top == -INFINITY ? 0.0f : *top;
  alignas(64) float scale[Vec::kWidth];
  Vec::Exp2NonPositive(Vec::Set((before - shift) * kLog2E)).Store(scale);
  Vec sum = Vec::Set(0);
  for (int j = 0; j < keys; j += Vec::kWidth) {
    const Vec weight = Vec::Exp2NonPositive((Vec::Load(scores + j) - Vec::Set(shift)) * log2e);
    weight.Store(scores + j);
    sum = sum + weight;
  }
  *total = *total * scale[0] + SumOfLanes(sum);
  return scale[0];
}

void AddValues(const float* p, const float* v, int64_t stride, int keys, float alpha,
               int64_t v_depth, float* out) {
  int64_t e = 0;
  for (; e + 4 * Vec::kWidth <= v_depth; e += 4 * Vec::kWidth) {
    ValueRow<4>(p, v + e, stride, keys, alpha, out + e);
  }
  for (; e < v_depth; e += Vec::kWidth) ValueRow<1>(p, v + e, stride, keys, alpha, out + e);
}

void RunNarrow(const Problem& p, const Task& task, const Rows& rows, int count, float* scratch) {
  const int64_t depth = Padded(p.depth), v_depth = Padded(p.v_depth);
  float* q = scratch;
  float* out = q + kNarrowRows * depth;
  float* scores = out + kNarrowRows * v_depth;
  float* terms = scores + kKeys;
  float* k_buffer = terms + kKeys;
  float* v_buffer = k_buffer + kKeys * depth;
  float* top = v_buffer + kKeys * v_depth;
  float* total = top + kNarrowRows;
  std::fill(q, q + count * depth, 0.0f);
  std::fill(out, out + count * v_depth, 0.0f);
  for (int i = 0; i < count; ++i) {
    const int64_t at = Offset(p.query, task.batch, rows.head[i], rows.query[i]);
    for (int64_t d = 0; d < p.depth; ++d) {
      q[i * depth + d] = Load(p.query.data, at + d, p.type) * p.scale;
    }
    top[i] = p.sink ? Load(p.sink, rows.head[i], p.type) : -INFINITY;
    total[i] = p.sink ? 1.0f : 0.0f;
  }
  const bool tensors = p.bias.data || p.mask.data;
  TermPlaces places;
  if (tensors) places = FindTerms(p, rows, task.batch, count);
  for (int64_t key = rows.first_key; key < rows.end_key; key += kKeys) {
    const int keys = static_cast<int>(std::min<int64_t>(kKeys, rows.end_key - key));
    const float* k = nullptr;
    const float* v = nullptr;
    int64_t k_stride = 0, v_stride = 0;
    for (int i = 0; i < count; ++i) {
      if (tensors && !TermRow(p, places.bias[i], places.mask[i], key, keys, terms)) continue;
      if (!k) {
        k = FloatRows(p.key, p.type, task.k_base + key * p.key.stride[2], keys, p.depth, true,
                      k_buffer, &k_stride);
        v = FloatRows(p.value, p.type, task.v_base + key * p.value.stride[2], keys, p.v_depth, true,
                      v_buffer, &v_stride);
      }
      ScoreRow(q + i * depth, k, k_stride, depth, keys, scores);
      const float alpha =
          SoftmaxRow(p, rows, i, key, keys, tensors ? terms : nullptr, scores, top + i, total + i);
      AddValues(scores, v, v_stride, keys, alpha, v_depth, out + i * v_depth);
    }
  }
  for (int i = 0; i < count; ++i) {
    const int64_t at = Offset(p.out, task.batch, rows.head[i], rows.query[i]);
    const float factor = top[i] == -INFINITY ? NAN : 1.0f / total[i];
    for (int64_t e = 0; e < p.v_depth; ++e) {
      Store(const_cast<void*>(p.out.data), at + e, p.type, out[i * v_depth + e] * factor);
    }
  }
  Finish(p, task, rows, count, top, total);
}

}  // namespace
}  // namespace omfuse
