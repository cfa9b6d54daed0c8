// Transfers between global memory, UB and L1.
#ifndef OMFUSE_EMULATION_API_COPY_H_
#define OMFUSE_EMULATION_API_COPY_H_

#include "api_tensor.h"
#include "cost.h"

namespace AscendC {
namespace emu {

using omfuse_emu::Core;
using omfuse_emu::Instruction;
using omfuse_emu::Range;
using omfuse_emu::Space;
using omfuse_emu::Storage;

constexpr omfuse_emu::Rates kRates =
    OMFUSE_EMULATION_SPLIT ? omfuse_emu::kSplitRates : omfuse_emu::kCoupledRates;

struct Side {  // one end of a transfer: `blocks` pieces, `step` bytes apart
  Storage* storage;
  uint64_t offset, step;
};

template <typename T>
Side SideOf(const GlobalTensor<T>& tensor, uint64_t step) {
  Storage* region = tensor.Region();
  return {region, tensor.Offset(*region), step};
}

template <typename T>
Side SideOf(const LocalTensor<T>& tensor, uint64_t step) {
  return {tensor.storage(), tensor.offset(), step};
}

inline uint32_t BurstCycles(uint32_t blocks, uint64_t length, uint32_t rate) {
  const uint64_t one = (length + rate - 1) / rate;
  return omfuse_emu::kDmaStart + static_cast<uint32_t>(blocks * (one ? one : 1));
}

inline void CheckBursts(const char* name, const DataCopyParams& p) {
  InRange(name, "blockCount", p.blockCount, 1, 4095);
  InRange(name, "blockLen", p.blockLen, 1, 65535);
}

inline void CheckBursts(const char* name, const DataCopyExtParams& p) {
  InRange(name, "blockCount", p.blockCount, 1, 4095);
  InRange(name, "blockLen", p.blockLen, 1, 2097151);
}

inline void CountRead(Core& core, const Storage& from, uint64_t bytes, bool to_l1) {
  OmfuseCounters& traffic = core.machine().traffic();
  (from.workspace ? traffic.workspace_read : traffic.tensor_read) += bytes;
  (to_l1 ? traffic.gm_to_l1 : traffic.gm_to_ub) += bytes;
}

inline void CountWrite(Core& core, const Storage& to, uint64_t bytes) {
  OmfuseCounters& traffic = core.machine().traffic();
  (to.workspace ? traffic.workspace_write : traffic.tensor_write) += bytes;
}

// An instruction that takes pieces of `length` bytes from one side to the other.
inline Instruction Bursts(const char* name, const Side& to, const Side& from, uint32_t blocks,
                          uint64_t length, uint32_t busy, uint32_t latency) {
  Instruction instruction;
  instruction.name = name;
  instruction.busy = busy;
  instruction.latency = latency;
  if (omfuse_emu::Machine::Current().machine().checks()) {
    for (uint32_t i = 0; i < blocks; ++i) {
      omfuse_emu::Append(&instruction.reads, from.storage, from.offset + i * from.step, length);
      omfuse_emu::Append(&instruction.writes, to.storage, to.offset + i * to.step, length);
    }
  }
  return instruction;
}

// Copies them on `pipe`.
inline void Move(const char* name, int pipe, const Side& to, const Side& from, uint32_t blocks,
                 uint64_t length, uint32_t busy, uint32_t latency) {
  if (!blocks || !length) return;
  Instruction instruction = Bursts(name, to, from, blocks, length, busy, latency);
  instruction.copies = true;
  instruction.run = [=] {
    for (uint32_t i = 0; i < blocks; ++i) {
      omfuse_emu::CopyBytes(to.storage, to.offset + i * to.step, *from.storage,
                            from.offset + i * from.step, length);
    }
  };
  omfuse_emu::Machine::Current().Issue(pipe, std::move(instruction));
}

inline uint32_t ReadLatency(const Storage& from) {
  return from.workspace ? omfuse_emu::kWorkspaceLatency : omfuse_emu::kTensorLatency;
}

template <typename T>
void FromGlobal(const char* name, const LocalTensor<T>& dst, const GlobalTensor<T>& src,
                uint32_t blocks, uint64_t length, uint64_t dst_step, uint64_t src_step) {
  Core& core = omfuse_emu::Machine::Current();
  if (dst.space() != Space::kL1) Require(name, dst, Space::kUb);
  if (dst.space() == Space::kL1) Require(name, dst, Space::kL1);
  const Side from = SideOf(src, src_step);
  CountRead(core, *from.storage, blocks * length, dst.space() == Space::kL1);
  Move(name, omfuse_emu::kMte2, SideOf(dst, dst_step), from, blocks, length,
       BurstCycles(blocks, length, kRates.global_read), ReadLatency(*from.storage));
}

// Additions in global memory, element by element.
template <typename T>
void Accumulate(const char* name, const Side& to, const Side& from, uint32_t blocks,
                uint64_t length, uint32_t busy) {
  Core& core = omfuse_emu::Machine::Current();
  if (core.adding != sizeof(T)) core.Fail(std::string(name) + ": SetAtomicAdd has another type");
  Instruction instruction = Bursts(name, to, from, blocks, length, busy, omfuse_emu::kWriteLatency);
  instruction.adds = true;
  instruction.run = [=] {
    for (uint32_t i = 0; i < blocks; ++i) {
      T* into = reinterpret_cast<T*>(to.storage->data + to.offset + i * to.step);
      const T* what = reinterpret_cast<const T*>(from.storage->data + from.offset + i * from.step);
      for (uint64_t j = 0; j < length / sizeof(T); ++j) {
        into[j] = T(static_cast<float>(into[j]) + static_cast<float>(what[j]));
      }
    }
  };
  core.Issue(omfuse_emu::kMte3, std::move(instruction));
}

template <typename T>
void ToGlobal(const char* name, const GlobalTensor<T>& dst, const LocalTensor<T>& src,
              uint32_t blocks, uint64_t length, uint64_t dst_step, uint64_t src_step) {
  Core& core = omfuse_emu::Machine::Current();
  Require(name, src, Space::kUb);
  const Side to = SideOf(dst, dst_step);
  CountWrite(core, *to.storage, blocks * length);
  core.machine().traffic().ub_to_gm += blocks * length;
  if (core.adding) {
    Accumulate<T>(name, to, SideOf(src, src_step), blocks, length,
                  BurstCycles(blocks, length, kRates.global_write));
    return;
  }
  Move(name, omfuse_emu::kMte3, to, SideOf(src, src_step), blocks, length,
       BurstCycles(blocks, length, kRates.global_write), omfuse_emu::kWriteLatency);
}

}  // namespace emu

// Copies to global memory add to what is there, until SetAtomicNone.
template <typename T>
void SetAtomicAdd() {
  static_assert(std::is_same<T, half>::value || std::is_same<T, float>::value ||
                    (OMFUSE_EMULATION_SPLIT && std::is_same<T, bfloat16_t>::value),
                "no such addition in global memory");
  omfuse_emu::Machine::Current().adding = sizeof(T);
}
inline void SetAtomicNone() { omfuse_emu::Machine::Current().adding = 0; }

template <typename T>
void DataCopy(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const uint32_t count) {
  if (uint64_t{count} * sizeof(T) % 32) {
    omfuse_emu::Machine::Current().Fail("DataCopy: the length is not a multiple of 32 bytes");
  }
  emu::FromGlobal("DataCopy", dst, src, 1, uint64_t{count} * sizeof(T), 0, 0);
}

template <typename T>
void DataCopy(const GlobalTensor<T>& dst, const LocalTensor<T>& src, const uint32_t count) {
  if (uint64_t{count} * sizeof(T) % 32) {
    omfuse_emu::Machine::Current().Fail("DataCopy: the length is not a multiple of 32 bytes");
  }
  emu::ToGlobal("DataCopy", dst, src, 1, uint64_t{count} * sizeof(T), 0, 0);
}

template <typename T>
void DataCopy(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const DataCopyParams& p) {
  emu::CheckBursts("DataCopy", p);
  emu::FromGlobal("DataCopy", dst, src, p.blockCount, p.blockLen * 32u,
                  (p.blockLen + p.dstStride) * 32u, (p.blockLen + p.srcStride) * 32u);
}

template <typename T>
void DataCopy(const GlobalTensor<T>& dst, const LocalTensor<T>& src, const DataCopyParams& p) {
  emu::CheckBursts("DataCopy", p);
  emu::ToGlobal("DataCopy", dst, src, p.blockCount, p.blockLen * 32u,
                (p.blockLen + p.dstStride) * 32u, (p.blockLen + p.srcStride) * 32u);
}

#if OMFUSE_EMULATION_SPLIT

template <typename T>
void DataCopyPad(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const DataCopyExtParams& p,
                 const DataCopyPadExtParams<T>& pad) {
  Require("DataCopyPad", dst, omfuse_emu::Space::kUb);
  emu::CheckBursts("DataCopyPad", p);
  omfuse_emu::Core& core = omfuse_emu::Machine::Current();
  if (pad.leftPadding) core.Fail("DataCopyPad: padding on the left is not emulated");
  const uint64_t filled = p.blockLen + (pad.isPad ? pad.rightPadding * sizeof(T) : 0);
  const uint64_t rounded = (filled + 31) / 32 * 32;
  if (filled + 31 < rounded || pad.rightPadding * sizeof(T) > 32) {
    core.Fail("DataCopyPad: the padding exceeds 32 bytes");
  }
  const emu::Side from = emu::SideOf(src, p.blockLen + uint64_t{p.srcStride});
  const emu::Side to = emu::SideOf(dst, rounded + uint64_t{p.dstStride} * 32);
  emu::CountRead(core, *from.storage, uint64_t{p.blockCount} * p.blockLen, false);
  if (!p.blockCount || !p.blockLen) return;
  omfuse_emu::Instruction instruction;
  instruction.name = "DataCopyPad";
  instruction.busy = emu::BurstCycles(p.blockCount, p.blockLen, emu::kRates.global_read);
  instruction.latency = emu::ReadLatency(*from.storage);
  instruction.copies = true;
  const uint32_t blocks = p.blockCount;
  const uint64_t length = p.blockLen;
  if (core.machine().checks()) {
    for (uint32_t i = 0; i < blocks; ++i) {
      omfuse_emu::Append(&instruction.reads, from.storage, from.offset + i * from.step, length);
      omfuse_emu::Append(&instruction.writes, to.storage, to.offset + i * to.step, rounded);
    }
  }
  const bool is_pad = pad.isPad;
  const T value = pad.paddingValue;
  instruction.run = [=] {
    for (uint32_t i = 0; i < blocks; ++i) {
      const uint64_t at = to.offset + i * to.step;
      omfuse_emu::CopyBytes(to.storage, at, *from.storage, from.offset + i * from.step, length);
      to.storage->MarkWritten(at + length, rounded - length);
      for (uint64_t b = length; b < rounded; b += sizeof(T)) {  // unspecified unless padded
        if (is_pad) {
          *reinterpret_cast<T*>(to.storage->data + at + b) = value;
        } else {
          std::memset(to.storage->data + at + b, 0xFF, sizeof(T));
        }
      }
    }
  };
  core.Issue(omfuse_emu::kMte2, std::move(instruction));
}

template <typename T>
void DataCopyPad(const GlobalTensor<T>& dst, const LocalTensor<T>& src,
                 const DataCopyExtParams& p) {
  emu::CheckBursts("DataCopyPad", p);
  const uint64_t rounded = (uint64_t{p.blockLen} + 31) / 32 * 32;
  emu::ToGlobal("DataCopyPad", dst, src, p.blockCount, p.blockLen,
                p.blockLen + uint64_t{p.dstStride}, rounded + uint64_t{p.srcStride} * 32);
}

// Rows of an ND matrix become 16-column fractals; a short last fractal is filled with zeros.
template <typename T>
void DataCopy(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const Nd2NzParams& p) {
  Require("DataCopy ND2NZ", dst, omfuse_emu::Space::kL1);
  omfuse_emu::Core& core = omfuse_emu::Machine::Current();
  InRange("DataCopy ND2NZ", "ndNum", p.ndNum, 0, 4095);
  InRange("DataCopy ND2NZ", "nValue", p.nValue, 0, 16384);
  InRange("DataCopy ND2NZ", "dstNzC0Stride", p.dstNzC0Stride, 1, 16384);
  InRange("DataCopy ND2NZ", "dstNzNStride", p.dstNzNStride, 1, 16384);
  InRange("DataCopy ND2NZ", "dstNzMatrixStride", p.dstNzMatrixStride, 0, 16384);
  InRange("DataCopy ND2NZ", "srcDValue", p.srcDValue, 1, 65535);
  if (!p.ndNum || !p.nValue || !p.dValue) return;
  const uint32_t per_block = 32 / sizeof(T);
  const uint32_t columns = (p.dValue + per_block - 1) / per_block;
  const emu::Side from = emu::SideOf(src, 0);
  const emu::Side to = emu::SideOf(dst, 0);
  const uint64_t row_bytes = uint64_t{p.dValue} * sizeof(T);
  emu::CountRead(core, *from.storage, uint64_t{p.ndNum} * p.nValue * row_bytes, true);
  omfuse_emu::Instruction instruction;
  instruction.name = "DataCopy ND2NZ";
  instruction.busy =
      p.srcDValue == p.dValue
          ? emu::BurstCycles(p.ndNum, p.nValue * row_bytes, emu::kRates.global_read)
          : emu::BurstCycles(p.ndNum * uint32_t{p.nValue}, row_bytes, emu::kRates.global_read);
  instruction.latency = emu::ReadLatency(*from.storage);
  instruction.copies = true;
  const Nd2NzParams q = p;
  auto row_from = [=](uint32_t nd, uint32_t n) {
    return from.offset +
           (uint64_t{nd} * q.srcNdMatrixStride + uint64_t{n} * q.srcDValue) * sizeof(T);
  };
  auto block_to = [=](uint32_t nd, uint32_t n, uint32_t c) {
    return to.offset + uint64_t{nd} * q.dstNzMatrixStride * sizeof(T) +
           (uint64_t{n} * q.dstNzNStride + uint64_t{c} * q.dstNzC0Stride) * 32;
  };
  if (core.machine().checks()) {
    for (uint32_t nd = 0; nd < q.ndNum; ++nd) {
      for (uint32_t n = 0; n < q.nValue; ++n) {
        omfuse_emu::Append(&instruction.reads, from.storage, row_from(nd, n), row_bytes);
      }
      for (uint32_t c = 0; c < columns; ++c) {
        for (uint32_t n = 0; n < q.nValue; ++n) {
          omfuse_emu::Append(&instruction.writes, to.storage, block_to(nd, n, c), 32);
        }
      }
    }
  }
  instruction.run = [=] {
    for (uint32_t nd = 0; nd < q.ndNum; ++nd) {
      for (uint32_t n = 0; n < q.nValue; ++n) {
        for (uint32_t c = 0; c < columns; ++c) {
          const uint64_t at = block_to(nd, n, c);
          const uint64_t begin = uint64_t{c} * 32;
          const uint64_t length = std::min<uint64_t>(32, row_bytes - begin);
          omfuse_emu::CopyBytes(to.storage, at, *from.storage, row_from(nd, n) + begin, length);
          std::memset(to.storage->data + at + length, 0, 32 - length);
          to.storage->MarkWritten(at + length, 32 - length);
        }
      }
    }
  };
  core.Issue(omfuse_emu::kMte2, std::move(instruction));
}

#else  // coupled

// UB to L1.
template <typename T>
void DataCopy(const LocalTensor<T>& dst, const LocalTensor<T>& src, const DataCopyParams& p) {
  Require("DataCopy", dst, omfuse_emu::Space::kL1);
  Require("DataCopy", src, omfuse_emu::Space::kUb);
  emu::CheckBursts("DataCopy", p);
  const uint64_t bytes = uint64_t{p.blockCount} * p.blockLen * 32;
  omfuse_emu::Machine::Current().machine().traffic().ub_to_l1 += bytes;
  emu::Move("DataCopy", omfuse_emu::kMte3, emu::SideOf(dst, (p.blockLen + p.dstStride) * 32u),
            emu::SideOf(src, (p.blockLen + p.srcStride) * 32u), p.blockCount, p.blockLen * 32u,
            emu::BurstCycles(p.blockCount, p.blockLen * 32u, emu::kRates.ub_to_l1),
            omfuse_emu::kLocalLatency);
}

// L0C to UB, whole 16 x 16 fractals; occupies the vector pipe.
inline void DataCopy(const LocalTensor<float>& dst, const LocalTensor<float>& src,
                     const DataCopyParams& p, const DataCopyEnhancedParams& enhanced) {
  Require("DataCopy", dst, omfuse_emu::Space::kUb);
  Require("DataCopy", src, omfuse_emu::Space::kL0c, 64);
  emu::CheckBursts("DataCopy", p);
  omfuse_emu::Core& core = omfuse_emu::Machine::Current();
  if (enhanced.blockMode != BlockMode::BLOCK_MODE_MATRIX) {
    core.Fail("DataCopy: L0C to UB needs BLOCK_MODE_MATRIX");
  }
  const uint64_t length = uint64_t{p.blockLen} * 1024;
  core.machine().traffic().l0c_out += p.blockCount * length;
  emu::Move("DataCopy", omfuse_emu::kV, emu::SideOf(dst, length + p.dstStride * 32u),
            emu::SideOf(src, length + p.srcStride * 1024u), p.blockCount, length,
            emu::BurstCycles(p.blockCount, length, emu::kRates.l0c_out), omfuse_emu::kLocalLatency);
}

#endif

}  // namespace AscendC

#endif  // OMFUSE_EMULATION_API_COPY_H_
