// FlashAttention forward for Ascend 910B and 910_93 (split cores) and 310P (coupled cores).
#include "fa_coupled.h"
#include "fa_cube_core.h"
#include "fa_vector_core.h"

// CANN's operator compiler defines the type of each input, and GET_TILING_DATA from the class that
// op_host/tiling.cc registers: the tiling is read from memory, or constant where ATC compiles for
// one shape. Without that compiler the type is half and the words are read as they lie in memory.
#ifndef DTYPE_QUERY
#define DTYPE_QUERY half
#endif
#ifndef GET_TILING_DATA
#define GET_TILING_DATA(data, address) const omfuse::TilingWords data(address)
#endif

namespace omfuse {

template <typename T>
__aicore__ inline void Launch(const Inputs& in, const uint32_t* words) {
  FlashAttentionTiling plan;
  ReadTiling(words, &plan);
  TPipe pipe;
#if OMFUSE_FA_SPLIT
  if ASCEND_IS_AIC {
    CubeCore<T> core;
    core.Run(&pipe, &plan, in, static_cast<uint32_t>(AscendC::GetBlockIdx()));
  }
  if ASCEND_IS_AIV {
    VectorCore<T> core;
    const uint32_t index = static_cast<uint32_t>(AscendC::GetBlockIdx());
    core.Run(&pipe, &plan, in, index / 2, index % 2);
  }
#else
  CoupledCore<T> core;
  core.Run(&pipe, &plan, in, static_cast<uint32_t>(AscendC::GetBlockIdx()));
#endif
}

}  // namespace omfuse

extern "C" __global__ __aicore__ void flash_attention(GM_ADDR query, GM_ADDR key, GM_ADDR value,
                                                      GM_ADDR attn_bias, GM_ADDR attn_mask,
                                                      GM_ADDR sink, GM_ADDR kv_lengths,
                                                      GM_ADDR output, GM_ADDR lse,
                                                      GM_ADDR workspace, GM_ADDR tiling) {
#if OMFUSE_FA_SPLIT
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_MIX_AIC_1_2);
  workspace = AscendC::GetUserWorkspace(workspace);  // behind what CANN keeps for itself
#endif
  GET_TILING_DATA(plan, tiling);
  const omfuse::Inputs in{query, key,        value,  attn_bias, attn_mask,
                          sink,  kv_lengths, output, lse,       workspace};
  omfuse::Launch<DTYPE_QUERY>(in, plan.words);
}
