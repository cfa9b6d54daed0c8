// The subset of Ascend C that the kernels of this project use, for the host.
//
// Stands in for CANN's header of the same name. Names, parameter order and units are those of the
// public API documentation; an API that an architecture lacks is not declared for it.
#ifndef OMFUSE_EMULATION_KERNEL_OPERATOR_H_
#define OMFUSE_EMULATION_KERNEL_OPERATOR_H_

#include "api_copy.h"
#include "api_cube.h"
#include "api_queue.h"
#include "api_reduce.h"
#include "api_sync.h"
#include "api_tensor.h"
#include "api_types.h"
#include "api_vector.h"

#endif  // OMFUSE_EMULATION_KERNEL_OPERATOR_H_
