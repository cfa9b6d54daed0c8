// Elementwise vector instructions: counted and strided forms.
#ifndef OMFUSE_EMULATION_API_VECTOR_H_
#define OMFUSE_EMULATION_API_VECTOR_H_

#include <cmath>

#include "api_tensor.h"
#include "cost.h"

namespace AscendC {
namespace emu {

using omfuse_emu::Core;
using omfuse_emu::Instruction;
using omfuse_emu::Range;
using omfuse_emu::Storage;

// Which lanes of which repeats take part.
struct Lanes {
  uint32_t repeats = 0;
  uint64_t mask[2] = {0, 0};
  uint32_t tail = 0;  // lanes of the last repeat in counted form, 0 = all of `mask`
  static Lanes Count(uint32_t n, uint32_t per_repeat) {
    Lanes lanes = First(per_repeat, (n + per_repeat - 1) / per_repeat);
    lanes.tail = n % per_repeat;
    return lanes;
  }
  static Lanes First(uint64_t count, uint32_t repeats) {
    Lanes lanes;
    lanes.repeats = repeats;
    lanes.mask[0] = count >= 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1;
    lanes.mask[1] = count >= 128 ? ~uint64_t{0}
                    : count > 64 ? (uint64_t{1} << (count - 64)) - 1
                                 : 0;
    return lanes;
  }
  static Lanes Bits(const uint64_t mask[], uint32_t repeats) {
    Lanes lanes;
    lanes.repeats = repeats;
    lanes.mask[0] = mask[0];
    lanes.mask[1] = mask[1];
    return lanes;
  }
  bool On(uint32_t repeat, uint32_t lane) const {
    if (tail && repeat + 1 == repeats) return lane < tail;
    return (mask[lane / 64] >> (lane % 64)) & 1;
  }
};

struct Operand {
  Storage* storage;
  uint64_t offset;
  uint32_t size;           // bytes an element
  uint32_t block, repeat;  // strides in 32-byte blocks
  uint64_t At(uint32_t r, uint32_t lane) const {
    const uint32_t per_block = 32 / size;
    return offset + (uint64_t{r} * repeat + uint64_t{lane / per_block} * block) * 32 +
           lane % per_block * size;
  }
};

template <typename T>
Operand Use(const char* name, const LocalTensor<T>& tensor, uint32_t block, uint32_t repeat) {
  Require(name, tensor, omfuse_emu::Space::kUb);
  return {tensor.storage(), tensor.offset(), sizeof(T), block, repeat};
}

inline void Touch(std::vector<Range>* ranges, const Operand& operand, const Lanes& lanes,
                  uint32_t per_repeat) {
  for (uint32_t r = 0; r < lanes.repeats; ++r) {
    for (uint32_t lane = 0; lane < per_repeat; ++lane) {
      if (lanes.On(r, lane)) {
        omfuse_emu::Append(ranges, operand.storage, operand.At(r, lane), operand.size);
      }
    }
  }
}

// Repeats of an instruction do not wait for each other, so a source is the destination itself or
// lies clear of it.
inline void CheckOverlap(const char* name, const Operand& to, const Operand& from,
                         const std::vector<Range>& writes, const std::vector<Range>& reads) {
  if (from.storage != to.storage || (from.offset == to.offset && from.size == to.size)) return;
  for (const Range& write : writes) {
    for (const Range& read : reads) {
      if (read.storage != write.storage || read.end <= write.begin || write.end <= read.begin) {
        continue;
      }
      omfuse_emu::Machine::Current().Fail(std::string(name) +
                                          ": a source overlaps a part of the destination");
    }
  }
}

inline void CheckRepeats(const char* name, uint32_t repeats, bool counted) {
  if (!counted && repeats > 255) {
    omfuse_emu::Machine::Current().Fail(std::string(name) + ": more than 255 repeats");
  }
}

// Runs `element(pointers...)` over every lane that takes part.
template <size_t count, typename F>
void Run(const char* name, const omfuse_emu::VectorCost& cost, const Operand (&operands)[count],
         const Lanes& lanes, F element) {
  uint32_t widest = 1;
  for (const Operand& operand : operands) widest = operand.size > widest ? operand.size : widest;
  const uint32_t per_repeat = 256 / widest;
  if (!lanes.repeats) return;
  Core& core = omfuse_emu::Machine::Current();
  Instruction instruction;
  instruction.name = name;
  instruction.busy = static_cast<uint32_t>(cost.repeat * lanes.repeats) + 1;
  instruction.latency = cost.start;
  if (core.machine().checks()) {
    Touch(&instruction.writes, operands[0], lanes, per_repeat);
    for (size_t i = 1; i < count; ++i) {
      std::vector<Range> reads;
      Touch(&reads, operands[i], lanes, per_repeat);
      CheckOverlap(name, operands[0], operands[i], instruction.writes, reads);
      instruction.reads.insert(instruction.reads.end(), reads.begin(), reads.end());
    }
    const uint64_t beyond = per_repeat == 64   ? lanes.mask[1]
                            : per_repeat == 32 ? lanes.mask[1] | lanes.mask[0] >> 32
                                               : 0;
    if (beyond || !(lanes.mask[0] | lanes.mask[1])) {
      core.Fail(std::string(name) + ": the mask has lanes beyond a repeat, or none");
    }
  }
  struct Captured {
    Operand operands[count];
    Lanes lanes;
    F element;
  };
  Captured all{{}, lanes, element};
  for (size_t i = 0; i < count; ++i) all.operands[i] = operands[i];
  auto run = [all, per_repeat, widest] {
    const uint32_t chunk = 32 / widest;
    const bool full = (all.lanes.mask[0] == ~uint64_t{0}) &&
                      (per_repeat <= 64 || all.lanes.mask[1] == ~uint64_t{0});
    for (uint32_t r = 0; r < all.lanes.repeats; ++r) {
      const bool whole = full && !(all.lanes.tail && r + 1 == all.lanes.repeats);
      for (uint32_t lane = 0; lane < per_repeat; lane += chunk) {
        uint8_t* at[count];
        for (size_t i = 0; i < count; ++i) {
          at[i] = all.operands[i].storage->data + all.operands[i].At(r, lane);
        }
        if (whole) {
          for (uint32_t e = 0; e < chunk; ++e) all.element(at, e);
        } else {
          for (uint32_t e = 0; e < chunk; ++e) {
            if (all.lanes.On(r, lane + e)) all.element(at, e);
          }
        }
      }
    }
  };
  if (core.machine().random()) {
    instruction.run = run;
  } else {
    instruction.run = std::ref(run);
  }
  core.Issue(omfuse_emu::kV, std::move(instruction));
}

template <typename T>
T& As(uint8_t* at, uint32_t element) {
  return reinterpret_cast<T*>(at)[element];
}

template <typename T, typename F>
void Binary(const char* name, const omfuse_emu::VectorCost& cost, const LocalTensor<T>& dst,
            const LocalTensor<T>& a, const LocalTensor<T>& b, const Lanes& lanes,
            const BinaryRepeatParams& p, F f) {
  const Operand operands[3] = {Use(name, dst, p.dstBlkStride, p.dstRepStride),
                               Use(name, a, p.src0BlkStride, p.src0RepStride),
                               Use(name, b, p.src1BlkStride, p.src1RepStride)};
  Run(name, cost, operands, lanes, [f](uint8_t* const* at, uint32_t e) {
    As<T>(at[0], e) = T(f(float(As<T>(at[1], e)), float(As<T>(at[2], e))));
  });
}

template <typename T, typename F>
void Unary(const char* name, const omfuse_emu::VectorCost& cost, const LocalTensor<T>& dst,
           const LocalTensor<T>& a, const Lanes& lanes, const UnaryRepeatParams& p, F f) {
  const Operand operands[2] = {Use(name, dst, p.dstBlkStride, p.dstRepStride),
                               Use(name, a, p.srcBlkStride, p.srcRepStride)};
  Run(name, cost, operands, lanes,
      [f](uint8_t* const* at, uint32_t e) { As<T>(at[0], e) = T(f(float(As<T>(at[1], e)))); });
}

template <typename T>
constexpr uint32_t PerRepeat() {
  return 256 / sizeof(T);
}

}  // namespace emu

// A two-tensor instruction: counted, first lanes of each repeat, lanes by bit.
#define OMFUSE_EMULATE_BINARY(Name, cost, expression)                                          \
  template <typename T>                                                                        \
  void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1, \
            const int32_t& count) {                                                            \
    emu::Binary(#Name, cost, dst, src0, src1,                                                  \
                emu::Lanes::Count(static_cast<uint32_t>(count), emu::PerRepeat<T>()),          \
                BinaryRepeatParams(), [](float a, float b) { return expression; });            \
  }                                                                                            \
  template <typename T>                                                                        \
  void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1, \
            uint64_t mask, uint8_t repeat, const BinaryRepeatParams& params) {                 \
    emu::Binary(#Name, cost, dst, src0, src1, emu::Lanes::First(mask, repeat), params,         \
                [](float a, float b) { return expression; });                                  \
  }                                                                                            \
  template <typename T>                                                                        \
  void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1, \
            uint64_t mask[], uint8_t repeat, const BinaryRepeatParams& params) {               \
    emu::Binary(#Name, cost, dst, src0, src1, emu::Lanes::Bits(mask, repeat), params,          \
                [](float a, float b) { return expression; });                                  \
  }

