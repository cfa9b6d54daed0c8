// Bring queries, keys, values, bias and mask into the order that the kernels read, and results
// back: conversions and transpositions of kWidth x kWidth numbers in registers.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "rows.h"
#include "simd.h"

namespace omfuse {
namespace {

constexpr int kKeys = 64;  // keys a block: K, V, S and O of a block stay in the first caches
static_assert(kKeys % Vec::kWidth == 0, "blocks of terms are transposed whole");

// Calls f(start) for pieces of kWidth that cover [0, count); the last one may overlap.
// False when count is less than one piece.
template <class F>
bool ForPieces(int64_t count, F&& f) {
  if (count < Vec::kWidth) return false;
  int64_t at = 0;
  for (; at + Vec::kWidth <= count; at += Vec::kWidth) f(at);
  if (at < count) f(count - Vec::kWidth);
  return true;
}

// Writes query * scale as q[depth][lane].
template <int N>
void LoadQuery(const Problem& p, const Rows& rows, int64_t b, float* q) {
  constexpr int lanes = N * Vec::kWidth;
  const Vec scale = Vec::Set(p.scale);
  int64_t at[lanes];
  for (int i = 0; i < lanes; ++i) at[i] = Offset(p.query, b, rows.head[i], rows.query[i]);
  for (int n = 0; n < lanes; n += Vec::kWidth) {
    const bool whole = ForPieces(p.depth, [&](int64_t d) {
      Vec t[Vec::kWidth];
      for (int i = 0; i < Vec::kWidth; ++i) t[i] = LoadVec(p.query.data, at[n + i] + d, p.type);
      Transpose(t);
      for (int i = 0; i < Vec::kWidth; ++i) (t[i] * scale).Store(q + (d + i) * lanes + n);
    });
    if (whole) continue;
    for (int64_t d = 0; d < p.depth; ++d) {
      for (int i = n; i < n + Vec::kWidth; ++i) {
        q[d * lanes + i] = Load(p.query.data, at[i] + d, p.type) * p.scale;
      }
    }
  }
}

// Writes out[v_depth][lane] / total to the first `count` rows of the result.
template <int N>
void StoreOut(const Problem& p, const Rows& rows, int64_t b, int count, const float* top,
              const float* total, const float* out) {
  constexpr int lanes = N * Vec::kWidth;
  void* data = const_cast<void*>(p.out.data);
  int64_t at[lanes];
  alignas(64) float factor[lanes];
  for (int i = 0; i < lanes; ++i) {
    at[i] = Offset(p.out, b, rows.head[i], rows.query[i]);
    factor[i] = top[i] == -INFINITY ? NAN : 1.0f / total[i];
  }
  for (int n = 0; n < count; n += Vec::kWidth) {
    const int used = std::min(count - n, Vec::kWidth);
    const Vec scale = Vec::Load(factor + n);
    const bool whole = ForPieces(p.v_depth, [&](int64_t e) {
      Vec t[Vec::kWidth];
      for (int i = 0; i < Vec::kWidth; ++i) t[i] = Vec::Load(out + (e + i) * lanes + n) * scale;
      Transpose(t);
      for (int i = 0; i < used; ++i) StoreVec(data, at[n + i] + e, p.type, t[i]);
    });
    if (whole) continue;
    for (int64_t e = 0; e < p.v_depth; ++e) {
      for (int i = n; i < n + used; ++i) {
        Store(data, at[i] + e, p.type, out[e * lanes + i] * factor[i]);
      }
    }
  }
}

// Returns `keys` rows of K or V as floats: where they lie, or in `buffer` with the given stride
// when they must be converted or are not `stride` wide and `padded` rows are wanted.
const float* FloatRows(const View& view, Type type, int64_t offset, int64_t keys, int64_t depth,
                       bool padded, float* buffer, int64_t* stride) {
  const int64_t wide = (depth + Vec::kWidth - 1) / Vec::kWidth * Vec::kWidth;
  *stride = view.stride[2];
  if (type == Type::kFloat32 && (!padded || wide == depth)) {
    return static_cast<const float*>(view.data) + offset;
  }
  for (int64_t j = 0; j < keys; ++j) {
    const int64_t source = offset + j * view.stride[2];
    float* row = buffer + j * wide;
    const bool whole =
        ForPieces(depth, [&](int64_t d) { LoadVec(view.data, source + d, type).Store(row + d); });
    for (int64_t d = 0; !whole && d < depth; ++d) row[d] = Load(view.data, source + d, type);
    for (int64_t d = depth; padded && d < wide; ++d) row[d] = 0;
  }
  *stride = wide;
  return buffer;
}

// Writes bias + mask of one row as line[key]; false when it keeps none of the keys.
bool TermRow(const Problem& p, int64_t bias_at, int64_t mask_at, int64_t key, int keys,
             float* line) {
  if (p.bias.data && p.bias.stride[3] == 1) {
    const bool whole = ForPieces(
        keys, [&](int64_t j) { LoadVec(p.bias.data, bias_at + key + j, p.type).Store(line + j); });
    for (int j = 0; !whole && j < keys; ++j) line[j] = Load(p.bias.data, bias_at + key + j, p.type);
  } else {
    const float same = p.bias.data ? Load(p.bias.data, bias_at, p.type) : 0.0f;
    for (int j = 0; j < keys; ++j) line[j] = same;
  }
  if (p.mask.data) {
    const auto* keep = static_cast<const uint8_t*>(p.mask.data) + mask_at;
    if (p.mask.stride[3] == 1) {
      for (int j = 0; j < keys; ++j) line[j] = keep[key + j] ? line[j] : -INFINITY;
    } else if (!*keep) {
      for (int j = 0; j < keys; ++j) line[j] = -INFINITY;
    }
  }
  int kept = 0;
  for (int j = 0; j < keys; ++j) kept |= line[j] != -INFINITY;
  return kept != 0;
}

// Where bias and mask of each lane begin; `same` when all lanes share them.
struct TermPlaces {
  int64_t bias[kLanes], mask[kLanes];
  bool same;
};

TermPlaces FindTerms(const Problem& p, const Rows& rows, int64_t b, int lanes) {
  TermPlaces places;
  places.same = true;
  for (int i = 0; i < lanes; ++i) {
    places.bias[i] = Offset(p.bias, b, rows.head[i], rows.query[i]);
    places.mask[i] = Offset(p.mask, b, rows.head[i], rows.query[i]);
    places.same &= places.bias[i] == places.bias[0] && places.mask[i] == places.mask[0];
  }
  return places;
}

// Writes bias + mask of a block as terms[key][lane], or as terms[key] when all lanes share them;
// false when no lane keeps any of its keys.  `lines` holds kWidth * kKeys floats.
template <int N>
bool FillTerms(const Problem& p, const TermPlaces& places, int64_t key, int keys, float* lines,
               float* terms) {
  constexpr int lanes = N * Vec::kWidth;
  if (places.same) return TermRow(p, places.bias[0], places.mask[0], key, keys, terms);
  bool kept = false;
  for (int n = 0; n < lanes; n += Vec::kWidth) {
    for (int i = 0; i < Vec::kWidth; ++i) {
      kept |= TermRow(p, places.bias[n + i], places.mask[n + i], key, keys, lines + i * kKeys);
    }
    for (int j = 0; j < keys; j += Vec::kWidth) {  // numbers past the last key are never used
      Vec t[Vec::kWidth];
      for (int i = 0; i < Vec::kWidth; ++i) t[i] = Vec::Load(lines + i * kKeys + j);
      Transpose(t);
      for (int i = 0; i < Vec::kWidth; ++i) t[i].Store(terms + (j + i) * lanes + n);
    }
  }
  return kept;
}

}  // namespace
}  // namespace omfuse
