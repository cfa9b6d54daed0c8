// Vectors of floats: one struct an instruction set, chosen by OMFUSE_SIMD_* when compiling.
//
// Exp2NonPositive(x) is 2^x for x <= 0: exactly 0 below 2^-126 and for -inf, NaN for NaN.  It
// rounds x to n, evaluates a polynomial of degree 6 in x - n (relative error 1.9e-9, a Lawson fit
// of 2^f on [-0.5, 0.5]) and multiplies by 2^n.
#pragma once

#include <cmath>
#include <cstdint>

#include "convert.h"

#if defined(OMFUSE_SIMD_AVX512) || defined(OMFUSE_SIMD_AVX2)
#include <immintrin.h>
#elif defined(OMFUSE_SIMD_NEON)
#include <arm_neon.h>
#endif

namespace omfuse {

constexpr float kExp2Coefficients[7] = {1.0f,
                                        0.6931471824645996f,
                                        0.24022646248340607f,
                                        0.05550328642129898f,
                                        0.009618489071726799f,
                                        0.0013399932067841291f,
                                        0.0001534580806037411f};

template <class V>
inline V Exp2Polynomial(V f) {
  V p = V::Set(kExp2Coefficients[6]);
  for (int i = 5; i >= 0; --i) p = V::MulAdd(p, f, V::Set(kExp2Coefficients[i]));
  return p;
}

#if defined(OMFUSE_SIMD_AVX512)

struct Vec {
  static constexpr int kWidth = 16, kVectors = 3, kRows = 8;  // 24 of 32 registers accumulate
  __m512 v;
  static Vec Set(float x) { return {_mm512_set1_ps(x)}; }
  static Vec Load(const float* p) { return {_mm512_loadu_ps(p)}; }
  void Store(float* p) const { _mm512_storeu_ps(p, v); }
  static Vec MulAdd(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
  friend Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
  friend Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
  friend Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
  friend Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
  // The second operand where the first is NaN.
  static Vec Max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
  static Vec Min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
  // x where low <= k <= high, -inf elsewhere.
  static Vec KeepBetween(Vec x, Vec k, Vec low, Vec high) {
    const __mmask16 keep =
        _mm512_cmp_ps_mask(k.v, low.v, _CMP_GE_OQ) & _mm512_cmp_ps_mask(k.v, high.v, _CMP_LE_OQ);
    return {_mm512_mask_blend_ps(keep, _mm512_set1_ps(-INFINITY), x.v)};
  }
  // yes where a < b, no elsewhere.
  static Vec IfLess(Vec a, Vec b, Vec yes, Vec no) {
    return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), no.v, yes.v)};
  }
  static Vec Exp2NonPositive(Vec x) {
    const __mmask16 seen =
        _mm512_cmp_ps_mask(x.v, _mm512_set1_ps(-126.0f), _CMP_NLT_UQ);  // NaN is seen
    const __m512 n = _mm512_roundscale_ps(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const Vec p = Exp2Polynomial<Vec>({_mm512_sub_ps(x.v, n)});
    return {_mm512_maskz_scalef_ps(seen, p.v, n)};
  }
  static Vec LoadHalf(const uint16_t* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
  }
  static Vec LoadBrain(const uint16_t* p) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
  }
};

#elif defined(OMFUSE_SIMD_AVX2)

struct Vec {
  static constexpr int kWidth = 8, kVectors = 3, kRows = 4;  // 12 of 16 registers accumulate
  __m256 v;
  static Vec Set(float x) { return {_mm256_set1_ps(x)}; }
  static Vec Load(const float* p) { return {_mm256_loadu_ps(p)}; }
  void Store(float* p) const { _mm256_storeu_ps(p, v); }
  static Vec MulAdd(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
  friend Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
  friend Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
  friend Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
  friend Vec operator/(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }
  static Vec Max(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }
  static Vec Min(Vec a, Vec b) { return {_mm256_min_ps(a.v, b.v)}; }
  static Vec KeepBetween(Vec x, Vec k, Vec low, Vec high) {
    const __m256 keep = _mm256_and_ps(_mm256_cmp_ps(k.v, low.v, _CMP_GE_OQ),
                                      _mm256_cmp_ps(k.v, high.v, _CMP_LE_OQ));
    return {_mm256_blendv_ps(_mm256_set1_ps(-INFINITY), x.v, keep)};
  }
  static Vec IfLess(Vec a, Vec b, Vec yes, Vec no) {
    return {_mm256_blendv_ps(no.v, yes.v, _mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ))};
  }
  static Vec Exp2NonPositive(Vec x) {
    const __m256 seen = _mm256_cmp_ps(x.v, _mm256_set1_ps(-126.0f), _CMP_NLT_UQ);
    const __m256 n = _mm256_round_ps(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const Vec p = Exp2Polynomial<Vec>({_mm256_sub_ps(x.v, n)});
    const __m256i power =
        _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return {_mm256_and_ps(seen, _mm256_mul_ps(p.v, _mm256_castsi256_ps(power)))};
  }
  static Vec LoadHalf(const uint16_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
  }
  static Vec LoadBrain(const uint16_t* p) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16))};
  }
};

#elif defined(OMFUSE_SIMD_NEON)

