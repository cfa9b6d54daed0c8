#define OMFUSE_SIMD_AVX512
#include "flash.h"

namespace omfuse {
const Kernel kAvx512Kernel = {"avx512", Tasks, ScratchFloats, Run};
}  // namespace omfuse
