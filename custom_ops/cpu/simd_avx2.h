// Vectors of 8 floats: AVX2 with FMA and F16C; simd.h says what each function does.
#pragma once

#include <immintrin.h>

#include <cmath>
#include <cstdint>

#include "exp2.h"

namespace omfuse {
namespace {

struct Vec {
  static constexpr int kWidth = 8, kVectors = 3, kRows = 4;  // 12 of 16 registers accumulate
  static constexpr int kSums = 8;
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
  static Vec KeepWhere(Vec x, const uint8_t* keep) {
    const __m256i bytes =
        _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(keep)));
    const __m256i gone = _mm256_cmpeq_epi32(bytes, _mm256_setzero_si256());
    return {_mm256_blendv_ps(x.v, _mm256_set1_ps(-INFINITY), _mm256_castsi256_ps(gone))};
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
  void StoreHalf(uint16_t* p) const {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
  }
  static void Zip(Vec a, Vec b, Vec* low, Vec* high) {
    const __m256 outer = _mm256_unpacklo_ps(a.v, b.v), inner = _mm256_unpackhi_ps(a.v, b.v);
    low->v = _mm256_permute2f128_ps(outer, inner, 0x20);
    high->v = _mm256_permute2f128_ps(outer, inner, 0x31);
  }
};

}  // namespace
}  // namespace omfuse
