// Small programs on the emulated machine: what the API computes, and what it refuses.
#include <cstring>
#include <exception>

#include "kernel_operator.h"

using namespace AscendC;

namespace {

GM_ADDR input, second, output;

template <typename T>
GlobalTensor<T> At(GM_ADDR address) {
  GlobalTensor<T> tensor;
  tensor.SetGlobalBuffer(reinterpret_cast<T*>(address));
  return tensor;
}

template <typename T>
void Load(const LocalTensor<T>& to, GM_ADDR from, uint32_t count) {
  DataCopy(to, At<T>(from), count);
  SetFlag<HardEvent::MTE2_V>(0);
  WaitFlag<HardEvent::MTE2_V>(0);
}

template <typename T>
void Store(const LocalTensor<T>& from, uint32_t count) {
  SetFlag<HardEvent::V_MTE3>(0);
  WaitFlag<HardEvent::V_MTE3>(0);
  DataCopy(At<T>(output), from, count);
}

struct Room {
  TPipe pipe;
  TBuf<TPosition::VECCALC> a, b, c;
  Room() {
    pipe.InitBuffer(a, 8192);
    pipe.InitBuffer(b, 8192);
    pipe.InitBuffer(c, 8192);
  }
};

bool OnVector() { return ASCEND_IS_AIV && GetBlockIdx() == 0; }

// Numbers.

void CastDown() {
  if (!OnVector()) return;
  Room room;
  Load(room.a.Get<float>(), input, 1024);
  Cast(room.b.Get<half>(), room.a.Get<float>(),
       OMFUSE_EMULATION_SPLIT ? RoundMode::CAST_RINT : RoundMode::CAST_NONE, 1024);
  Store(room.b.Get<half>(), 1024);
}

// Rows of 8: block maxima; then each maximum as a block; then row - maximum.
void ReduceAndSpread() {
  if (!OnVector()) return;
  Room room;
  const LocalTensor<float> rows = room.a.Get<float>();
  Load(rows, input, 512);
  BlockReduceMax(room.b.Get<float>(), rows, 8, 64, 1, 1, 8);
  PipeBarrier<PIPE_V>();
  Brcb(room.c.Get<float>(), room.b.Get<float>(), 8, BrcbRepeatParams(1, 8));
  PipeBarrier<PIPE_V>();
  const uint64_t all = 64;
  Sub(rows, rows, room.c.Get<float>(), all, 8, BinaryRepeatParams());
  Store(rows, 512);
}

// 64 rows of 16 in place: every second block times three, lanes 1 and 9 become -1.
void StridesAndMasks() {
  if (!OnVector()) return;
  Room room;
  const LocalTensor<float> rows = room.a.Get<float>();
  Load(rows, input, 1024);
  const uint64_t all = 64;
  Muls(rows, rows, 3.0f, all, 8, UnaryRepeatParams(2, 2, 16, 16));
  PipeBarrier<PIPE_V>();
  uint64_t mask[2] = {(1ull << 1) | (1ull << 9), 0};
  Duplicate(rows, -1.0f, mask, 16, 1, 8);
  Store(rows, 1024);
}

// Zeros in the output, then its blocks at 0 and 8 elements get 16 halves each from two rows.
void AddRows(bool wait) {
  if (!OnVector()) return;
  Room room;
  Load(room.a.Get<half>(), input, 32);
  Duplicate(room.b.Get<half>(), half(0.0f), 2048);
  Store(room.b.Get<half>(), 2048);
  if (wait) PipeBarrier<PIPE_MTE3>();
  SetFlag<HardEvent::MTE2_MTE3>(0);
  WaitFlag<HardEvent::MTE2_MTE3>(0);
  SetAtomicAdd<half>();
  for (uint32_t i = 0; i < 2; ++i) {
    DataCopy(At<half>(output)[i * 8], room.a.Get<half>()[i * 16], 16);
  }
  SetAtomicNone();
}
void Additions() { AddRows(true); }

// Every second element of 64 by the scalar unit.
void Scalars() {
  if (!OnVector()) return;
  Room room;
  const LocalTensor<float> from = room.a.Get<float>();
  const LocalTensor<float> to = room.b.Get<float>();
  Load(from, input, 64);
  Muls(from, from, 2.0f, 64);
  SetFlag<HardEvent::V_S>(0);
  WaitFlag<HardEvent::V_S>(0);
  for (uint32_t i = 0; i < 32; ++i) to.SetValue(i, from.GetValue(2 * i));
  SetFlag<HardEvent::S_MTE3>(0);
  WaitFlag<HardEvent::S_MTE3>(0);
  DataCopy(At<float>(output), to, 32);
}

#if OMFUSE_EMULATION_SPLIT
// 32 x 48 times 48 x 32, the right one transposed on its way to L0B.
void Multiply() {
  if (!ASCEND_IS_AIC || GetBlockIdx() != 0) return;
  TPipe pipe;
  TBuf<TPosition::A1> left1;
  TBuf<TPosition::B1> right1;
  TBuf<TPosition::A2> left2;
  TBuf<TPosition::B2> right2;
  TBuf<TPosition::CO1> result;
  pipe.InitBuffer(left1, 32 * 48 * 2);
  pipe.InitBuffer(right1, 48 * 32 * 2);
  pipe.InitBuffer(left2, 32 * 48 * 2);
  pipe.InitBuffer(right2, 48 * 32 * 2);
  pipe.InitBuffer(result, 32 * 32 * 4);
  Nd2NzParams nd;
  nd.ndNum = 1;
  nd.nValue = 32;
  nd.dValue = nd.srcDValue = 48;
  nd.dstNzC0Stride = 32;
  nd.dstNzNStride = 1;
  DataCopy(left1.Get<half>(), At<half>(input), nd);
  nd.nValue = 48;
  nd.dValue = nd.srcDValue = 32;
  nd.dstNzC0Stride = 48;
  DataCopy(right1.Get<half>(), At<half>(second), nd);
  SetFlag<HardEvent::MTE2_MTE1>(0);
  WaitFlag<HardEvent::MTE2_MTE1>(0);
  LoadData2DParams load;
  for (uint16_t row = 0; row < 2; ++row) {
    load.startIndex = row;
    load.repeatTimes = 3;
    load.srcStride = 2;
    LoadData(left2.Get<half>()[row * 3 * 256], left1.Get<half>(), load);
  }
  load.ifTranspose = true;
  for (uint16_t row = 0; row < 3; ++row) {
    load.startIndex = row;
    load.repeatTimes = 2;
    load.srcStride = 3;
    LoadData(right2.Get<half>()[row * 2 * 256], right1.Get<half>(), load);
  }
  SetFlag<HardEvent::MTE1_M>(0);
  WaitFlag<HardEvent::MTE1_M>(0);
  MmadParams mad;
  mad.m = 32;
  mad.n = 32;
  mad.k = 48;
  Mmad(result.Get<float>(), left2.Get<half>(), right2.Get<half>(), mad);
  SetFlag<HardEvent::M_FIX>(0);
  WaitFlag<HardEvent::M_FIX>(0);
  FixpipeParamsV220 out;
  out.nSize = 32;
  out.mSize = 32;
  out.srcStride = 32;
  out.dstStride = 32;
  Fixpipe<float, float, CFG_ROW_MAJOR>(At<float>(output), result.Get<float>(), out);
}

// TPipe owns M_MTE1 0 to 2 of a cube core.
void LibraryFlag() {
  if (!ASCEND_IS_AIC || GetBlockIdx() != 0) return;
  TPipe pipe;
  SetFlag<HardEvent::M_MTE1>(1);
}

// Two products of one fractal into the same place.
void AddTooSoon() {
  if (!ASCEND_IS_AIC || GetBlockIdx() != 0) return;
  TPipe pipe;
  TBuf<TPosition::A1> first;
  TBuf<TPosition::A2> left;
  TBuf<TPosition::B2> right;
  TBuf<TPosition::CO1> result;
  pipe.InitBuffer(first, 512);
  pipe.InitBuffer(left, 512);
  pipe.InitBuffer(right, 512);
  pipe.InitBuffer(result, 1024);
  InitConstValue(first.Get<half>(), InitConstValueParams<half>(1, 16, 0, half(1.0f)));
  SetFlag<HardEvent::MTE2_MTE1>(0);
  WaitFlag<HardEvent::MTE2_MTE1>(0);
  LoadData2DParams load;
  load.repeatTimes = 1;
  LoadData(left.Get<half>(), first.Get<half>(), load);
  LoadData(right.Get<half>(), first.Get<half>(), load);
  SetFlag<HardEvent::MTE1_M>(0);
  WaitFlag<HardEvent::MTE1_M>(0);
  MmadParams mad;
  mad.m = mad.n = mad.k = 16;
  Mmad(result.Get<float>(), left.Get<half>(), right.Get<half>(), mad);
  mad.cmatrixInitVal = false;
  Mmad(result.Get<float>(), left.Get<half>(), right.Get<half>(), mad);
}

void TooManyFlags() {
  if (ASCEND_IS_AIC) {
    for (int i = 0; i < 16; ++i) CrossCoreSetFlag<2, PIPE_FIX>(0);
  } else {
    PipeBarrier<PIPE_ALL>();
  }
}

void WaitForNobody() { CrossCoreWaitFlag(3); }
#endif

// Refusals.

void TooMuchMemory() {
  if (!OnVector()) return;
  TPipe pipe;
  TBuf<TPosition::VECCALC> big;
  pipe.InitBuffer(big, OMFUSE_EMULATION_SPLIT ? 190 * 1024 : 250 * 1024);
}

void OddLength() {
  if (!OnVector()) return;
  Room room;
  DataCopy(room.a.Get<float>(), At<float>(input), 9);
}

void WaitWithoutSet() {
  if (!OnVector()) return;
  Room room;
  WaitFlag<HardEvent::MTE2_V>(0);
}

void SetWithoutWait() {
  if (!OnVector()) return;
  Room room;
  SetFlag<HardEvent::MTE2_V>(0);
}

void ReadNothing() {
  if (!OnVector()) return;
  Room room;
  Muls(room.a.Get<float>(), room.b.Get<float>(), 1.0f, 64);
}

void BeyondTheEnd() {
  if (!OnVector()) return;
  Room room;
  DataCopy(room.a.Get<float>(), At<float>(input)[1020], 32);
}

void WriteAnInput() {
  if (!OnVector()) return;
  Room room;
  Load(room.a.Get<float>(), second, 64);
  SetFlag<HardEvent::V_MTE3>(0);
  WaitFlag<HardEvent::V_MTE3>(0);
  DataCopy(At<float>(input), room.a.Get<float>(), 64);
}

void NoBarrier() {
  if (!OnVector()) return;
  Room room;
  Load(room.a.Get<float>(), input, 64);
  Muls(room.b.Get<float>(), room.a.Get<float>(), 1.0f, 64);
  Muls(room.c.Get<float>(), room.b.Get<float>(), 1.0f, 64);
}

void AddTooEarly() { AddRows(false); }

void AddToNothing() {
  if (!OnVector()) return;
  Room room;
  Load(room.a.Get<half>(), input, 32);
  SetFlag<HardEvent::MTE2_MTE3>(0);
  WaitFlag<HardEvent::MTE2_MTE3>(0);
  SetAtomicAdd<half>();
  DataCopy(At<half>(output), room.a.Get<half>(), 16);
  SetAtomicNone();
}

void AddForever() {
  if (OnVector()) SetAtomicAdd<half>();
}

void AddAnotherType() {
  if (!OnVector()) return;
  Room room;
  SetAtomicAdd<float>();
  DataCopy(At<half>(output), room.a.Get<half>(), 16);
}

void ScalarTooEarly() {
  if (!OnVector()) return;
  Room room;
  Load(room.a.Get<float>(), input, 64);
  Muls(room.b.Get<float>(), room.a.Get<float>(), 2.0f, 64);
  PipeBarrier<PIPE_V>();
  room.b.Get<float>().GetValue(3);
}

void TooDeep() {
  if (!OnVector()) return;
  TPipe pipe;
  TQue<TPosition::VECIN, 1> queue;
  pipe.InitBuffer(queue, 2, 256);
  for (int i = 0; i < 2; ++i) {
    LocalTensor<float> tensor = queue.AllocTensor<float>();
    DataCopy(tensor, At<float>(input), 64);
    queue.EnQue(tensor);
  }
}

void NoBufferLeft() {
  if (!OnVector()) return;
  TPipe pipe;
  TQue<TPosition::VECIN, 1> queue;
  pipe.InitBuffer(queue, 1, 256);
  queue.AllocTensor<float>();
  queue.AllocTensor<float>();
}

void Misaligned() {
  if (!OnVector()) return;
  Room room;
  Load(room.a.Get<float>(), input, 64);
  Muls(room.b.Get<float>(), room.a.Get<float>()[3], 1.0f, 32);
}

void WrongPlace() {
  if (!OnVector()) return;
  Room room;
  LocalTensor<float> nowhere;
  Muls(room.a.Get<float>(), nowhere, 1.0f, 64);
}

void SameOutput() {  // two cores write the same place
  if (!ASCEND_IS_AIV) return;
  Room room;
  Load(room.a.Get<float>(), input, 64);
  Store(room.a.Get<float>(), 64);
}

void SetTwice() {
  if (!OnVector()) return;
  Room room;
  SetFlag<HardEvent::MTE2_V>(0);
  SetFlag<HardEvent::MTE2_V>(0);
}

void EmptyBuffer() {
  if (!OnVector()) return;
  TPipe pipe;
  TBuf<TPosition::VECCALC> none;
  pipe.InitBuffer(none, 0);
}

void NoBursts() {
  if (!OnVector()) return;
  Room room;
  DataCopy(room.a.Get<float>(), At<float>(input), DataCopyParams(0, 8, 0, 0));
}

void PartlyInPlace() {
  if (!OnVector()) return;
  Room room;
  Load(room.a.Get<float>(), input, 256);
  Muls(room.a.Get<float>()[8], room.a.Get<float>(), 1.0f, 128);
}

void MaskTooWide() {
  if (!OnVector()) return;
  Room room;
  const uint64_t lanes = 128;  // of the 64 that a repeat of floats has
  Load(room.a.Get<float>(), input, 256);
  Muls(room.b.Get<float>(), room.a.Get<float>(), 1.0f, lanes, 1, UnaryRepeatParams());
}

struct Probe {
  const char* name;
  void (*run)();
};

const Probe kProbes[] = {
    {"CastDown", CastDown},
    {"ReduceAndSpread", ReduceAndSpread},
    {"StridesAndMasks", StridesAndMasks},
    {"Additions", Additions},
    {"Scalars", Scalars},
    {"AddTooEarly", AddTooEarly},
    {"AddToNothing", AddToNothing},
    {"AddForever", AddForever},
    {"AddAnotherType", AddAnotherType},
    {"ScalarTooEarly", ScalarTooEarly},
    {"TooMuchMemory", TooMuchMemory},
    {"OddLength", OddLength},
    {"WaitWithoutSet", WaitWithoutSet},
    {"SetWithoutWait", SetWithoutWait},
    {"ReadNothing", ReadNothing},
    {"BeyondTheEnd", BeyondTheEnd},
    {"WriteAnInput", WriteAnInput},
    {"NoBarrier", NoBarrier},
    {"TooDeep", TooDeep},
    {"NoBufferLeft", NoBufferLeft},
    {"Misaligned", Misaligned},
    {"WrongPlace", WrongPlace},
    {"SameOutput", SameOutput},
    {"SetTwice", SetTwice},
    {"EmptyBuffer", EmptyBuffer},
    {"NoBursts", NoBursts},
    {"PartlyInPlace", PartlyInPlace},
    {"MaskTooWide", MaskTooWide},
#if OMFUSE_EMULATION_SPLIT
    {"Multiply", Multiply},
    {"LibraryFlag", LibraryFlag},
    {"AddTooSoon", AddTooSoon},
    {"TooManyFlags", TooManyFlags},
    {"WaitForNobody", WaitForNobody},
#endif
};

}  // namespace

