// Shape and dtype inference of FlashAttention.
#ifndef OMFUSE_INFERENCE_H_
#define OMFUSE_INFERENCE_H_

#include "exe_graph/runtime/infer_datatype_context.h"
#include "exe_graph/runtime/infer_shape_context.h"

namespace omfuse {

// output: query's batch and length with value's depth, in out_layout.  lse: [B, N, Sq], or one
// element when it is not asked for (an operator output cannot be left out in the IR).
ge::graphStatus InferShape(gert::InferShapeContext* context);

// output: the dtype of query.  lse: fp32.
ge::graphStatus InferDataType(gert::InferDataTypeContext* context);

}  // namespace omfuse

#endif  // OMFUSE_INFERENCE_H_
