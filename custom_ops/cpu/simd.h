// Vectors of floats: one struct an instruction set, chosen by OMFUSE_SIMD_* when compiling.
//
// kWidth lanes a vector; kVectors x kRows accumulators of a tile of kVectors; kSums of a row.
// MulAdd(a, b, c)      a * b + c
// Max(a, b)            the second operand where the first is NaN
// KeepBetween          x where low <= k <= high, -inf elsewhere
// KeepWhere(x, bytes)  x where the byte of a lane is not 0, -inf elsewhere
// IfLess(a, b, y, n)   y where a < b, n elsewhere
// Exp2NonPositive(x)   2^x for x <= 0: exactly 0 below 2^-126 and for -inf, NaN for NaN; rounds x
//                      to n, evaluates a polynomial in x - n and multiplies by 2^n
// Zip(a, b)            a0 b0 a1 b1 ..., the lower half of the lanes and the upper half
#pragma once

#include <cstdint>

#include "convert.h"

#if defined(OMFUSE_SIMD_AVX512)
#include "simd_avx512.h"
#elif defined(OMFUSE_SIMD_AVX2)
#include "simd_avx2.h"
#elif defined(OMFUSE_SIMD_NEON)
#include "simd_neon.h"
#else
#include "simd_scalar.h"
#endif

namespace omfuse {
namespace {

constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

// Turns rows into columns: each pass interleaves the halves (a perfect shuffle of all numbers).
inline void Transpose(Vec (&t)[Vec::kWidth]) {
#pragma GCC unroll 8
  for (int pass = 1; pass < Vec::kWidth; pass *= 2) {
    Vec next[Vec::kWidth];
#pragma GCC unroll 16
    for (int i = 0; i < Vec::kWidth / 2; ++i) {
      Vec::Zip(t[i], t[i + Vec::kWidth / 2], &next[2 * i], &next[2 * i + 1]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < Vec::kWidth; ++i) t[i] = next[i];
  }
}

// Returns the sums of the lanes of t[0], t[1], ... in lanes 0, 1, ...
inline Vec SumEach(const Vec* t) {
  Vec sum[Vec::kWidth];
#pragma GCC unroll 16
  for (int i = 0; i < Vec::kWidth; ++i) sum[i] = t[i];
#pragma GCC unroll 8
  for (int count = Vec::kWidth / 2; count > 0; count /= 2) {
#pragma GCC unroll 16
    for (int i = 0; i < count; ++i) {
      Vec low, high;
      Vec::Zip(sum[i], sum[i + count], &low, &high);
      sum[i] = low + high;
    }
  }
  return sum[0];
}

inline float LargestLane(Vec x, float least) {
  alignas(64) float lanes[Vec::kWidth];
  x.Store(lanes);
  for (float lane : lanes) least = lane > least ? lane : least;
  return least;
}

inline float SumOfLanes(Vec x) {
  alignas(64) float lanes[Vec::kWidth];
  x.Store(lanes);
  for (int count = Vec::kWidth / 2; count > 0; count /= 2) {
    for (int i = 0; i < count; ++i) lanes[i] += lanes[i + count];
  }
  return lanes[0];
}

// tanh: an odd polynomial below 0.65 (relative error 2.4e-10), 1 - 2 / (e^2x + 1) above.
inline Vec Tanh(Vec x) {
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

// kWidth numbers of a tensor, whatever their type.
inline Vec LoadVec(const void* data, int64_t index, Type type) {
  if (type == Type::kFloat32) return Vec::Load(static_cast<const float*>(data) + index);
  const uint16_t* at = static_cast<const uint16_t*>(data) + index;
  return type == Type::kFloat16 ? Vec::LoadHalf(at) : Vec::LoadBrain(at);
}

inline void StoreVec(void* data, int64_t index, Type type, Vec x) {
  if (type == Type::kFloat32) {
    x.Store(static_cast<float*>(data) + index);
  } else if (type == Type::kFloat16) {
    x.StoreHalf(static_cast<uint16_t*>(data) + index);
  } else {
    alignas(64) float lanes[Vec::kWidth];
    x.Store(lanes);
    auto* at = static_cast<uint16_t*>(data) + index;
    for (int i = 0; i < Vec::kWidth; ++i) at[i] = BrainOfFloat(lanes[i]);
  }
}

}  // namespace
}  // namespace omfuse
