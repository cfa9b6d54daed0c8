// Choose the kernel for the processor at run time.
#include <cstdlib>
#include <cstring>

#include "problem.h"

namespace omfuse {
namespace {

const Kernel& Choose() {
  const char* wanted = std::getenv("OMFUSE_CPU_KERNEL");
  const auto allowed = [&](const Kernel& kernel) {
    return !wanted || !*wanted || std::strcmp(wanted, kernel.name) == 0;
  };
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      allowed(kAvx512Kernel)) {
    return kAvx512Kernel;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && allowed(kAvx2Kernel)) {
    return kAvx2Kernel;
  }
#elif defined(__aarch64__)
  if (allowed(kNeonKernel)) return kNeonKernel;
#endif
  return kScalarKernel;
}

}  // namespace

const Kernel& BestKernel() {
  static const Kernel& best = Choose();
  return best;
}

}  // namespace omfuse
