// What CANN's operator compiler generates before the kernel's source, from the tiling class that
// the host registers: the class itself and GET_TILING_DATA.
#ifndef OMFUSE_EMULATION_GENERATED_TILING_H_
#define OMFUSE_EMULATION_GENERATED_TILING_H_

#include <cstring>

#include "../../flash_attention/op_kernel/flash_attention_tiling.h"

class FlashAttentionWords {
 public:
  uint32_t words[omfuse::kTilingWords];
};

#define GET_TILING_DATA(data, address) \
  FlashAttentionWords data;            \
  std::memcpy(&data, address, sizeof(data))

#endif  // OMFUSE_EMULATION_GENERATED_TILING_H_
