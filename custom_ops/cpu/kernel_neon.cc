#define OMFUSE_SIMD_NEON
#include "flash.h"

namespace omfuse {
const Kernel kNeonKernel = {"neon", Tasks, ScratchFloats, Run};
}  // namespace omfuse