OMFUSE_EMULATE_BINARY(Add, omfuse_emu::kTwoTensors, a + b)
OMFUSE_EMULATE_BINARY(Sub, omfuse_emu::kTwoTensors, a - b)
OMFUSE_EMULATE_BINARY(Mul, omfuse_emu::kTwoTensors, a* b)
OMFUSE_EMULATE_BINARY(Div, omfuse_emu::kDivide, a / b)
OMFUSE_EMULATE_BINARY(Max, omfuse_emu::kTwoTensors, a > b || a != a ? a : b)
OMFUSE_EMULATE_BINARY(Min, omfuse_emu::kTwoTensors, a < b || a != a ? a : b)
#undef OMFUSE_EMULATE_BINARY

// dst = src0 * dst + src1.
template <typename T>
void FusedMulAdd(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1,
                 uint64_t mask, const uint8_t repeat, const BinaryRepeatParams& p) {
  const char* name = "FusedMulAdd";
  const emu::Operand operands[4] = {emu::Use(name, dst, p.dstBlkStride, p.dstRepStride),
                                    emu::Use(name, src0, p.src0BlkStride, p.src0RepStride),
                                    emu::Use(name, src1, p.src1BlkStride, p.src1RepStride),
                                    emu::Use(name, dst, p.dstBlkStride, p.dstRepStride)};
  emu::Run(name, omfuse_emu::kTwoTensors, operands, emu::Lanes::First(mask, repeat),
           [](uint8_t* const* at, uint32_t e) {
             const float product = float(emu::As<T>(at[1], e)) * float(emu::As<T>(at[0], e));
             emu::As<T>(at[0], e) = T(product + float(emu::As<T>(at[2], e)));
           });
}

