#include "tiling.h"

#include <string.h>

#include <sstream>

#include "operands.h"
#include "register/tilingdata_base.h"
#include "tiling/platform/platform_ascendc.h"
#include "tiling_plan.h"

namespace optiling {

// From this class CANN's kernel compiler makes GET_TILING_DATA, and the host learns how much room
// the tiling data need. Plain words: floats stay exact where they become constants of a kernel. The
// kernel and PlanTiling know what the words mean.
BEGIN_TILING_DATA_DEF(FlashAttentionWords)
TILING_DATA_FIELD_DEF_ARR(uint32_t, omfuse::kTilingWords, words);
END_TILING_DATA_DEF;
REGISTER_TILING_DATA_CLASS(FlashAttention, FlashAttentionWords)

}  // namespace optiling

namespace omfuse {
namespace {

const uint32_t kBatchMode = 1;

int32_t TypeCode(ge::DataType type) {
  switch (type) {
    case ge::DT_FLOAT16:
      return kFp16;
    case ge::DT_BF16:
      return kBf16;
    case ge::DT_FLOAT:
      return kFp32;
    default:
      return kNoType;
  }
}

// Cores and memories of the chip that this tiling is for.
bool ReadPlatform(gert::TilingContext* context, Platform* platform, uint64_t* system_workspace,
                  std::string* why) {
  using platform_ascendc::CoreMemType;
  using platform_ascendc::SocVersion;
  platform_ascendc::PlatformAscendC chip(context->GetPlatformInfo());
  const SocVersion version = chip.GetSocVersion();
  if (version != SocVersion::ASCEND310P && version != SocVersion::ASCEND910B) {
    // Newer CANN may give 910_93 a value of its own; it has the cores and memories of 910B.
    if (chip.GetCoreNumAiv() != 2 * chip.GetCoreNumAic()) {
      *why = "this chip is neither of the 910B and 910_93 families nor a 310P";
      return false;
    }
  }
  platform->split = version == SocVersion::ASCEND310P ? 0 : 1;
  platform->cube_cores = chip.GetCoreNumAic();
  platform->vector_cores = platform->split ? chip.GetCoreNumAiv() : platform->cube_cores;
  chip.GetCoreMemSize(CoreMemType::UB, platform->ub_bytes);
  chip.GetCoreMemSize(CoreMemType::L1, platform->l1_bytes);
  chip.GetCoreMemSize(CoreMemType::L0_A, platform->l0a_bytes);
  chip.GetCoreMemSize(CoreMemType::L0_B, platform->l0b_bytes);
  chip.GetCoreMemSize(CoreMemType::L0_C, platform->l0c_bytes);
  chip.GetCoreMemSize(CoreMemType::L2, platform->l2_bytes);
  *system_workspace = chip.GetLibApiWorkSpaceSize();
  if (platform->cube_cores == 0 || platform->ub_bytes == 0) {
    *why = "the platform reports no cores or no memory";
    return false;
  }
  return true;
}

// Dims of a tensor that broadcasts to the scores, with ones in front up to rank 4.
bool ReadBroadcast(const gert::Shape& shape, const char* name, const int64_t (&full)[4],
                   int64_t (&dims)[4], std::string* why) {
  const size_t rank = shape.GetDimNum();
  bool fits = rank <= 4;
  for (size_t i = 0; i < 4 && fits; ++i) {
    dims[i] = i < 4 - rank ? 1 : shape.GetDim(i - (4 - rank));
    fits = dims[i] == 1 || dims[i] == full[i];
  }
  if (fits) return true;
  std::ostringstream text;
  text << name << " cannot be broadcast to [" << full[0] << ", " << full[1] << ", " << full[2]
       << ", " << full[3] << "]";
  *why = text.str();
  return false;
}

const gert::Shape* OptionalShape(gert::TilingContext* context, int index) {
  const gert::StorageShape* shape = context->GetOptionalInputShape(index);
  return shape == nullptr ? nullptr : &shape->GetStorageShape();
}

int32_t OptionalType(gert::TilingContext* context, int index) {
  const gert::CompileTimeTensorDesc* desc = context->GetOptionalInputDesc(index);
  return desc == nullptr ? kNoType : TypeCode(desc->GetDataType());
}

bool ReadOptionals(gert::TilingContext* context, Problem* p, std::string* why) {
  const int64_t full[4] = {p->batch, p->heads, p->q_len, p->kv_len};
  const gert::Shape* bias = OptionalShape(context, kAttnBias);
  const gert::Shape* mask = OptionalShape(context, kAttnMask);
  const gert::Shape* sink = OptionalShape(context, kSink);
  const gert::Shape* lengths = OptionalShape(context, kKvLengths);
  for (int i = 0; i < 4; ++i) p->bias_dims[i] = p->mask_dims[i] = 1;
  if (bias && !ReadBroadcast(*bias, "attn_bias", full, p->bias_dims, why)) return false;
  if (mask && !ReadBroadcast(*mask, "attn_mask", full, p->mask_dims, why)) return false;
  p->bias_dtype = bias ? OptionalType(context, kAttnBias) : kNoType;
  p->sink_dtype = sink ? OptionalType(context, kSink) : kNoType;
  p->mask_present = mask != nullptr;
  p->kv_lengths_present = lengths != nullptr;
  if (sink && sink->GetShapeSize() != p->heads) {
    *why = "sink must have one value a head";
    return false;
  }
  if (lengths && lengths->GetShapeSize() != p->batch) {
    *why = "kv_lengths must have one value a batch row";
    return false;
  }
  return true;
}

bool ReadProblem(gert::TilingContext* context, Problem* p, std::string* why) {
  Settings settings;
  if (!ReadSettings(context->GetAttrs(), &settings, why)) return false;
  const char* const names[] = {"query", "key", "value"};
  Extent extents[3];
  for (int i = 0; i < 3; ++i) {
    const gert::StorageShape* shape = context->GetInputShape(i);
    if (shape == nullptr || context->GetInputDesc(i) == nullptr) {
      *why = std::string(names[i]) + " is missing";
      return false;
    }
    const int64_t heads = i == kQuery ? settings.heads : settings.kv_heads;
    if (!ReadExtent(shape->GetStorageShape(), settings.layout, heads, names[i], &extents[i], why)) {
      return false;
    }
  }
  const Extent &q = extents[0], &k = extents[1], &v = extents[2];
  if (k.batch != q.batch || v.batch != q.batch || k.length != v.length || k.depth != q.depth) {
    *why =
        "query, key and value differ in batch, key and value in length, or query and key in "
        "depth";
    return false;
  }
  memset(p, 0, sizeof(*p));
  p->batch = q.batch;
  p->heads = settings.heads;
  p->kv_heads = settings.kv_heads;
  p->q_len = q.length;
  p->kv_len = k.length;
  p->depth = q.depth;
  p->value_depth = v.depth;
  p->dtype = TypeCode(context->GetInputDesc(kQuery)->GetDataType());
  p->layout = settings.layout;
  p->out_layout = settings.out_layout;
  p->lse_present = settings.with_lse;
  p->causal = settings.causal;
  p->window_left = settings.window_left;
  p->window_right = settings.window_right;
  p->masked_rows = settings.masked_rows;
  p->inner_precision = settings.inner_precision;
  p->scale = settings.scale;
  p->softcap = settings.softcap;
  return ReadOptionals(context, p, why);
}

}  // namespace

ge::graphStatus Tile(gert::TilingContext* context) {
  std::string why;
  Problem problem;
  Platform platform;
  Plan plan;
  uint64_t system_workspace = 0;
  FlashAttentionTiling* tiling = context->GetTilingData<FlashAttentionTiling>();
  size_t* workspace = context->GetWorkspaceSizes(1);
  if (tiling == nullptr || workspace == nullptr) {
    Refuse(context->GetNodeName(), "CANN gave no room for the tiling data");
    return ge::GRAPH_FAILED;
  }
  if (!ReadPlatform(context, &platform, &system_workspace, &why) ||
      !ReadProblem(context, &problem, &why) ||
      !PlanTiling(problem, platform, tiling, &plan, &why)) {
    Refuse(context->GetNodeName(), why);
    return ge::GRAPH_FAILED;
  }
  context->SetTilingKey(plan.tiling_key);
  context->SetBlockDim(plan.block_dim);
  // Cores wait for each other, so all blocks start together ("batch mode") or none does.
  if (platform.split) context->SetScheduleMode(kBatchMode);
  workspace[0] = static_cast<size_t>(plan.workspace_bytes + system_workspace);
  return ge::GRAPH_SUCCESS;
}

}  // namespace omfuse
