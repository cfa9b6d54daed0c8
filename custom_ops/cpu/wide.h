// The kernel for blocks of many query rows.
//
// Everything is transposed: lanes of a vector are query rows, and keys and values are broadcast
// one number at a time from where they lie.  So neither K nor V is ever packed, the softmax needs
// no reduction across lanes, and masks become one interval [low, high] of keys a lane.
//
//   scores  S^T[key][row] = K . Q^T                  a tile of accumulators
//   softmax online in the rows (Milakov & Gimelshein 2018; Dao et al. 2022)
//   values  O^T[e][row]   = O^T * alpha + V^T . P^T  the rescaling is part of loading O
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "pack.h"
#include "tiles.h"

namespace omfuse {
namespace {

// Applies cap, bias, mask and the interval of each lane to scores[key][lane].
template <int N>
void Shape(const Problem& p, const Rows& rows, int64_t key, int keys, bool same_terms,
           const float* terms, float* scores) {
  constexpr int lanes = N * Vec::kWidth;
  if (p.softcap > 0) {
    const Vec cap = Vec::Set(p.softcap);
    for (int x = 0; x < keys * lanes; x += Vec::kWidth) {
      (Tanh(Vec::Load(scores + x) / cap) * cap).Store(scores + x);
    }
  }
  if (terms && same_terms) {
    for (int j = 0; j < keys; ++j) {
      const Vec term = Vec::Set(terms[j]);
      for (int n = 0; n < lanes; n += Vec::kWidth) {
        (Vec::Load(scores + j * lanes + n) + term).Store(scores + j * lanes + n);
      }
    }
  } else if (terms) {
    for (int x = 0; x < keys * lanes; x += Vec::kWidth) {
      (Vec::Load(scores + x) + Vec::Load(terms + x)).Store(scores + x);
    }
  }
  if (key >= rows.full_first && key + keys <= rows.full_end) return;
  for (int j = 0; j < keys; ++j) {
    const Vec at = Vec::Set(static_cast<float>(key + j));
    for (int n = 0; n < lanes; n += Vec::kWidth) {
      float* s = scores + j * lanes + n;
      Vec::KeepBetween(Vec::Load(s), at, Vec::Load(rows.low + n), Vec::Load(rows.high + n))
          .Store(s);
    }
  }
}

// Turns scores into weights relative to the new maximum; alpha rescales what came before.
template <int N>
void Softmax(int keys, float* scores, float* top, float* total, float* alpha) {
  const Vec zero = Vec::Set(0), log2e = Vec::Set(kLog2E), lowest = Vec::Set(-INFINITY);
  Vec high[N], sum[N], shift[N];
  for (int n = 0; n < N; ++n) high[n] = Vec::Load(top + n * Vec::kWidth);
  for (int j = 0; j < keys; ++j) {
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      high[n] = Vec::Max(Vec::Load(scores + (j * N + n) * Vec::kWidth), high[n]);
    }
  }
  for (int n = 0; n < N; ++n) {
    // -inf - -inf is NaN: a row that has kept nothing so far shifts by 0 instead.
    shift[n] = Vec::IfLess(lowest, high[n], high[n], zero);
    const Vec scale = Vec::Exp2NonPositive((Vec::Load(top + n * Vec::kWidth) - shift[n]) * log2e);
    scale.Store(alpha + n * Vec::kWidth);
    sum[n] = Vec::Load(total + n * Vec::kWidth) * scale;
    high[n].Store(top + n * Vec::kWidth);
  }
  for (int j = 0; j < keys; ++j) {
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      float* s = scores + (j * N + n) * Vec::kWidth;
      const Vec weight = Vec::Exp2NonPositive((Vec::Load(s) - shift[n]) * log2e);
      weight.Store(s);
      sum[n] = sum[n] + weight;
    }
  }
  for (int n = 0; n < N; ++n) sum[n].Store(total + n * Vec::kWidth);
}

size_t WideScratch(const Problem& p) {
  return static_cast<size_t>(kLanes) * (p.depth + p.v_depth + 2 * kKeys + 3) +
         static_cast<size_t>(kKeys) * (p.depth + p.v_depth + 2 * Vec::kWidth);
}

template <int N>
void RunWide(const Problem& p, const Task& task, const Rows& rows, int count, float* scratch) {
  constexpr int lanes = N * Vec::kWidth;
  float* q = scratch;
  float* out = q + lanes * p.depth;
  float* scores = out + lanes * p.v_depth;
  float* terms = scores + lanes * kKeys;
  float* top = terms + lanes * kKeys;
  float* total = top + lanes;
  float* alpha = total + lanes;
  float* k_buffer = alpha + lanes;
  float* v_buffer = k_buffer + kKeys * (p.depth + Vec::kWidth);
  for (int i = 0; i < lanes; ++i) {
    top[i] = p.sink ? Load(p.sink, rows.head[i], p.type) : -INFINITY;
    total[i] = p.sink ? 1.0f : 0.0f;
  }
  LoadQuery<N>(p, rows, task.batch, q);
  std::fill(out, out + lanes * p.v_depth, 0.0f);
  const bool tensors = p.bias.data || p.mask.data;
  TermPlaces places;
  if (tensors) places = FindTerms(p, rows, task.batch, lanes);
  for (int64_t key = rows.first_key; key < rows.end_key; key += kKeys) {
    const int keys = static_cast<int>(std::min<int64_t>(kKeys, rows.end_key - key));
    if (tensors && !FillTerms<N>(p, places, key, keys, terms)) continue;
    int64_t stride;
    const float* k = FloatRows(p.key, p.type, task.k_base + key * p.key.stride[2], keys, p.depth,
                               false, k_buffer, &stride);
    ForRows<N>(keys, [&](int64_t j, auto r) {
      ScoreTile<N, decltype(r)::value>(q, k + j * stride, stride, p.depth, scores + j * lanes);
    });
    Shape<N>(p, rows, key, keys, places.same, tensors ? terms : nullptr, scores);
    Softmax<N>(keys, scores, top, total, alpha);
    const float* v = FloatRows(p.value, p.type, task.v_base + key * p.value.stride[2], keys,
                               p.v_depth, false, v_buffer, &stride);
    ForRows<N>(p.v_depth, [&](int64_t e, auto r) {
      ValueTile<N, decltype(r)::value>(scores, v + e, stride, keys, alpha, out + e * lanes);
    });
  }
  StoreOut<N>(p, rows, task.batch, count, top, total, out);
  Finish(p, task, rows, count, top, total);
}

}  // namespace
}  // namespace omfuse