template <typename T>
void FusedMulAdd(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1,
                 const int32_t& count) {
  const char* name = "FusedMulAdd";
  const emu::Operand operands[4] = {emu::Use(name, dst, 1, 8), emu::Use(name, src0, 1, 8),
                                    emu::Use(name, src1, 1, 8), emu::Use(name, dst, 1, 8)};
  emu::Run(name, omfuse_emu::kTwoTensors, operands,
           emu::Lanes::Count(static_cast<uint32_t>(count), emu::PerRepeat<T>()),
           [](uint8_t* const* at, uint32_t e) {
             const float product = float(emu::As<T>(at[1], e)) * float(emu::As<T>(at[0], e));
             emu::As<T>(at[0], e) = T(product + float(emu::As<T>(at[2], e)));
           });
}

#define OMFUSE_EMULATE_SCALAR(Name, expression)                                                   \
  template <typename T>                                                                           \
  void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, const T& scalar,                \
            const int32_t& count) {                                                               \
    const float b = float(scalar);                                                                \
    emu::Unary(#Name, omfuse_emu::kScalarOperand, dst, src,                                       \
               emu::Lanes::Count(static_cast<uint32_t>(count), emu::PerRepeat<T>()),              \
               UnaryRepeatParams(), [b](float a) { return expression; });                         \
  }                                                                                               \
  template <typename T>                                                                           \
  void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, const T& scalar, uint64_t mask, \
            uint8_t repeat, const UnaryRepeatParams& params) {                                    \
    const float b = float(scalar);                                                                \
    emu::Unary(#Name, omfuse_emu::kScalarOperand, dst, src, emu::Lanes::First(mask, repeat),      \
               params, [b](float a) { return expression; });                                      \
  }

