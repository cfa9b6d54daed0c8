// The kernel for bfloat16 inputs, which only split chips have.
#include "../include/api_types.h"
#if OMFUSE_EMULATION_SPLIT
#include "../include/generated_tiling.h"
#define DTYPE_QUERY bfloat16_t
#define flash_attention flash_attention_bf16
#include "../../flash_attention/op_kernel/flash_attention.cpp"
#endif
