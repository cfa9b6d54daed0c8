// The cube: fractals into L0, Mmad, and results out of L0C.
#ifndef OMFUSE_EMULATION_API_CUBE_H_
#define OMFUSE_EMULATION_API_CUBE_H_

#include "api_copy.h"

namespace omfuse_emu {

// c[n/16][m][16] (+)= a (fractals row by row, each row-major) x b (fractals row by row, each
// column-major); sizes are multiples of 16.
void MatrixMultiply(float* c, const float* a, const float* b, uint32_t m, uint32_t n, uint32_t k,
                    bool zero);

}  // namespace omfuse_emu

namespace AscendC {

template <typename T>
void LoadData(const LocalTensor<T>& dst, const LocalTensor<T>& src, const LoadData2DParams& p) {
  using omfuse_emu::Space;
  static_assert(sizeof(T) == 2, "half and bfloat16 only");
  omfuse_emu::Core& core = omfuse_emu::Machine::Current();
  const bool left = dst.space() == Space::kL0a;
  Require("LoadData", dst, left ? Space::kL0a : Space::kL0b, 512);
  Require("LoadData", src, Space::kL1);
  if (!p.repeatTimes) return;
  const emu::Side to = emu::SideOf(dst, (1u + p.dstGap) * 512u);
  emu::Side from = emu::SideOf(src, p.srcStride * 512u);
  from.offset += p.startIndex * uint64_t{512};
  const uint64_t bytes = p.repeatTimes * uint64_t{512};
  (left ? core.machine().traffic().l1_to_l0a : core.machine().traffic().l1_to_l0b) += bytes;
  const uint32_t rate = left ? emu::kRates.l1_to_l0a : emu::kRates.l1_to_l0b;
  omfuse_emu::Instruction instruction;
  instruction.name = "LoadData";
  instruction.busy = static_cast<uint32_t>(bytes / rate) + 4;
  instruction.latency = omfuse_emu::kLocalLatency;
  instruction.copies = true;
  const uint32_t repeats = p.repeatTimes;
  const bool transpose = p.ifTranspose;
  if (core.machine().checks()) {
    for (uint32_t i = 0; i < repeats; ++i) {
      omfuse_emu::Append(&instruction.reads, from.storage, from.offset + i * from.step, 512);
      omfuse_emu::Append(&instruction.writes, to.storage, to.offset + i * to.step, 512);
    }
  }
  instruction.run = [=] {
    for (uint32_t i = 0; i < repeats; ++i) {
      const uint64_t source = from.offset + i * from.step;
      const uint64_t target = to.offset + i * to.step;
      if (!transpose) {
        omfuse_emu::CopyBytes(to.storage, target, *from.storage, source, 512);
        continue;
      }
      for (uint32_t r = 0; r < 16; ++r) {
        for (uint32_t c = 0; c < 16; ++c) {
          omfuse_emu::CopyBytes(to.storage, target + (c * 16 + r) * 2, *from.storage,
                                source + (r * 16 + c) * 2, 2);
        }
      }
    }
  };
  core.Issue(omfuse_emu::kMte1, std::move(instruction));
}

// Fills L1 with a value. 310P ignores blocks and gap: a repeat there is 512 bytes.
template <typename T>
void InitConstValue(const LocalTensor<T>& dst, const InitConstValueParams<T>& p) {
  Require("InitConstValue", dst, omfuse_emu::Space::kL1);
  InRange("InitConstValue", "repeatTimes", p.repeatTimes, 0, OMFUSE_EMULATION_SPLIT ? 32767 : 255);
  InRange("InitConstValue", "blockNum", p.blockNum, 0, 32767);
  InRange("InitConstValue", "dstGap", p.dstGap, 0, 32767);
  omfuse_emu::Core& core = omfuse_emu::Machine::Current();
  const uint64_t each = OMFUSE_EMULATION_SPLIT ? p.blockNum * 32u : 512u;
  const emu::Side to =
      emu::SideOf(dst, OMFUSE_EMULATION_SPLIT ? each + p.dstGap * 32u : uint64_t{512});
  if (!p.repeatTimes || !each) return;
  omfuse_emu::Instruction instruction;
  instruction.name = "InitConstValue";
  instruction.busy = emu::BurstCycles(p.repeatTimes, each, emu::kRates.global_read);
  instruction.latency = omfuse_emu::kLocalLatency;
  const uint32_t repeats = p.repeatTimes;
  const T value = p.initValue;
  if (core.machine().checks()) {
    for (uint32_t i = 0; i < repeats; ++i) {
      omfuse_emu::Append(&instruction.writes, to.storage, to.offset + i * to.step, each);
    }
  }
  instruction.run = [=] {
    for (uint32_t i = 0; i < repeats; ++i) {
      T* at = reinterpret_cast<T*>(to.storage->data + to.offset + i * to.step);
      for (uint64_t e = 0; e < each / sizeof(T); ++e) at[e] = value;
    }
  };
  core.Issue(omfuse_emu::kMte2, std::move(instruction));
}

template <typename S>
void Mmad(const LocalTensor<float>& dst, const LocalTensor<S>& a, const LocalTensor<S>& b,
          const MmadParams& p) {
  using omfuse_emu::Space;
#if !OMFUSE_EMULATION_SPLIT
  static_assert(sizeof(S) != 2 || !std::is_same<S, bfloat16_t>::value, "310P has no bfloat16");
#endif
  omfuse_emu::Core& core = omfuse_emu::Machine::Current();
  Require("Mmad", dst, Space::kL0c, 1024);
  Require("Mmad", a, Space::kL0a, 512);
  Require("Mmad", b, Space::kL0b, 512);
  InRange("Mmad", "m", p.m, 0, 4095);
  InRange("Mmad", "n", p.n, 0, 4095);
  InRange("Mmad", "k", p.k, 0, 4095);
  if (p.m % 16 || p.n % 16 || p.k % 16 || !p.m || !p.n || !p.k) {
    core.Fail("Mmad: only sizes that are multiples of 16 are emulated");
  }
  if (p.cmatrixSource || p.isBias || p.unitFlag) core.Fail("Mmad: a mode that is not emulated");
  const uint32_t m = p.m, n = p.n, k = p.k;
  const bool zero = p.cmatrixInitVal;
  omfuse_emu::Instruction instruction;
  instruction.name = "Mmad";
  instruction.busy = m / 16 * (n / 16) * (k / 16) + 6;
  // Adding to a small product: the device does not wait for it (CANN's Matmul puts a barrier).
  instruction.hasty = m / 16 * (n / 16) < 10;
  instruction.latency = 16;
  core.machine().traffic().cube_macs += uint64_t{m} * n * k;
  const emu::Side to = emu::SideOf(dst, 0), left = emu::SideOf(a, 0), right = emu::SideOf(b, 0);
  if (core.machine().checks()) {
    const uint64_t result = uint64_t{m} * n * 4;
    omfuse_emu::Append(&instruction.reads, left.storage, left.offset, uint64_t{m} * k * 2);
    omfuse_emu::Append(&instruction.reads, right.storage, right.offset, uint64_t{n} * k * 2);
    if (!zero) omfuse_emu::Append(&instruction.reads, to.storage, to.offset, result);
    omfuse_emu::Append(&instruction.writes, to.storage, to.offset, result);
  }
  instruction.run = [=] {
    std::vector<float> left_wide(uint64_t{m} * k), right_wide(uint64_t{n} * k);
    const S* from_left = reinterpret_cast<const S*>(left.storage->data + left.offset);
    const S* from_right = reinterpret_cast<const S*>(right.storage->data + right.offset);
    for (size_t i = 0; i < left_wide.size(); ++i) left_wide[i] = float(from_left[i]);
    for (size_t i = 0; i < right_wide.size(); ++i) right_wide[i] = float(from_right[i]);
    omfuse_emu::MatrixMultiply(reinterpret_cast<float*>(to.storage->data + to.offset),
                               left_wide.data(), right_wide.data(), m, n, k, zero);
  };
  core.Issue(omfuse_emu::kM, std::move(instruction));
}

#if OMFUSE_EMULATION_SPLIT

template <typename D, typename S, const FixpipeConfig& config = CFG_ROW_MAJOR>
void Fixpipe(const GlobalTensor<D>& dst, const LocalTensor<S>& src, const FixpipeParamsV220& p) {
  static_assert(std::is_same<S, float>::value, "fp32 results only");
  omfuse_emu::Core& core = omfuse_emu::Machine::Current();
  Require("Fixpipe", src, omfuse_emu::Space::kL0c, 64);
  constexpr bool same = std::is_same<D, float>::value;
  const QuantMode_t wanted = same ? NoQuant : std::is_same<D, half>::value ? F322F16 : F322BF16;
  if (p.quantPre != wanted) core.Fail("Fixpipe: quantPre does not fit the result type");
  if (p.nSize % 16 || p.nSize > 4095) core.Fail("Fixpipe: nSize is not a multiple of 16");
  InRange("Fixpipe", "mSize", p.mSize, 1, config.format == CO2Layout::NZ ? 65535 : 8192);
  InRange("Fixpipe", "dstStride", p.dstStride, 1, 0xFFFFFFFF);
  if (p.ndNum != 1 || p.unitFlag || p.isChannelSplit || p.reluEn) {
    core.Fail("Fixpipe: a mode that is not emulated");
  }
  const uint32_t columns = p.nSize / 16, rows = p.mSize;
  if (!columns || !rows) return;
  const emu::Side to = emu::SideOf(dst, 0), from = emu::SideOf(src, 0);
  constexpr bool nz = config.format == CO2Layout::NZ;
  const uint64_t row_step = (nz ? 16u : p.dstStride) * sizeof(D);
  const uint64_t column_step = nz ? p.dstStride * uint64_t{32} : 16 * sizeof(D);
  const uint64_t source_step = p.srcStride * uint64_t{64};
  const uint64_t bytes = uint64_t{rows} * columns * 16 * sizeof(D);
  emu::CountWrite(core, *to.storage, bytes);
  core.machine().traffic().l0c_out += uint64_t{rows} * columns * 64;
  omfuse_emu::Instruction instruction;
  instruction.name = "Fixpipe";
  const uint32_t out = static_cast<uint32_t>(bytes / emu::kRates.global_write);
  const uint32_t in = rows * columns * 64 / emu::kRates.l0c_out;
  instruction.busy = omfuse_emu::kDmaStart + (out > in ? out : in);
  instruction.latency = omfuse_emu::kWriteLatency;
  auto target = [=](uint32_t r, uint32_t c) { return to.offset + r * row_step + c * column_step; };
  auto source = [=](uint32_t r, uint32_t c) {
    return from.offset + c * source_step + r * uint64_t{64};
  };
  if (core.machine().checks()) {
    for (uint32_t c = 0; c < columns; ++c) {
      for (uint32_t r = 0; r < rows; ++r) {
        omfuse_emu::Append(&instruction.reads, from.storage, source(r, c), 64);
        omfuse_emu::Append(&instruction.writes, to.storage, target(r, c), 16 * sizeof(D));
      }
    }
  }
  instruction.run = [=] {
    for (uint32_t c = 0; c < columns; ++c) {
      for (uint32_t r = 0; r < rows; ++r) {
        const float* in_row = reinterpret_cast<const float*>(from.storage->data + source(r, c));
        D* out_row = reinterpret_cast<D*>(to.storage->data + target(r, c));
        for (uint32_t e = 0; e < 16; ++e) out_row[e] = D(in_row[e]);
      }
    }
  };
  core.Issue(omfuse_emu::kFix, std::move(instruction));
}

#endif

}  // namespace AscendC

#endif  // OMFUSE_EMULATION_API_CUBE_H_
