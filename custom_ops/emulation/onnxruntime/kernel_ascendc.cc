// The emulated Ascend C kernel behind onnxruntime's custom operator.
//
// custom_ops/cpu/op.cc is the operator: attributes, shapes, memory. It asks BestKernel() who
// computes; here that is the library of custom_ops/emulation. fp32 operands become fp16 before the
// kernel and its result fp32 again, as the Casts do that ATC puts around the operator.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "../../cpu/convert.h"
#include "../../cpu/problem.h"

// Both sides have a struct omfuse::Problem. The functions have C linkage, so the name of the other
// namespace matters to nobody.
#define omfuse omfuse_emulated
#include "../omfuse_emulation.h"
#undef omfuse

#ifndef OMFUSE_PLATFORM
#error "OMFUSE_PLATFORM holds the initialiser of the chip's Platform"
#endif

namespace omfuse {
namespace {

namespace emulated = omfuse_emulated;

constexpr float kLargestHalf = 65504.0f;

bool HeadsOutside(const View& view, int64_t length, int64_t depth) {
  return view.stride[1] == length * depth && view.stride[2] == depth;
}

int32_t CodeOf(Type type) { return type == Type::kBFloat16 ? emulated::kBf16 : emulated::kFp16; }

// Memory that lives as long as one call.
class Arena {
 public:
  uint16_t* Halves(int64_t count) {
    blocks_.emplace_back(static_cast<size_t>(std::max<int64_t>(count, 1)));
    return blocks_.back().data();
  }

