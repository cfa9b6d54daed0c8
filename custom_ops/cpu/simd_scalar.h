// Small arrays that any compiler turns into whatever vectors the target has.
#pragma once

#include <cmath>
#include <cstdint>

#include "convert.h"
#include "exp2.h"

namespace omfuse {
namespace {

struct Vec {
  static constexpr int kWidth = 4, kVectors = 2, kRows = 4;
  static constexpr int kSums = 4;
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
  static Vec KeepWhere(Vec x, const uint8_t* keep) {
    return Each([&](int i) { return keep[i] ? x.v[i] : -INFINITY; });
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
  void StoreHalf(uint16_t* p) const {
    for (int i = 0; i < kWidth; ++i) p[i] = HalfOfFloat(v[i]);
  }
  static void Zip(Vec a, Vec b, Vec* low, Vec* high) {
    constexpr int half = kWidth / 2;
    *low = Each([&](int i) { return (i % 2 ? b : a).v[i / 2]; });
    *high = Each([&](int i) { return (i % 2 ? b : a).v[half + i / 2]; });
  }
};

}  // namespace
}  // namespace omfuse
