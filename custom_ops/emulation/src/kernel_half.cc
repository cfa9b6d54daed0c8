// The kernel for fp16 inputs.
#include "../include/generated_tiling.h"
#define DTYPE_QUERY half
#define flash_attention flash_attention_half
#include "../../flash_attention/op_kernel/flash_attention.cpp"
