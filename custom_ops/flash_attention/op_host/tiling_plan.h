// Tiling of FlashAttention in plain C++11: a pure function without CANN types, so that the tiling
// callback of the operator, the host emulation and the tests share one and the same code.
#ifndef OMFUSE_TILING_PLAN_H_
#define OMFUSE_TILING_PLAN_H_

#include <stdint.h>

#include <string>

#include "../op_kernel/flash_attention_tiling.h"

namespace omfuse {

enum DataType { kNoType = -1, kFp16 = 0, kBf16 = 1, kFp32 = 2 };
enum Layout { kBnsd = 0, kBsnd = 1, kBsh = 2 };

// One call of the operator. Plain C fields: the C interface of the emulation uses it too.
struct Problem {
  int64_t batch, heads, kv_heads, q_len, kv_len, depth, value_depth;
  int64_t bias_dims[4];               // of attn_bias, each 1 or the full extent
  int64_t mask_dims[4];               // of attn_mask, alike
  int64_t window_left, window_right;  // -1 = open
  int32_t dtype;                      // DataType of query, key, value, output: kFp16 or kBf16
  int32_t layout, out_layout;         // Layout
  int32_t bias_dtype;                 // DataType, kNoType = absent; the dtype of query or kFp32
  int32_t mask_present;               // bool tensor
  int32_t sink_dtype;                 // DataType, kNoType = absent; the dtype of query or kFp32
  int32_t kv_lengths_present;         // int32 tensor
  int32_t lse_present;
  int32_t causal;           // Causal
  int32_t masked_rows;      // MaskedRows
  int32_t inner_precision;  // 0 = fp32 scores, 1 = fp16 scores
  float scale, softcap;
};

// The memory and cores of one chip, read from the platform.
struct Platform {
  uint64_t ub_bytes, l1_bytes, l0a_bytes, l0b_bytes, l0c_bytes, l2_bytes;
  uint32_t cube_cores, vector_cores;
  uint32_t split;  // 1: cube and vector cores apart (910B, 910_93xx); 0: coupled (310P)
};

struct Plan {
  uint64_t tiling_key;
  uint64_t workspace_bytes;  // of this kernel; the system workspace of CANN comes on top
  uint32_t block_dim;
};

// Plans one call. False when this chip or kernel cannot do it; `why` then says what and what to do.
bool PlanTiling(const Problem& problem, const Platform& platform, FlashAttentionTiling* tiling,
                Plan* plan, std::string* why);

}  // namespace omfuse

#endif  // OMFUSE_TILING_PLAN_H_