struct Vec {
  static constexpr int kWidth = 4, kVectors = 6, kRows = 4;  // 24 of 32 registers accumulate
  float32x4_t v;
  static Vec Set(float x) { return {vdupq_n_f32(x)}; }
  static Vec Load(const float* p) { return {vld1q_f32(p)}; }
  void Store(float* p) const { vst1q_f32(p, v); }
  static Vec MulAdd(Vec a, Vec b, Vec c) { return {vfmaq_f32(c.v, a.v, b.v)}; }
  friend Vec operator+(Vec a, Vec b) { return {vaddq_f32(a.v, b.v)}; }
  friend Vec operator-(Vec a, Vec b) { return {vsubq_f32(a.v, b.v)}; }
  friend Vec operator*(Vec a, Vec b) { return {vmulq_f32(a.v, b.v)}; }
  friend Vec operator/(Vec a, Vec b) { return {vdivq_f32(a.v, b.v)}; }
  static Vec Max(Vec a, Vec b) { return {vbslq_f32(vcgtq_f32(a.v, b.v), a.v, b.v)}; }
  static Vec Min(Vec a, Vec b) { return {vbslq_f32(vcltq_f32(a.v, b.v), a.v, b.v)}; }
  static Vec KeepBetween(Vec x, Vec k, Vec low, Vec high) {
    const uint32x4_t keep = vandq_u32(vcgeq_f32(k.v, low.v), vcleq_f32(k.v, high.v));
    return {vbslq_f32(keep, x.v, vdupq_n_f32(-INFINITY))};
  }
  static Vec IfLess(Vec a, Vec b, Vec yes, Vec no) {
    return {vbslq_f32(vcltq_f32(a.v, b.v), yes.v, no.v)};
  }
  static Vec Exp2NonPositive(Vec x) {
    const uint32x4_t gone = vcltq_f32(x.v, vdupq_n_f32(-126.0f));
    const float32x4_t n = vrndnq_f32(x.v);
    const Vec p = Exp2Polynomial<Vec>({vsubq_f32(x.v, n)});
    const int32x4_t power = vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127)), 23);
    const float32x4_t y = vmulq_f32(p.v, vreinterpretq_f32_s32(power));
    return {vbslq_f32(gone, vdupq_n_f32(0.0f), y)};
  }
  static Vec LoadHalf(const uint16_t* p) {
    return {vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)))};
  }
  static Vec LoadBrain(const uint16_t* p) {
    return {vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16))};
  }
};

#else

// Small arrays that any compiler turns into whatever vectors the target has.
struct Vec {
  static constexpr int kWidth = 4, kVectors = 2, kRows = 4;
  float v[kWidth];
  template <class F>
  static Vec Each(F f) {
    Vec r;
    for (int i = 0; i < kWidth; ++i) r.v[i] = f(i);
    return r;
  }
  static Vec Set(float x) {
    return Each([&](int) { return x; });
  }
  static Vec Load(const float* p) {
    return Each([&](int i) { return p[i]; });
  }
  void Store(float* p) const {
    for (int i = 0; i < kWidth; ++i) p[i] = v[i];
  }
  static Vec MulAdd(Vec a, Vec b, Vec c) {
    return Each([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
  }
  friend Vec operator+(Vec a, Vec b) {
    return Each([&](int i) { return a.v[i] + b.v[i]; });
  }
  friend Vec operator-(Vec a, Vec b) {
    return Each([&](int i) { return a.v[i] - b.v[i]; });
  }
  friend Vec operator*(Vec a, Vec b) {
    return Each([&](int i) { return a.v[i] * b.v[i]; });
  }
  friend Vec operator/(Vec a, Vec b) {
    return Each([&](int i) { return a.v[i] / b.v[i]; });
  }
  static Vec Max(Vec a, Vec b) {
    return Each([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
  }
  static Vec Min(Vec a, Vec b) {
    return Each([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
  }
  static Vec KeepBetween(Vec x, Vec k, Vec low, Vec high) {
    return Each(
        [&](int i) { return k.v[i] >= low.v[i] && k.v[i] <= high.v[i] ? x.v[i] : -INFINITY; });
  }
  static Vec IfLess(Vec a, Vec b, Vec yes, Vec no) {
    return Each([&](int i) { return a.v[i] < b.v[i] ? yes.v[i] : no.v[i]; });
  }
  static Vec Exp2NonPositive(Vec x) {
    const Vec n = Each([&](int i) { return x.v[i] < -126.0f ? 0.0f : std::nearbyint(x.v[i]); });
    const Vec p = Exp2Polynomial<Vec>(x - n);
    return Each([&](int i) {
      if (x.v[i] < -126.0f) return 0.0f;
      if (x.v[i] != x.v[i]) return x.v[i];
      return p.v[i] * FloatOfBits(static_cast<uint32_t>(static_cast<int32_t>(n.v[i]) + 127) << 23);
    });
  }
  static Vec LoadHalf(const uint16_t* p) {
    return Each([&](int i) { return FloatOfHalf(p[i]); });
  }
  static Vec LoadBrain(const uint16_t* p) {
    return Each([&](int i) { return FloatOfBrain(p[i]); });
  }
};

#endif

}  // namespace omfuse
