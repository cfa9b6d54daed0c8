// Small matrix products with all accumulators in registers: the inner loops of the wide kernel.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "simd.h"

namespace omfuse {
namespace {

// s[r][lane] = k[r] . q[.][lane] for R keys and N vectors of query rows.
template <int N, int R>
void ScoreTile(const float* q, const float* k, int64_t stride, int64_t depth, float* s) {
  Vec sum[R][N];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) sum[r][n] = Vec::Set(0);
  }
  for (int64_t d = 0; d < depth; ++d) {
    Vec x[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) x[n] = Vec::Load(q + (d * N + n) * Vec::kWidth);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Vec y = Vec::Set(k[r * stride + d]);
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) sum[r][n] = Vec::MulAdd(x[n], y, sum[r][n]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) sum[r][n].Store(s + (r * N + n) * Vec::kWidth);
  }
}

// o[r][lane] = o[r][lane] * alpha[lane] + sum over keys of v[key][r] * p[key][lane].
template <int N, int R>
void ValueTile(const float* p, const float* v, int64_t stride, int64_t keys, const float* alpha,
               float* o) {
  Vec sum[R][N];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      sum[r][n] = Vec::Load(o + (r * N + n) * Vec::kWidth) * Vec::Load(alpha + n * Vec::kWidth);
    }
  }
  for (int64_t j = 0; j < keys; ++j) {
    Vec x[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) x[n] = Vec::Load(p + (j * N + n) * Vec::kWidth);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Vec y = Vec::Set(v[j * stride + r]);
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) sum[r][n] = Vec::MulAdd(x[n], y, sum[r][n]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) sum[r][n].Store(o + (r * N + n) * Vec::kWidth);
  }
}

// Calls f with the number of rows, count, as a compile-time constant.
template <int R, class F>
void Tail(int64_t first, int64_t count, F&& f) {
  if constexpr (R > 0) {
    if (count == R) {
      f(first, std::integral_constant<int, R>());
    } else {
      Tail<R - 1>(first, count, f);
    }
  }
}

// Rows of a tile of N vectors: as many as there are accumulators, so that none waits for another.
constexpr int TileRows(int n) { return std::min(Vec::kVectors * Vec::kRows / n, 8); }

template <int N, class F>
void ForRows(int64_t count, F&& f) {
  constexpr int rows = TileRows(N);
  int64_t first = 0;
  for (; first + rows <= count; first += rows) f(first, std::integral_constant<int, rows>());
  Tail<rows - 1>(first, count - first, f);
}

}  // namespace
}  // namespace omfuse
