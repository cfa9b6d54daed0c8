#include "inference.h"

#include "operands.h"

namespace omfuse {
namespace {

const int64_t kUnknownRank = -2;

bool RankUnknown(const gert::Shape& shape) {
  return shape.GetDimNum() == 1 && shape.GetDim(0) == kUnknownRank;
}

void AllUnknown(int32_t layout, gert::Shape* shape) {
  shape->SetDimNum(0);
  for (int i = 0; i < (layout == kBsh ? 3 : 4); ++i) shape->AppendDim(-1);
}

}  // namespace

ge::graphStatus InferShape(gert::InferShapeContext* context) {
  const gert::Shape* query = context->GetInputShape(kQuery);
  const gert::Shape* value = context->GetInputShape(kValue);
  gert::Shape* output = context->GetOutputShape(kOutput);
  gert::Shape* lse = context->GetOutputShape(kLse);
  if (query == nullptr || value == nullptr || output == nullptr) return ge::GRAPH_FAILED;
  std::string why;
  Settings settings;
  Extent q, v;
  if (!ReadSettings(context->GetAttrs(), &settings, &why)) {
    Refuse(context->GetNodeName(), why);
    return ge::GRAPH_FAILED;
  }
  const bool open = RankUnknown(*query) || RankUnknown(*value);
  if (open) {
    AllUnknown(settings.out_layout, output);
    q.batch = q.length = -1;
  } else {
    if (!ReadExtent(*query, settings.layout, settings.heads, "query", &q, &why) ||
        !ReadExtent(*value, settings.layout, settings.kv_heads, "value", &v, &why)) {
      Refuse(context->GetNodeName(), why);
      return ge::GRAPH_FAILED;
    }
    const Extent out = {q.batch, settings.heads, q.length, v.depth};
    *output = LayOut(out, settings.out_layout);
  }
  if (lse != nullptr) {
    lse->SetDimNum(0);
    if (settings.with_lse) {
      lse->AppendDim(q.batch);
      lse->AppendDim(settings.heads);
      lse->AppendDim(q.length);
    } else {
      lse->AppendDim(1);
    }
  }
  return ge::GRAPH_SUCCESS;
}

ge::graphStatus InferDataType(gert::InferDataTypeContext* context) {
  context->SetOutputDataType(kOutput, context->GetInputDataType(kQuery));
  context->SetOutputDataType(kLse, ge::DT_FLOAT);
  return ge::GRAPH_SUCCESS;
}

}  // namespace omfuse
