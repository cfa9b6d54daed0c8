// Bring queries, keys, values, bias and mask into the order that the kernels read, and results
// back: conversions and transpositions of kWidth x kWidth numbers in registers.
#pragma once

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdint>

#include "rows.h"
#include "simd.h"

namespace omfuse {
namespace {

constexpr int kKeys = 64;  // keys a block: K, V, S and O of a block stay in the first caches
static_assert(kKeys % Vec::kWidth == 0, "blocks are made of whole vectors");

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

// The term of one score, bias + mask; the places are those of its row.
float Term(const Problem& p, int64_t bias_at, int64_t mask_at, int64_t key) {
  mask_at += key * p.mask.stride[3];
  if (p.mask.data && !static_cast<const uint8_t*>(p.mask.data)[mask_at]) return -INFINITY;
  return p.bias.data ? Load(p.bias.data, bias_at + key * p.bias.stride[3], p.type) : 0.0f;
}

// The terms of kWidth keys.  Rows of a block lie pages apart, where the processor does not fetch
// ahead by itself, so the place of the next block is named here.
inline __attribute__((always_inline)) Vec Terms(const Problem& p, int64_t bias_at, int64_t mask_at,
                                                int64_t key) {
  Vec term = Vec::Set(0);
  if (p.bias.data && p.bias.stride[3]) {
    term = LoadVec(p.bias.data, bias_at + key, p.type);
    const int64_t size = p.type == Type::kFloat32 ? 4 : 2;
    __builtin_prefetch(static_cast<const char*>(p.bias.data) + (bias_at + key + kKeys) * size, 0,
                       2);
  } else if (p.bias.data) {
    term = Vec::Set(Load(p.bias.data, bias_at, p.type));
  }
  if (!p.mask.data) return term;
  const auto* keep = static_cast<const uint8_t*>(p.mask.data) + mask_at;
  if (p.mask.stride[3]) {
    __builtin_prefetch(keep + key + kKeys, 0, 2);
    return Vec::KeepWhere(term, keep + key);
  }
  return *keep ? term : Vec::Set(-INFINITY);
}

// 1 in lanes whose term is not -inf (NaN is not), `seen` in the others.
Vec Kept(Vec term, Vec seen) { return Vec::IfLess(term, Vec::Set(-FLT_MAX), seen, Vec::Set(1)); }

// Writes the terms of one row as line[key]; false when it keeps none of the keys.
bool TermRow(const Problem& p, int64_t bias_at, int64_t mask_at, int64_t key, int keys,
             float* line) {
  Vec seen = Vec::Set(0);
  bool kept = false;
  const bool whole = ForPieces(keys, [&](int64_t j) {
    const Vec term = Terms(p, bias_at, mask_at, key + j);
    term.Store(line + j);
    seen = Kept(term, seen);
  });
  for (int j = 0; !whole && j < keys; ++j) {
    line[j] = Term(p, bias_at, mask_at, key + j);
    kept |= line[j] != -INFINITY;
  }
  return kept || LargestLane(seen, 0) > 0;
}

// Where bias and mask of each lane begin; `same` when all lanes share them.
struct TermPlaces {
  int64_t bias[kLanes], mask[kLanes];
  bool same = false;
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
// false when no lane keeps any of its keys.
template <int N>
bool FillTerms(const Problem& p, const TermPlaces& places, int64_t key, int keys, float* terms) {
  constexpr int lanes = N * Vec::kWidth;
  if (places.same) return TermRow(p, places.bias[0], places.mask[0], key, keys, terms);
  Vec seen = Vec::Set(0);
  bool kept = false;
  for (int n = 0; n < lanes; n += Vec::kWidth) {
    const int64_t *bias = places.bias + n, *mask = places.mask + n;
    const bool whole = ForPieces(keys, [&](int64_t j) {
      Vec t[Vec::kWidth];
      for (int i = 0; i < Vec::kWidth; ++i) {
        t[i] = Terms(p, bias[i], mask[i], key + j);
        seen = Kept(t[i], seen);
      }
      Transpose(t);
      for (int i = 0; i < Vec::kWidth; ++i) t[i].Store(terms + (j + i) * lanes + n);
    });
    for (int x = 0; !whole && x < keys * Vec::kWidth; ++x) {
      const int j = x / Vec::kWidth, i = x % Vec::kWidth;
      const float term = Term(p, bias[i], mask[i], key + j);
      terms[j * lanes + n + i] = term;
      kept |= term != -INFINITY;
    }
  }
  return kept || LargestLane(seen, 0) > 0;
}

}  // namespace
}  // namespace omfuse
