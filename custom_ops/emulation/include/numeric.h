// Device number types: IEEE half and bfloat16, rounded to nearest even as the vector unit does.
#ifndef OMFUSE_EMULATION_NUMERIC_H_
#define OMFUSE_EMULATION_NUMERIC_H_

#include <cstdint>
#include <cstring>

namespace omfuse_emu {

inline uint32_t BitsOf(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

inline float FloatOf(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

inline float HalfToFloatSlow(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
  const uint32_t exponent = (h >> 10) & 31u;
  const uint32_t fraction = h & 1023u;
  if (exponent == 31) return FloatOf(sign | 0x7F800000u | (fraction << 13));
  if (exponent) return FloatOf(sign | ((exponent + 112) << 23) | (fraction << 13));
  const float small = static_cast<float>(fraction) * 5.9604644775390625e-08f;  // 2^-24
  return sign ? -small : small;
}

struct HalfTable {
  float values[65536];
  HalfTable() {
    for (uint32_t i = 0; i < 65536; ++i) values[i] = HalfToFloatSlow(static_cast<uint16_t>(i));
  }
};
extern const HalfTable kHalfTable;

inline float HalfToFloat(uint16_t h) { return kHalfTable.values[h]; }

inline uint16_t FloatToHalf(float value) {
  uint32_t bits = BitsOf(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  bits &= 0x7FFFFFFFu;
  if (bits > 0x7F800000u) return static_cast<uint16_t>(sign | 0x7E00u);
  if (bits >= 0x477FF000u) return static_cast<uint16_t>(sign | 0x7C00u);  // rounds to infinity
  if (bits < 0x38800000u) {  // subnormal half: let the float adder do the rounding
    const float shifted = FloatOf(bits) + 0.5f;
    return static_cast<uint16_t>(sign | (BitsOf(shifted) - 0x3F000000u));
  }
  bits += 0xC8000FFFu + ((bits >> 13) & 1u);
  return static_cast<uint16_t>(sign | (bits >> 13));
}

inline uint16_t FloatToBf16(float value) {
  const uint32_t bits = BitsOf(value);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

}  // namespace omfuse_emu

struct half {
  uint16_t bits = 0;
  half() = default;
  half(float value) : bits(omfuse_emu::FloatToHalf(value)) {}  // NOLINT: as on the device
  operator float() const { return omfuse_emu::HalfToFloat(bits); }
};

struct bfloat16_t {
  uint16_t bits = 0;
  bfloat16_t() = default;
  bfloat16_t(float value) : bits(omfuse_emu::FloatToBf16(value)) {}  // NOLINT
  operator float() const { return omfuse_emu::FloatOf(static_cast<uint32_t>(bits) << 16); }
};

static_assert(sizeof(half) == 2 && sizeof(bfloat16_t) == 2, "two bytes each");

#endif  // OMFUSE_EMULATION_NUMERIC_H_
