// Vectors of 4 floats: NEON of AArch64; simd.h says what each function does.
#pragma once

#include <arm_neon.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#include "exp2.h"

namespace omfuse {
namespace {

struct Vec {
  static constexpr int kWidth = 4, kVectors = 6, kRows = 4;  // 24 of 32 registers accumulate
  static constexpr int kSums = 16;
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
  static Vec KeepWhere(Vec x, const uint8_t* keep) {
    uint32_t four;
    std::memcpy(&four, keep, sizeof four);
    const uint16x8_t pairs = vmovl_u8(vcreate_u8(four));
    const uint32x4_t bytes = vmovl_u16(vget_low_u16(pairs));
    return {vbslq_f32(vtstq_u32(bytes, bytes), x.v, vdupq_n_f32(-INFINITY))};
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
  void StoreHalf(uint16_t* p) const { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(v))); }
  static void Zip(Vec a, Vec b, Vec* low, Vec* high) {
    low->v = vzip1q_f32(a.v, b.v);
    high->v = vzip2q_f32(a.v, b.v);
  }
};

}  // namespace
}  // namespace omfuse
