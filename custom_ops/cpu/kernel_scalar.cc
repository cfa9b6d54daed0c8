#define OMFUSE_SIMD_SCALAR
#include "flash.h"

namespace omfuse {
const Kernel kScalarKernel = {"scalar", Tasks, ScratchFloats, Run};
}  // namespace omfuse
