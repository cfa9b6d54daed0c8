// Tiling of FlashAttention: what CANN calls for each shape, around the pure PlanTiling.
#ifndef OMFUSE_TILING_H_
#define OMFUSE_TILING_H_

#include "exe_graph/runtime/tiling_context.h"

namespace omfuse {

// Fills tiling data, key, block dim and workspace; refuses with one line on the terminal.
ge::graphStatus Tile(gert::TilingContext* context);

}  // namespace omfuse

#endif  // OMFUSE_TILING_H_