 private:
  std::vector<std::vector<uint16_t>> blocks_;
};

const void* Narrow(Arena* arena, Type type, const void* data, int64_t count, bool clip = false) {
  if (type != Type::kFloat32 || data == nullptr) return data;
  uint16_t* narrow = arena->Halves(count);
  const float* wide = static_cast<const float*>(data);
  for (int64_t i = 0; i < count; ++i) {
    float value = wide[i];
    // What hides a key in fp32 must not become an infinity in fp16.
    if (clip && std::isfinite(value)) value = std::clamp(value, -kLargestHalf, kLargestHalf);
    narrow[i] = HalfOfFloat(value);
  }
  return narrow;
}

// A broadcast tensor as the kernel takes it: each axis one or whole, the last one whole.
template <class T>
const T* Expand(std::vector<T>* memory, const View& view, const int64_t (&full)[4],
                int64_t (&dims)[4]) {
  int64_t count = 1;
  for (int i = 0; i < 4; ++i) {
    dims[i] = i == 3 || view.stride[i] ? full[i] : 1;
    count *= dims[i];
  }
  memory->resize(static_cast<size_t>(count));
  const T* from = static_cast<const T*>(view.data);
  T* to = memory->data();
  for (int64_t b = 0; b < dims[0]; ++b) {
    for (int64_t n = 0; n < dims[1]; ++n) {
      for (int64_t q = 0; q < dims[2]; ++q) {
        const T* row = from + b * view.stride[0] + n * view.stride[1] + q * view.stride[2];
        for (int64_t k = 0; k < dims[3]; ++k) *to++ = row[k * view.stride[3]];
      }
    }
  }
  return memory->data();
}

const void* Bias(const Problem& p, Arena* arena, std::vector<float>* wide,
                 std::vector<uint16_t>* narrow, emulated::Problem* out) {
  if (p.bias.data == nullptr) return nullptr;
  const int64_t full[4] = {p.batch, p.heads, p.q_len, p.kv_len};
  out->bias_dtype = CodeOf(p.type);
  if (p.type != Type::kFloat32) return Expand(narrow, p.bias, full, out->bias_dims);
  const float* expanded = Expand(wide, p.bias, full, out->bias_dims);
  return Narrow(arena, p.type, expanded, static_cast<int64_t>(wide->size()), true);
}

emulated::Problem Describe(const Problem& p) {
  emulated::Problem out = {};
  out.batch = p.batch;
  out.heads = p.heads;
  out.kv_heads = p.kv_heads;
  out.q_len = p.q_len;
  out.kv_len = p.kv_len;
  out.depth = p.depth;
  out.value_depth = p.v_depth;
  out.window_left = p.window_left;
  out.window_right = p.window_right;
  out.dtype = CodeOf(p.type);
  // BSND and BSH are one layout in memory.
  out.layout = HeadsOutside(p.query, p.q_len, p.depth) && HeadsOutside(p.key, p.kv_len, p.depth) &&
                       HeadsOutside(p.value, p.kv_len, p.v_depth)
                   ? emulated::kBnsd
                   : emulated::kBsnd;
  out.out_layout = HeadsOutside(p.out, p.q_len, p.v_depth) ? emulated::kBnsd : emulated::kBsnd;
  out.bias_dtype = out.sink_dtype = emulated::kNoType;
  out.causal = !p.causal        ? emulated::kCausalNone
               : p.bottom_right ? emulated::kCausalBottomRight
                                : emulated::kCausalTopLeft;
  // Without a causal mask "bottom right" still says where a window starts; only causal sets it.
  out.masked_rows = p.masked_rows == MaskedRows::kZero      ? emulated::kRowsZero
                    : p.masked_rows == MaskedRows::kUniform ? emulated::kRowsUniform
                                                            : emulated::kRowsNan;
  out.scale = p.scale;
  out.softcap = p.softcap;
  out.lse_present = p.lse != nullptr;
  out.kv_lengths_present = p.kv_lengths != nullptr;
  return out;
}

void Run(const Problem& p, int64_t, float*) {
  Arena arena;
  std::vector<float> wide_bias;
  std::vector<uint16_t> narrow_bias;
  std::vector<uint8_t> mask;
  emulated::Problem problem = Describe(p);
  OmfuseTensors tensors = {};
  const int64_t queries = p.batch * p.heads * p.q_len, keys = p.batch * p.kv_heads * p.kv_len;
  tensors.query = Narrow(&arena, p.type, p.query.data, queries * p.depth);
  tensors.key = Narrow(&arena, p.type, p.key.data, keys * p.depth);
  tensors.value = Narrow(&arena, p.type, p.value.data, keys * p.v_depth);
  tensors.attn_bias = Bias(p, &arena, &wide_bias, &narrow_bias, &problem);
  if (p.mask.data) {
    const int64_t full[4] = {p.batch, p.heads, p.q_len, p.kv_len};
    tensors.attn_mask = Expand(&mask, p.mask, full, problem.mask_dims);
    problem.mask_present = 1;
  }
  if (p.sink) {
    tensors.sink = Narrow(&arena, p.type, p.sink, p.heads);
    problem.sink_dtype = CodeOf(p.type);
  }
  tensors.kv_lengths = p.kv_lengths;
  tensors.lse = p.lse;
  void* result = const_cast<void*>(p.out.data);
  const bool wide = p.type == Type::kFloat32;
  uint16_t* narrow = wide ? arena.Halves(queries * p.v_depth) : nullptr;
  tensors.output = wide ? narrow : result;
  const emulated::Platform chip = OMFUSE_PLATFORM;
  const OmfuseOptions options = {};
  char message[512] = {};
  const int32_t code =
      omfuse_emulation_run(&problem, &chip, &tensors, &options, nullptr, message, sizeof message);
  if (code != OMFUSE_EMULATION_OK) {
    const bool refused = code == OMFUSE_EMULATION_REJECTED;  // by the tiling, before it ran
    throw std::runtime_error(
        std::string(refused ? "the Ascend C kernel refuses: " : "the Ascend C kernel: ") + message);
  }
  for (int64_t i = 0; wide && i < queries * p.v_depth; ++i) {
    static_cast<float*>(result)[i] = FloatOfHalf(narrow[i]);
  }
}

const Kernel kKernel = {
    "ascendc",
    [](const Problem&) -> int64_t { return 1; },  // the emulation has cores of its own
    [](const Problem&) -> size_t { return 0; },
    Run,
};

}  // namespace

const Kernel& BestKernel() { return kKernel; }

}  // namespace omfuse
