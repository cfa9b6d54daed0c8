// Flash attention on the CPU: one task computes a block of query rows against all its keys.
//
// Everything is transposed: lanes of a vector are query rows, and keys and values are broadcast
// one number at a time from where they lie.  So neither K nor V is ever packed, the softmax needs
// no reduction across lanes, and masks become one interval [low, high] of keys a lane.
//
//   scores  S^T[key][row] = K . Q^T                  kRows x kVectors accumulators
//   softmax online in the rows (Milakov & Gimelshein 2018; Dao et al. 2022)
//   values  O^T[e][row]   = O^T * alpha + V^T . P^T  the rescaling is part of loading O
//
// Query heads that share a key/value head are rows of the same tasks.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "problem.h"
#include "simd.h"

namespace omfuse {
namespace {

constexpr int kKeys = 64;  // keys a block: K, V, S and O of a block stay in the first caches
constexpr int kLanes = Vec::kWidth * Vec::kVectors;
constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

int64_t RowBlocks(const Problem& p) {
  const int64_t rows = p.heads / p.kv_heads * p.q_len;
  return (rows + kLanes - 1) / kLanes;
}

int64_t Tasks(const Problem& p) { return p.batch * p.kv_heads * RowBlocks(p); }

size_t ScratchFloats(const Problem& p) {
  return static_cast<size_t>(kLanes) * (p.depth + p.v_depth + 2 * kKeys + 8) +
         static_cast<size_t>(kKeys) * (p.depth + p.v_depth + 2 * Vec::kWidth);
}

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

// Calls f with R = min(count, kRows) rows at a time as a compile-time constant.
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

template <class F>
void ForRows(int64_t count, F&& f) {
  int64_t first = 0;
  for (; first + Vec::kRows <= count; first += Vec::kRows) {
    f(first, std::integral_constant<int, Vec::kRows>());
  }
  Tail<Vec::kRows - 1>(first, count - first, f);
}

// tanh: an odd polynomial below 0.65 (relative error 2.4e-10), 1 - 2 / (e^2x + 1) above.
Vec Tanh(Vec x) {
  const Vec zero = Vec::Set(0), size = Vec::Max(x, zero - x);
  const Vec u = x * x;
  Vec small = Vec::Set(0.0020446034613996744f);
  for (float c : {-0.00806513149291277f, 0.02165263332426548f, -0.05393723398447037f,
                  0.13333119451999664f, -0.333333283662796f, 1.0f}) {
    small = Vec::MulAdd(small, u, Vec::Set(c));
  }
  const Vec decay = Vec::Exp2NonPositive(zero - size * Vec::Set(2 * kLog2E));
  const Vec one = Vec::Set(1), large = (one - decay) / (one + decay);
  const Vec signed_large = Vec::IfLess(x, zero, zero - large, large);
  return Vec::IfLess(size, Vec::Set(0.65f), x * small, signed_large);
}

struct Rows {  // what differs from lane to lane
  int64_t head[kLanes], query[kLanes];
  alignas(64) float low[kLanes], high[kLanes];
  int64_t first_key, end_key;    // keys that some lane keeps
  int64_t full_first, full_end;  // keys that every lane keeps, as far as intervals go
};

Rows FindRows(const Problem& p, int64_t b, int64_t kv_head, int64_t first, int count, int lanes) {
  Rows rows;
  const int64_t group = p.heads / p.kv_heads;
  const int64_t valid =
      p.kv_lengths ? std::min<int64_t>(std::max(p.kv_lengths[b], 0), p.kv_len) : p.kv_len;
  const int64_t offset = p.bottom_right ? (p.kv_lengths ? p.kv_lengths[b] : p.kv_len) - p.q_len : 0;
  rows.first_key = p.kv_len, rows.end_key = 0;
  rows.full_first = 0, rows.full_end = p.kv_len;
  for (int i = 0; i < lanes; ++i) {
    const int64_t row = first + std::min(i, count - 1);  // lanes too many repeat the last row
    rows.head[i] = kv_head * group + row / p.q_len;
    rows.query[i] = row % p.q_len;
    const int64_t position = rows.query[i] + offset;
    int64_t low = 0, end = valid;
    if (p.causal) end = std::min(end, position + 1);
    if (p.window_right >= 0) end = std::min(end, position + p.window_right + 1);
    if (p.window_left >= 0) low = std::max<int64_t>(low, position - p.window_left);
    end = std::max<int64_t>(end, 0);
    rows.low[i] = static_cast<float>(low);
    rows.high[i] = static_cast<float>(end - 1);
    if (low < end) {
      rows.first_key = std::min(rows.first_key, low);
      rows.end_key = std::max(rows.end_key, end);
    }
    rows.full_first = std::max(rows.full_first, low);
    rows.full_end = std::min(rows.full_end, end);
  }
  return rows;
}

int64_t Offset(const View& view, int64_t b, int64_t h, int64_t s) {
  return b * view.stride[0] + h * view.stride[1] + s * view.stride[2];
}

// Returns `keys` rows of K or V as floats: where they lie, or converted into `buffer`.
const float* FloatRows(const View& view, Type type, int64_t offset, int64_t keys, int64_t depth,
                       float* buffer, int64_t* stride) {
  *stride = view.stride[2];
  if (type == Type::kFloat32) return static_cast<const float*>(view.data) + offset;
  const auto* source = static_cast<const uint16_t*>(view.data) + offset;
  for (int64_t j = 0; j < keys; ++j) {
    int64_t d = 0;
    const uint16_t* row = source + j * view.stride[2];
    for (; d + Vec::kWidth <= depth; d += Vec::kWidth) {
      const Vec x = type == Type::kFloat16 ? Vec::LoadHalf(row + d) : Vec::LoadBrain(row + d);
      x.Store(buffer + j * depth + d);
    }
    for (; d < depth; ++d) buffer[j * depth + d] = Load(row, d, type);
  }
  *stride = depth;
  return buffer;
}

// Writes bias + mask of a block as terms[key][lane]; false when no lane keeps any of its keys.
bool Terms(const Problem& p, const Rows& rows, int64_t b, int64_t key, int keys, int lanes,
           float* terms) {
  bool any = false;
  for (int i = 0; i < lanes; ++i) {
    if (i > 0 && rows.head[i] == rows.head[i - 1] && rows.query[i] == rows.query[i - 1]) {
      for (int j = 0; j < keys; ++j) terms[j * lanes + i] = terms[j * lanes + i - 1];
      continue;
    }
    if (p.bias.data) {
      const int64_t at = Offset(p.bias, b, rows.head[i], rows.query[i]) + key * p.bias.stride[3];
      for (int j = 0; j < keys; ++j) {
        terms[j * lanes + i] = Load(p.bias.data, at + j * p.bias.stride[3], p.type);
      }
    } else {
      for (int j = 0; j < keys; ++j) terms[j * lanes + i] = 0;
    }
    if (p.mask.data) {
      const auto* keep = static_cast<const uint8_t*>(p.mask.data) +
                         Offset(p.mask, b, rows.head[i], rows.query[i]) + key * p.mask.stride[3];
      for (int j = 0; j < keys; ++j) {
        if (!keep[j * p.mask.stride[3]]) terms[j * lanes + i] = -INFINITY;
      }
    }
    for (int j = 0; j < keys && !any; ++j) any = terms[j * lanes + i] != -INFINITY;
  }
  return any;
}

bool KeepsAnything(const Problem& p, const Rows& rows, int64_t b, int i) {
  for (int64_t k = static_cast<int64_t>(rows.low[i]); k <= static_cast<int64_t>(rows.high[i]);
       ++k) {
    if (!p.mask.data) return true;
    const int64_t at = Offset(p.mask, b, rows.head[i], rows.query[i]) + k * p.mask.stride[3];
    if (static_cast<const uint8_t*>(p.mask.data)[at]) return true;
  }
  return false;
}

float MeanValue(const Problem& p, int64_t base, int64_t e) {
  double sum = 0;
  for (int64_t k = 0; k < p.kv_len; ++k) {
    sum += Load(p.value.data, base + k * p.value.stride[2] + e, p.type);
  }
  return static_cast<float>(sum / static_cast<double>(p.kv_len));
}

template <int N>
void RunBlock(const Problem& p, int64_t b, int64_t kv_head, int64_t first, int count,
              float* scratch) {
  constexpr int lanes = N * Vec::kWidth;
  const Rows rows = FindRows(p, b, kv_head, first, count, lanes);
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
    const int64_t at = Offset(p.query, b, rows.head[i], rows.query[i]);
    for (int64_t d = 0; d < p.depth; ++d) {
      q[d * lanes + i] = Load(p.query.data, at + d, p.type) * p.scale;
    }
    top[i] = p.sink ? Load(p.sink, rows.head[i], p.type) : -INFINITY;
    total[i] = p.sink ? 1.0f : 0.0f;
  }
  std::fill(out, out + lanes * p.v_depth, 0.0f);
  const int64_t k_base = Offset(p.key, b, kv_head, 0), v_base = Offset(p.value, b, kv_head, 0);
  const Vec zero = Vec::Set(0), log2e = Vec::Set(kLog2E), lowest = Vec::Set(-INFINITY);
  for (int64_t key = rows.first_key; key < rows.end_key; key += kKeys) {
    const int keys = static_cast<int>(std::min<int64_t>(kKeys, rows.end_key - key));
    const bool tensors = p.bias.data || p.mask.data;
    if (tensors && !Terms(p, rows, b, key, keys, lanes, terms)) continue;
    int64_t stride;
    const float* k =
        FloatRows(p.key, p.type, k_base + key * p.key.stride[2], keys, p.depth, k_buffer, &stride);
    ForRows(keys, [&](int64_t j, auto r) {
      ScoreTile<N, decltype(r)::value>(q, k + j * stride, stride, p.depth, scores + j * lanes);
    });
    if (p.softcap > 0) {
      const Vec cap = Vec::Set(p.softcap);
      for (int x = 0; x < keys * lanes; x += Vec::kWidth) {
        (Tanh(Vec::Load(scores + x) / cap) * cap).Store(scores + x);
      }
    }
    if (tensors) {
      for (int x = 0; x < keys * lanes; x += Vec::kWidth) {
        (Vec::Load(scores + x) + Vec::Load(terms + x)).Store(scores + x);
      }
    }
    if (key < rows.full_first || key + keys > rows.full_end) {
      for (int j = 0; j < keys; ++j) {
        const Vec at = Vec::Set(static_cast<float>(key + j));
        for (int n = 0; n < lanes; n += Vec::kWidth) {
          float* s = scores + j * lanes + n;
          Vec::KeepBetween(Vec::Load(s), at, Vec::Load(rows.low + n), Vec::Load(rows.high + n))
              .Store(s);
        }
      }
    }
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
    const float* v = FloatRows(p.value, p.type, v_base + key * p.value.stride[2], keys, p.v_depth,
                               v_buffer, &stride);
    ForRows(p.v_depth, [&](int64_t e, auto r) {
      ValueTile<N, decltype(r)::value>(scores, v + e, stride, keys, alpha, out + e * lanes);
    });
  }
  for (int i = 0; i < count; ++i) {
    const bool empty = top[i] == -INFINITY && !p.sink && !KeepsAnything(p, rows, b, i);
    const int64_t at = Offset(p.out, b, rows.head[i], rows.query[i]);
    const float factor = top[i] == -INFINITY ? NAN : 1.0f / total[i];
    for (int64_t e = 0; e < p.v_depth; ++e) {
      float result = out[e * lanes + i] * factor;
      if (empty && p.masked_rows == MaskedRows::kZero) result = 0;
      if (empty && p.masked_rows == MaskedRows::kUniform) result = MeanValue(p, v_base, e);
      Store(const_cast<void*>(p.out.data), at + e, p.type, result);
    }
    if (p.lse) {
      p.lse[(b * p.heads + rows.head[i]) * p.q_len + rows.query[i]] =
          empty ? -INFINITY : top[i] + std::log(total[i]);
    }
  }
}

template <int N>
void RunWith(int vectors, const Problem& p, int64_t b, int64_t kv_head, int64_t first, int count,
             float* scratch) {
  if constexpr (N > 0) {
    if (vectors == N) {
      RunBlock<N>(p, b, kv_head, first, count, scratch);
    } else {
      RunWith<N - 1>(vectors, p, b, kv_head, first, count, scratch);
    }
  }
}

void Run(const Problem& p, int64_t task, float* scratch) {
  const int64_t blocks = RowBlocks(p), rows = p.heads / p.kv_heads * p.q_len;
  const int64_t block = blocks - 1 - task % blocks;  // causal blocks with most keys go first
  const int64_t kv_head = task / blocks % p.kv_heads, b = task / blocks / p.kv_heads;
  const int64_t first = block * kLanes;
  const int count = static_cast<int>(std::min<int64_t>(kLanes, rows - first));
  const int vectors = (count + Vec::kWidth - 1) / Vec::kWidth;
  RunWith<Vec::kVectors>(vectors, p, b, kv_head, first, count, scratch);
}

}  // namespace
}  // namespace omfuse
