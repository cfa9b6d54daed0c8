// The operator FlashAttention as CANN knows it: inputs, outputs, attributes, dtypes by SoC.
#include <string>
#include <vector>

#include "inference.h"
#include "operands.h"
#include "register/op_def_registry.h"
#include "tiling.h"

namespace ops {
namespace {

// One column is one combination that the kernel is compiled for.  Bias and sink come in the dtype
// of query or in fp32; 310P takes bias in fp16 only.  ATC puts Casts around fp32 nodes and before
// inputs that no column has.
struct Column {
  ge::DataType type, bias, sink;
};

std::vector<Column> ColumnsOf(const std::vector<ge::DataType>& types, bool wide_bias) {
  std::vector<Column> columns;
  for (size_t i = 0; i < types.size(); ++i) {
    const ge::DataType extra[] = {types[i], ge::DT_FLOAT};
    for (int bias = 0; bias < (wide_bias ? 2 : 1); ++bias) {
      for (int sink = 0; sink < 2; ++sink) {
        columns.push_back(Column{types[i], extra[bias], extra[sink]});
      }
    }
  }
  return columns;
}

// Declares inputs and outputs on an OpDef or on the OpAICoreConfig of one SoC.
template <class Def>
void Declare(Def* def, const std::vector<ge::DataType>& types, bool wide_bias) {
  const std::vector<Column> columns = ColumnsOf(types, wide_bias);
  std::vector<ge::DataType> type, bias, sink;
  for (size_t i = 0; i < columns.size(); ++i) {
    type.push_back(columns[i].type);
    bias.push_back(columns[i].bias);
    sink.push_back(columns[i].sink);
  }
  const size_t n = columns.size();
  const std::vector<ge::Format> format(n, ge::FORMAT_ND);
  const std::vector<ge::DataType> boolean(n, ge::DT_BOOL), int32(n, ge::DT_INT32),
      fp32(n, ge::DT_FLOAT);
  struct Entry {
    const char* name;
    Option kind;
    const std::vector<ge::DataType>* types;
  };
  const Entry inputs[] = {
      {"query", REQUIRED, &type},        {"key", REQUIRED, &type},
      {"value", REQUIRED, &type},        {"attn_bias", OPTIONAL, &bias},
      {"attn_mask", OPTIONAL, &boolean}, {"sink", OPTIONAL, &sink},
      {"kv_lengths", OPTIONAL, &int32},
  };
  const Entry outputs[] = {{"output", REQUIRED, &type}, {"lse", REQUIRED, &fp32}};
  for (const Entry& entry : inputs) {
    def->Input(entry.name)
        .ParamType(entry.kind)
        .DataType(*entry.types)
        .Format(format)
        .UnknownShapeFormat(format);
  }
  for (const Entry& entry : outputs) {
    def->Output(entry.name)
        .ParamType(entry.kind)
        .DataType(*entry.types)
        .Format(format)
        .UnknownShapeFormat(format);
  }
}

OpAICoreConfig ConfigOf(const std::vector<ge::DataType>& types, bool wide_bias) {
  OpAICoreConfig config;
  Declare(&config, types, wide_bias);
  config.DynamicCompileStaticFlag(true)
      .DynamicFormatFlag(false)
      .DynamicRankSupportFlag(true)
      .DynamicShapeSupportFlag(true)
      .NeedCheckSupportFlag(false)
      .PrecisionReduceFlag(true)
      // The binary of the package serves fixed shapes, too: one compile, and the tiling arrives by
      // pointer, which is null in a kernel that ATC compiles for a shape.
      .ExtendCfgInfo("jitCompile.flag", "static_false,dynamic_false");
  return config;
}

}  // namespace

class FlashAttention : public OpDef {
 public:
  explicit FlashAttention(const char* name) : OpDef(name) {
    const std::vector<ge::DataType> half(1, ge::DT_FLOAT16);
    std::vector<ge::DataType> both = half;
    both.push_back(ge::DT_BF16);
    Declare(static_cast<OpDef*>(this), both, true);
    this->Attr("num_heads").AttrType(REQUIRED).Int();
    this->Attr("num_kv_heads").AttrType(REQUIRED).Int();
    this->Attr("scale").AttrType(REQUIRED).Float();
    this->Attr("layout").AttrType(REQUIRED).String();
    this->Attr("out_layout").AttrType(REQUIRED).String();
    this->Attr("softcap").AttrType(OPTIONAL).Float(0.0f);
    this->Attr("causal").AttrType(OPTIONAL).String("none");
    this->Attr("window_left").AttrType(OPTIONAL).Int(-1);
    this->Attr("window_right").AttrType(OPTIONAL).Int(-1);
    this->Attr("masked_rows").AttrType(OPTIONAL).String("nan");
    this->Attr("inner_precision").AttrType(OPTIONAL).String("fp32");
    this->Attr("with_lse").AttrType(OPTIONAL).Int(0);
    this->SetInferShape(omfuse::InferShape);
    this->SetInferDataType(omfuse::InferDataType);
    this->AICore().SetTiling(omfuse::Tile);
    OpAICoreConfig wide = ConfigOf(both, true), narrow = ConfigOf(half, false);
    this->AICore().AddConfig("ascend910b", wide);
    this->AICore().AddConfig("ascend910_93", wide);
    this->AICore().AddConfig("ascend310p", narrow);
  }
};

OP_ADD(FlashAttention);

}  // namespace ops
