// The C interface: plan, lay out global memory, run, count.
#include <algorithm>
#include <cstring>
#include <exception>

#include "../include/api_types.h"

using Entry = void(GM_ADDR, GM_ADDR, GM_ADDR, GM_ADDR, GM_ADDR, GM_ADDR, GM_ADDR, GM_ADDR, GM_ADDR,
                   GM_ADDR, GM_ADDR);
extern "C" Entry flash_attention_half;
#if OMFUSE_EMULATION_SPLIT
extern "C" Entry flash_attention_bf16;
#endif

namespace {

using omfuse::Problem;

void Say(const std::string& text, char* message, uint64_t bytes) {
  if (!message || !bytes) return;
  const size_t length = std::min<size_t>(text.size(), bytes - 1);
  std::memcpy(message, text.data(), length);
  message[length] = 0;
}

uint64_t SizeOf(int32_t dtype) { return dtype == omfuse::kFp32 ? 4 : 2; }

uint64_t Elements(const int64_t dims[4]) {
  return static_cast<uint64_t>(dims[0] * dims[1] * dims[2] * dims[3]);
}

class Run {
 public:
  Run(const Problem& problem, const omfuse::Platform& chip, const OmfuseTensors& tensors,
      const OmfuseOptions& options, const omfuse::Plan& plan)
      : problem_(problem),
        tensors_(tensors),
        options_(options),
        machine_(chip, options, static_cast<int>(plan.block_dim)),
        checks_(options.checks != 0) {}

  void Go(const omfuse::FlashAttentionTiling& tiling, const omfuse::Plan& plan) {
    const Problem& p = problem_;
    const uint64_t item = SizeOf(p.dtype);
    const uint64_t kv = static_cast<uint64_t>(p.batch * p.kv_heads * p.kv_len);
    const uint64_t rows = static_cast<uint64_t>(p.batch * p.heads * p.q_len);
    const uint64_t depth = static_cast<uint64_t>(p.depth);
    const uint64_t value_depth = static_cast<uint64_t>(p.value_depth);
    GM_ADDR query = In("query", tensors_.query, rows * depth * item, true);
    GM_ADDR key = In("key", tensors_.key, kv * depth * item, true);
    GM_ADDR value = In("value", tensors_.value, kv * value_depth * item, true);
    GM_ADDR bias = In("attn_bias", tensors_.attn_bias, Elements(p.bias_dims) * SizeOf(p.bias_dtype),
                      p.bias_dtype >= 0);
    GM_ADDR mask = In("attn_mask", tensors_.attn_mask, Elements(p.mask_dims), p.mask_present != 0);
    GM_ADDR sink = In("sink", tensors_.sink, static_cast<uint64_t>(p.heads) * SizeOf(p.sink_dtype),
                      p.sink_dtype >= 0);
    GM_ADDR lengths = In("kv_lengths", tensors_.kv_lengths, static_cast<uint64_t>(p.batch) * 4,
                         p.kv_lengths_present != 0);
    omfuse_emu::Storage* output = Out("output", rows * value_depth * item, false);
    omfuse_emu::Storage* lse = p.lse_present ? Out("lse", rows * 4, false) : nullptr;
    omfuse_emu::Storage* scratch =
        plan.workspace_bytes ? Out("workspace", plan.workspace_bytes, true) : nullptr;
    omfuse::FlashAttentionTiling copy = tiling;
    GM_ADDR plan_address = reinterpret_cast<GM_ADDR>(&copy);
    Entry* entry = flash_attention_half;
#if OMFUSE_EMULATION_SPLIT
    if (p.dtype == omfuse::kBf16) entry = flash_attention_bf16;
#endif
    machine_.Run([&] {
      entry(query, key, value, bias, mask, sink, lengths, output->data, lse ? lse->data : nullptr,
            scratch ? scratch->data : nullptr, plan_address);
    });
    if (options_.count_only) return;
    Keep(*output, tensors_.output);
    if (lse) Keep(*lse, tensors_.lse);
  }

  void Count(OmfuseCounters* counters) const { machine_.Count(counters); }

 private:
  GM_ADDR In(const char* name, const void* data, uint64_t bytes, bool present) {
    if (!present) return nullptr;
    return machine_.global().Add(name, data, bytes, false, false, checks_)->data;
  }

  omfuse_emu::Storage* Out(const char* name, uint64_t bytes, bool workspace) {
    return machine_.global().Add(name, nullptr, bytes, true, workspace, checks_);
  }

  void Keep(const omfuse_emu::Storage& from, void* to) {
    if (!from.AllWritten(0, from.size)) {
      throw omfuse_emu::Violation("the kernel left a part of " + from.name + " unwritten");
    }
    std::memcpy(to, from.data, from.size);
  }

  Problem problem_;
  OmfuseTensors tensors_;
  OmfuseOptions options_;
  omfuse_emu::Machine machine_;
  bool checks_;
};

const char* BadCall(const Problem& p, const omfuse::Platform& chip, const OmfuseTensors& t,
                    const OmfuseOptions& options) {
  if (static_cast<bool>(chip.split) != static_cast<bool>(OMFUSE_EMULATION_SPLIT)) {
    return "this library was built for the other architecture";
  }
  if (options.count_only) return nullptr;
  if (!t.query || !t.key || !t.value || !t.output || (p.bias_dtype >= 0 && !t.attn_bias) ||
      (p.mask_present && !t.attn_mask) || (p.sink_dtype >= 0 && !t.sink) ||
      (p.kv_lengths_present && !t.kv_lengths) || (p.lse_present && !t.lse)) {
    return "a tensor that the problem names is null";
  }
  return nullptr;
}

}  // namespace

extern "C" int32_t omfuse_emulation_arch(void) { return OMFUSE_EMULATION_SPLIT ? 0 : 1; }

extern "C" int32_t omfuse_emulation_plan(const Problem* problem, const omfuse::Platform* platform,
                                         omfuse::FlashAttentionTiling* tiling, omfuse::Plan* plan,
                                         char* message, uint64_t message_bytes) {
  std::string why;
  if (omfuse::PlanTiling(*problem, *platform, tiling, plan, &why)) return OMFUSE_EMULATION_OK;
  Say(why, message, message_bytes);
  return OMFUSE_EMULATION_REJECTED;
}

extern "C" int32_t omfuse_emulation_run(const Problem* problem, const omfuse::Platform* platform,
                                        const OmfuseTensors* tensors, const OmfuseOptions* options,
                                        OmfuseCounters* counters, char* message,
                                        uint64_t message_bytes) {
  if (!problem || !platform || !tensors || !options) {
    Say("a null argument", message, message_bytes);
    return OMFUSE_EMULATION_BAD_CALL;
  }
  if (const char* wrong = BadCall(*problem, *platform, *tensors, *options)) {
    Say(wrong, message, message_bytes);
    return OMFUSE_EMULATION_BAD_CALL;
  }
  omfuse::FlashAttentionTiling tiling;
  omfuse::Plan plan;
  const int32_t planned =
      omfuse_emulation_plan(problem, platform, &tiling, &plan, message, message_bytes);
  if (planned) return planned;
  try {
    Run run(*problem, *platform, *tensors, *options, plan);
    run.Go(tiling, plan);
    if (counters) run.Count(counters);
  } catch (const std::exception& error) {
    Say(error.what(), message, message_bytes);
    return OMFUSE_EMULATION_VIOLATION;
  }
  return OMFUSE_EMULATION_OK;
}