// Runs a probe on two blocks: 4096 bytes of each input, 4096 of output.
extern "C" int probe(const char* name, int schedule, const void* first, const void* other,
                     void* result, char* message) {
  const omfuse::Platform chip = {
      192 << 10, 512 << 10, 64 << 10, 64 << 10, 128 << 10, 1 << 20, 2, 4, OMFUSE_EMULATION_SPLIT};
  const OmfuseOptions options = {11, schedule, 1, 0, 0};
  for (const Probe& candidate : kProbes) {
    if (std::strcmp(candidate.name, name)) continue;
    try {
      omfuse_emu::Machine machine(chip, options, 2);
      input = machine.global().Add("input", first, 4096, false, false, true)->data;
      second = machine.global().Add("second", other, 4096, false, false, true)->data;
      omfuse_emu::Storage* out = machine.global().Add("output", nullptr, 4096, true, false, true);
      output = out->data;
      machine.Run(candidate.run);
      std::memcpy(result, out->data, 4096);
      return 0;
    } catch (const std::exception& error) {
      std::strncpy(message, error.what(), 400);
      return 1;
    }
  }
  return 2;
}

extern "C" void to_half(const float* from, uint16_t* to, int count, int bf16) {
  for (int i = 0; i < count; ++i) {
    to[i] = bf16 ? bfloat16_t(from[i]).bits : half(from[i]).bits;
  }
}

extern "C" void from_half(const uint16_t* from, float* to, int count) {
  for (int i = 0; i < count; ++i) to[i] = omfuse_emu::HalfToFloat(from[i]);
}
