// One FlashAttention call as the kernels see it: pointers, strides and the attributes that matter.
#pragma once

#include <cstddef>
#include <cstdint>

namespace omfuse {

enum class Type : int { kFloat32 = 1, kFloat16 = 10, kBFloat16 = 16 };  // numbers of ONNX
enum class MaskedRows : int { kNan, kZero, kUniform };

// A tensor of four axes; strides count elements, 0 where an axis is broadcast.
struct View {
  const void* data = nullptr;
  int64_t stride[4] = {0, 0, 0, 0};
};

// Axes are [B, N, S, D] whatever the layout in memory; the last one is always contiguous.
struct Problem {
  Type type = Type::kFloat32;
  int64_t batch = 0, heads = 0, kv_heads = 0, q_len = 0, kv_len = 0, depth = 0, v_depth = 0;
  float scale = 1, softcap = 0;
  bool causal = false, bottom_right = false;
  int64_t window_left = -1, window_right = -1;
  MaskedRows masked_rows = MaskedRows::kNan;
  View query, key, value, bias, mask, out;
  const void* sink = nullptr;
  const int32_t* kv_lengths = nullptr;
  float* lse = nullptr;
};

// Computes one task: a block of query rows that share a key/value head.  Thread-safe.
// `scratch` holds scratch_floats() floats, aligned to 64 bytes.
struct Kernel {
  const char* name;
  int64_t (*tasks)(const Problem&);
  size_t (*scratch_floats)(const Problem&);
  void (*run)(const Problem&, int64_t task, float* scratch);
};

// The fastest kernel for this processor; OMFUSE_CPU_KERNEL names another one.
const Kernel& BestKernel();

extern const Kernel kScalarKernel;
#if defined(__x86_64__)
extern const Kernel kAvx2Kernel;
extern const Kernel kAvx512Kernel;
#elif defined(__aarch64__)
extern const Kernel kNeonKernel;
#endif

}  // namespace omfuse
