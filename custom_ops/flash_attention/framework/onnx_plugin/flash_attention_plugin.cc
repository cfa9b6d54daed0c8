// ONNX plugin of ATC: the node FlashAttention becomes the operator FlashAttention.
//
// ATC looks operators up by `domain::opset version::type`.  In the default domain, where parsers of
// CANN 8 need the node when the model has one opset_import, every version counts as another key; in
// our own domain its version 1 is enough.
#include <stdio.h>

#include <string>

#include "flash_attention_settings.h"
#include "graph/operator.h"
#include "register/register.h"

namespace omfuse {
namespace {

#define OMFUSE_KEY(version) "ai.onnx::" #version "::FlashAttention"

domi::Status ParseFlashAttention(const ge::Operator& node, ge::Operator& op) {
  ge::AscendString name, json;
  const bool named = node.GetName(name) == ge::GRAPH_SUCCESS;
  OperatorSettings settings;
  std::string why = "ATC's parser passed no attributes";
  if (node.GetAttr("attribute", json) != ge::GRAPH_SUCCESS ||
      !ReadNode(json.GetString(), &settings, &why)) {
    fprintf(stderr, "[ERROR] omfuse FlashAttention %s: %s\n", named ? name.GetString() : "",
            why.c_str());
    fflush(stderr);
    return domi::FAILED;
  }
  for (const auto& entry : settings.integers) op.SetAttr(entry.first, entry.second);
  for (const auto& entry : settings.floats) op.SetAttr(entry.first, entry.second);
  for (const auto& entry : settings.names) {
    op.SetAttr(entry.first, ge::AscendString(entry.second.c_str()));
  }
  return domi::SUCCESS;
}

}  // namespace
}  // namespace omfuse

namespace domi {

REGISTER_CUSTOM_OP("FlashAttention")
    .FrameworkType(ONNX)
    .OriginOpType({ge::AscendString("omfuse::1::FlashAttention"),
                   ge::AscendString(OMFUSE_KEY(8)),
                   ge::AscendString(OMFUSE_KEY(9)),
                   ge::AscendString(OMFUSE_KEY(10)),
                   ge::AscendString(OMFUSE_KEY(11)),
                   ge::AscendString(OMFUSE_KEY(12)),
                   ge::AscendString(OMFUSE_KEY(13)),
                   ge::AscendString(OMFUSE_KEY(14)),
                   ge::AscendString(OMFUSE_KEY(15)),
                   ge::AscendString(OMFUSE_KEY(16)),
                   ge::AscendString(OMFUSE_KEY(17)),
                   ge::AscendString(OMFUSE_KEY(18)),
                   ge::AscendString(OMFUSE_KEY(19)),
                   ge::AscendString(OMFUSE_KEY(20)),
                   ge::AscendString(OMFUSE_KEY(21)),
                   ge::AscendString(OMFUSE_KEY(22)),
                   ge::AscendString(OMFUSE_KEY(23)),
                   ge::AscendString(OMFUSE_KEY(24)),
                   ge::AscendString(OMFUSE_KEY(25)),
                   ge::AscendString(OMFUSE_KEY(26))})
    .ParseParamsByOperatorFn(omfuse::ParseFlashAttention)
    .ImplyType(ImplyType::TVM);

}  // namespace domi
