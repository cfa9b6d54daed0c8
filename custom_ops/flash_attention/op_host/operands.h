// Reads the attributes and operands of a FlashAttention node from CANN's contexts.
//
// Order and names are those of the ONNX contract (rewriter/omfuse/fuse/contract.py); tests compare
// the two.  C++11: CANN's project compiles this folder with that standard.
#ifndef OMFUSE_OPERANDS_H_
#define OMFUSE_OPERANDS_H_

#include <stdint.h>

#include <string>

#include "exe_graph/runtime/runtime_attrs.h"
#include "exe_graph/runtime/shape.h"
#include "tiling_plan.h"

namespace omfuse {

enum Input { kQuery, kKey, kValue, kAttnBias, kAttnMask, kSink, kKvLengths, kInputs };
enum Output { kOutput, kLse };
enum Attribute {
  kNumHeads,
  kNumKvHeads,
  kScale,
  kLayout,
  kOutLayout,
  kSoftcap,
  kCausal,
  kWindowLeft,
  kWindowRight,
  kMaskedRows,
  kInnerPrecision,
  kWithLse
};

// Attributes decoded: names became the codes of Problem.
struct Settings {
  int64_t heads, kv_heads, window_left, window_right;
  int32_t layout, out_layout, causal, masked_rows, inner_precision, with_lse;
  float scale, softcap;
};

// Batch, length and depth of an operand in a layout; -1 where a dim is not known yet.
struct Extent {
  int64_t batch, heads, length, depth;
};

// False with a reason when an attribute is missing or has a value out of the contract.
bool ReadSettings(const gert::RuntimeAttrs* attrs, Settings* settings, std::string* why);

// False with a reason when the rank is not the layout's or the heads do not fit.
bool ReadExtent(const gert::Shape& shape, int32_t layout, int64_t heads, const char* name,
                Extent* extent, std::string* why);

// Shape of a tensor of that extent in a layout; an unknown factor makes a product unknown.
gert::Shape LayOut(const Extent& extent, int32_t layout);

// Says on the terminal, where ATC's own lines appear, which node is refused and why.
void Refuse(const char* node, const std::string& why);

}  // namespace omfuse

#endif  // OMFUSE_OPERANDS_H_
