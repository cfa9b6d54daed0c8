// Numbers of two bytes to float and back, without help from the processor.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "problem.h"

namespace omfuse {
namespace {  // compiled once an instruction set: the linker must not share one of them

inline float FloatOfBits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint32_t BitsOfFloat(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float FloatOfHalf(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t exponent = (half >> 10) & 31u, fraction = half & 1023u;
  if (exponent == 31) return FloatOfBits(sign | 0x7f800000u | fraction << 13);
  if (exponent == 0) {  // zero and subnormal: the fraction counts units of 2^-24
    const float magnitude = static_cast<float>(fraction) * 5.9604644775390625e-8f;
    return sign ? -magnitude : magnitude;
  }
  return FloatOfBits(sign | (exponent + 112) << 23 | fraction << 13);
}

// Rounds to nearest, ties to even.
inline uint16_t HalfOfFloat(float value) {
  const uint32_t bits = BitsOfFloat(value), magnitude = bits & 0x7fffffffu;
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
  if (magnitude > 0x7f800000u) return sign | 0x7e00u;
  if (magnitude >= 0x477ff000u) return sign | 0x7c00u;  // rounds beyond 65504
  if (magnitude < 0x38800000u) {                        // below 2^-14: count units of 2^-24
    return sign | static_cast<uint16_t>(std::nearbyint(FloatOfBits(magnitude) * 16777216.0f));
  }
  return sign |
         static_cast<uint16_t>((magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1)) >> 13);
}

inline float FloatOfBrain(uint16_t brain) {
  return FloatOfBits(static_cast<uint32_t>(brain) << 16);
}

inline uint16_t BrainOfFloat(float value) {
  const uint32_t bits = BitsOfFloat(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

inline float Load(const void* data, int64_t index, Type type) {
  if (type == Type::kFloat32) return static_cast<const float*>(data)[index];
  const uint16_t bits = static_cast<const uint16_t*>(data)[index];
  return type == Type::kFloat16 ? FloatOfHalf(bits) : FloatOfBrain(bits);
}

inline void Store(void* data, int64_t index, Type type, float value) {
  if (type == Type::kFloat32) {
    static_cast<float*>(data)[index] = value;
  } else {
    static_cast<uint16_t*>(data)[index] =
        type == Type::kFloat16 ? HalfOfFloat(value) : BrainOfFloat(value);
  }
}

}  // namespace
}  // namespace omfuse
