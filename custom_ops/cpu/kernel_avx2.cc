#define OMFUSE_SIMD_AVX2
#include "flash.h"

namespace omfuse {
const Kernel kAvx2Kernel = {"avx2", Tasks, ScratchFloats, Run};
}  // namespace omfuse
