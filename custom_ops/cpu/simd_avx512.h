// Vectors of 16 floats: AVX-512 with F, DQ, BW and VL; simd.h says what each function does.
#pragma once

#include <immintrin.h>

#include <cmath>
#include <cstdint>

#include "exp2.h"

namespace omfuse {
namespace {

struct Vec {
  static constexpr int kWidth = 16, kVectors = 3, kRows = 8;  // 24 of 32 registers accumulate
  static constexpr int kSums = 16;
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
  static Vec KeepWhere(Vec x, const uint8_t* keep) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(keep));
    const __mmask16 kept = _mm_test_epi8_mask(bytes, bytes);
    return {_mm512_mask_blend_ps(kept, _mm512_set1_ps(-INFINITY), x.v)};
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
  void StoreHalf(uint16_t* p) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
  }
  static void Zip(Vec a, Vec b, Vec* low, Vec* high) {
    const __m512i first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
    low->v = _mm512_permutex2var_ps(a.v, first, b.v);
    high->v = _mm512_permutex2var_ps(a.v, second, b.v);
  }
};

}  // namespace
}  // namespace omfuse
