// Reductions inside a block and the broadcast of elements to blocks.
#ifndef OMFUSE_EMULATION_API_REDUCE_H_
#define OMFUSE_EMULATION_API_REDUCE_H_

#include "api_vector.h"

namespace AscendC {
namespace emu {

// One result a 32-byte block: eight a repeat, side by side.
template <typename T, typename F>
void BlockReduce(const char* name, const LocalTensor<T>& dst, const LocalTensor<T>& src,
                 int32_t repeat, int32_t mask, int32_t dst_rep, int32_t src_blk, int32_t src_rep,
                 F fold) {
  if (repeat <= 0 || mask <= 0) return;
  CheckRepeats(name, static_cast<uint32_t>(repeat), false);
  constexpr uint32_t per_block = 32 / sizeof(T);
  constexpr uint32_t per_repeat = 256 / sizeof(T);
  Core& core = omfuse_emu::Machine::Current();
  Require(name, src, omfuse_emu::Space::kUb);
  Require(name, dst, omfuse_emu::Space::kUb, 8 * sizeof(T));
  if (mask > static_cast<int32_t>(per_repeat)) core.Fail(std::string(name) + ": mask too large");
  const Operand source{src.storage(), src.offset(), sizeof(T), static_cast<uint32_t>(src_blk),
                       static_cast<uint32_t>(src_rep)};
  Storage* out = dst.storage();
  const uint64_t base = dst.offset();
  const uint32_t blocks = (static_cast<uint32_t>(mask) + per_block - 1) / per_block;
  Instruction instruction;
  instruction.name = name;
  instruction.busy = static_cast<uint32_t>(omfuse_emu::kBlockReduce.repeat * repeat) + 1;
  instruction.latency = omfuse_emu::kBlockReduce.start;
  if (core.machine().checks()) {
    Touch(&instruction.reads, source,
          Lanes::First(static_cast<uint64_t>(mask), static_cast<uint32_t>(repeat)), per_repeat);
    for (int32_t r = 0; r < repeat; ++r) {
      omfuse_emu::Append(&instruction.writes, out, base + uint64_t(r) * dst_rep * 8 * sizeof(T),
                         blocks * sizeof(T));
    }
  }
  instruction.run = [=] {
    for (int32_t r = 0; r < repeat; ++r) {
      T* to = reinterpret_cast<T*>(out->data + base) + int64_t{r} * dst_rep * 8;
      for (uint32_t b = 0; b < blocks; ++b) {
        const T* from = reinterpret_cast<const T*>(
            source.storage->data + source.At(static_cast<uint32_t>(r), b * per_block));
        const uint32_t last = std::min(per_block, static_cast<uint32_t>(mask) - b * per_block);
        float parts[per_block];
        for (uint32_t e = 0; e < last; ++e) parts[e] = float(from[e]);
        // Pairwise, as the unit's adder tree does.
        for (uint32_t width = last; width > 1; width = (width + 1) / 2) {
          for (uint32_t e = 0; e + 1 < width; e += 2)
            parts[e / 2] = float(T(fold(parts[e], parts[e + 1])));
          if (width % 2) parts[width / 2] = parts[width - 1];
        }
        to[b] = T(parts[0]);
      }
    }
  };
  core.Issue(omfuse_emu::kV, std::move(instruction));
}

}  // namespace emu

template <typename T>
void BlockReduceMax(const LocalTensor<T>& dst, const LocalTensor<T>& src, const int32_t repeat,
                    const int32_t mask, const int32_t dstRepStride, const int32_t srcBlkStride,
                    const int32_t srcRepStride) {
  emu::BlockReduce("BlockReduceMax", dst, src, repeat, mask, dstRepStride, srcBlkStride,
                   srcRepStride, [](float a, float b) { return a > b || a != a ? a : b; });
}

template <typename T>
void BlockReduceSum(const LocalTensor<T>& dst, const LocalTensor<T>& src, const int32_t repeat,
                    const int32_t mask, const int32_t dstRepStride, const int32_t srcBlkStride,
                    const int32_t srcRepStride) {
  emu::BlockReduce("BlockReduceSum", dst, src, repeat, mask, dstRepStride, srcBlkStride,
                   srcRepStride, [](float a, float b) { return a + b; });
}

template <typename T>
void Brcb(const LocalTensor<T>& dst, const LocalTensor<T>& src, const uint8_t repeat,
          const BrcbRepeatParams& params) {
  Require("Brcb", dst, omfuse_emu::Space::kUb);
  Require("Brcb", src, omfuse_emu::Space::kUb);
  if (!repeat) return;
  omfuse_emu::Core& core = omfuse_emu::Machine::Current();
  omfuse_emu::Storage* to = dst.storage();
  omfuse_emu::Storage* from = src.storage();
  const uint64_t dst_at = dst.offset(), src_at = src.offset();
  omfuse_emu::Instruction instruction;
  instruction.name = "Brcb";
  instruction.busy = static_cast<uint32_t>(omfuse_emu::kConvert.repeat * repeat) + 1;
  instruction.latency = omfuse_emu::kConvert.start;
  const BrcbRepeatParams p = params;
  auto block = [p, dst_at](uint32_t r, uint32_t b) {
    return dst_at + (uint64_t{r} * p.dstRepStride + uint64_t{b} * p.dstBlkStride) * 32;
  };
  if (core.machine().checks()) {
    omfuse_emu::Append(&instruction.reads, from, src_at, uint64_t{repeat} * 8 * sizeof(T));
    for (uint32_t i = 0; i < repeat * 8u; ++i) {
      omfuse_emu::Append(&instruction.writes, to, block(i / 8, i % 8), 32);
    }
  }
  instruction.run = [=] {
    const T* values = reinterpret_cast<const T*>(from->data + src_at);
    for (uint32_t i = 0; i < repeat * 8u; ++i) {
      T* out = reinterpret_cast<T*>(to->data + block(i / 8, i % 8));
      for (uint32_t e = 0; e < 32 / sizeof(T); ++e) out[e] = values[i];
    }
  };
  core.Issue(omfuse_emu::kV, std::move(instruction));
}

}  // namespace AscendC

#endif  // OMFUSE_EMULATION_API_REDUCE_H_