OMFUSE_EMULATE_SCALAR(Muls, a* b)
OMFUSE_EMULATE_SCALAR(Adds, a + b)
OMFUSE_EMULATE_SCALAR(Maxs, a > b || a != a ? a : b)
OMFUSE_EMULATE_SCALAR(Mins, a < b || a != a ? a : b)
#undef OMFUSE_EMULATE_SCALAR

#define OMFUSE_EMULATE_UNARY(Name, cost, expression)                                      \
  template <typename T>                                                                   \
  void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, const int32_t& count) { \
    emu::Unary(#Name, cost, dst, src,                                                     \
               emu::Lanes::Count(static_cast<uint32_t>(count), emu::PerRepeat<T>()),      \
               UnaryRepeatParams(), [](float a) { return expression; });                  \
  }

OMFUSE_EMULATE_UNARY(Exp, omfuse_emu::kExp, std::exp(a))
OMFUSE_EMULATE_UNARY(Ln, omfuse_emu::kExp, std::log(a))
#undef OMFUSE_EMULATE_UNARY

template <typename T>
void Duplicate(const LocalTensor<T>& dst, const T& value, const int32_t& count) {
  const emu::Operand operands[1] = {emu::Use("Duplicate", dst, 1, 8)};
  emu::Run("Duplicate", omfuse_emu::kScalarOperand, operands,
           emu::Lanes::Count(static_cast<uint32_t>(count), emu::PerRepeat<T>()),
           [value](uint8_t* const* at, uint32_t e) { emu::As<T>(at[0], e) = value; });
}

template <typename T>
void Duplicate(const LocalTensor<T>& dst, const T& value, uint64_t mask[], uint8_t repeat,
               uint16_t dstBlockStride, uint8_t dstRepeatStride) {
  const emu::Operand operands[1] = {emu::Use("Duplicate", dst, dstBlockStride, dstRepeatStride)};
  emu::Run("Duplicate", omfuse_emu::kScalarOperand, operands, emu::Lanes::Bits(mask, repeat),
           [value](uint8_t* const* at, uint32_t e) { emu::As<T>(at[0], e) = value; });
}

namespace emu {

template <typename D, typename S>
void CheckRounding(RoundMode mode) {
  const bool narrows = sizeof(D) < sizeof(S);
  const bool wanted = !narrows || OMFUSE_EMULATION_SPLIT ? true : mode == RoundMode::CAST_NONE;
  const bool known = narrows ? mode == RoundMode::CAST_RINT || mode == RoundMode::CAST_NONE
                             : mode == RoundMode::CAST_NONE;
  // A bfloat16 result needs a named rounding; half takes NONE as "nearest even" on both chips.
  if (!wanted || !known)
    omfuse_emu::Machine::Current().Fail("Cast: a rounding mode this chip lacks");
}

template <typename D, typename S>
struct CastElement {
  void operator()(uint8_t* const* at, uint32_t e) const {
    As<D>(at[0], e) = D(float(As<S>(at[1], e)));
  }
};

}  // namespace emu

template <typename D, typename S>
void Cast(const LocalTensor<D>& dst, const LocalTensor<S>& src, const RoundMode& mode,
          const uint32_t count) {
  emu::CheckRounding<D, S>(mode);
  constexpr uint32_t widest = sizeof(D) > sizeof(S) ? sizeof(D) : sizeof(S);
  constexpr uint32_t lanes = 256 / widest;
  const emu::Operand operands[2] = {emu::Use("Cast", dst, 1, lanes * sizeof(D) / 32),
                                    emu::Use("Cast", src, 1, lanes * sizeof(S) / 32)};
  emu::Run("Cast", omfuse_emu::kConvert, operands, emu::Lanes::Count(count, lanes),
           emu::CastElement<D, S>());
}

template <typename D, typename S>
void Cast(const LocalTensor<D>& dst, const LocalTensor<S>& src, const RoundMode& mode,
          const uint64_t mask, const uint8_t repeat, const UnaryRepeatParams& params) {
  emu::CheckRounding<D, S>(mode);
  const emu::Operand operands[2] = {
      emu::Use("Cast", dst, params.dstBlkStride, params.dstRepStride),
      emu::Use("Cast", src, params.srcBlkStride, params.srcRepStride)};
  emu::Run("Cast", omfuse_emu::kConvert, operands, emu::Lanes::First(mask, repeat),
           emu::CastElement<D, S>());
}

}  // namespace AscendC

#endif  // OMFUSE_EMULATION_API_VECTOR_H_
