// omfuse::FlashAttention as a custom operator of onnxruntime.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "ort_abi.h"
#include "problem.h"

namespace omfuse {
namespace {

using ort::Api;
using ort::CustomOp;
using ort::Status;

struct Node {
  Node(Api table, Type number) : api(table), type(number) {}
  Api api;
  Type type;
  std::string layout = "BNSD", out_layout, causal = "none", masked_rows = "nan";
  int64_t heads = 0, kv_heads = 0, window_left = -1, window_right = -1;
  float scale = 0, softcap = 0;
};

struct TypedOp : CustomOp {
  Type type;
};

struct Tensor {
  char* data = nullptr;
  std::vector<int64_t> dims;
};

std::string ReadString(const Api& api, const void* info, const char* name, const char* otherwise) {
  char text[32] = {};
  size_t size = sizeof text;
  return api.Try(ort::kAttributeString, info, name, &text[0], &size) ? text : otherwise;
}

Status* CreateNode(const CustomOp* op, const void* const* table, const void* info, void** result) {
  const Api api(table);
  auto node = std::make_unique<Node>(api, static_cast<const TypedOp*>(op)->type);
  if (!api.Try(ort::kAttributeFloat, info, "scale", &node->scale) ||
      !api.Try(ort::kAttributeInt64, info, "num_heads", &node->heads)) {
    return api.Error("FlashAttention needs the attributes scale and num_heads");
  }
  node->kv_heads = node->heads;
  api.Try(ort::kAttributeInt64, info, "num_kv_heads", &node->kv_heads);
  api.Try(ort::kAttributeInt64, info, "window_left", &node->window_left);
  api.Try(ort::kAttributeInt64, info, "window_right", &node->window_right);
  api.Try(ort::kAttributeFloat, info, "softcap", &node->softcap);
  node->layout = ReadString(api, info, "layout", "BNSD");
  node->out_layout = ReadString(api, info, "out_layout", node->layout.c_str());
  node->causal = ReadString(api, info, "causal", "none");
  node->masked_rows = ReadString(api, info, "masked_rows", "nan");
  if (node->heads < 1 || node->kv_heads < 1 || node->heads % node->kv_heads) {
    return api.Error("FlashAttention: num_heads is not a multiple of num_kv_heads");
  }
  *result = node.release();
  return nullptr;
}

bool ReadTensor(const Api& api, const void* value, Tensor* tensor) {
  void* info = nullptr;
  size_t rank = 0;
  if (!api.Try(ort::kGetTensorTypeAndShape, value, &info)) return false;
  api.Try(ort::kGetDimensionsCount, static_cast<const void*>(info), &rank);
  tensor->dims.resize(rank);
  api.Try(ort::kGetDimensions, static_cast<const void*>(info), tensor->dims.data(), rank);
  api.Call<void>(ort::kReleaseTensorTypeAndShapeInfo, info);
  return api.Try(ort::kGetTensorMutableData, value, &tensor->data);
}

// Lays [B, N, S, D] over memory of a layout; returns the dims of the tensor.
std::vector<int64_t> Lay(const std::string& layout, int64_t batch, int64_t heads, int64_t length,
                         int64_t depth, View* view) {
  const bool outer = layout == "BNSD";
  view->stride[0] = heads * length * depth;
  view->stride[1] = outer ? length * depth : depth;
  view->stride[2] = outer ? depth : heads * depth;
  view->stride[3] = 1;
  if (layout == "BSH") return {batch, length, heads * depth};
  if (outer) return {batch, heads, length, depth};
  return {batch, length, heads, depth};
}

// Broadcasts a tensor to `full`; false when it does not fit.
bool Broadcast(const Tensor& tensor, const int64_t (&full)[4], View* view) {
  const size_t rank = tensor.dims.size();
  if (rank > 4) return false;
  view->data = tensor.data;
  int64_t stride = 1;
  for (size_t i = 0; i < rank; ++i) {
    const int64_t dim = tensor.dims[rank - 1 - i];
    if (dim != 1 && dim != full[3 - i]) return false;
    view->stride[3 - i] = dim == 1 ? 0 : stride;
    stride *= dim;
  }
  return true;
}

int64_t Length(const Tensor& tensor, const std::string& layout) {
  return tensor.dims[layout == "BNSD" ? 2 : 1];
}

struct Share {  // work that threads take task by task
  const Problem* problem;
  const Kernel* kernel;
  std::atomic<int64_t> next{0};
  int64_t total;
};

void Work(void* user, size_t) {
  auto* share = static_cast<Share*>(user);
  thread_local std::vector<float> memory;
  const size_t size = share->kernel->scratch_floats(*share->problem) + 16;
  if (memory.size() < size) memory.resize(size);
  void* at = memory.data();
  size_t space = memory.size() * sizeof(float);
  auto* scratch = static_cast<float*>(std::align(64, (size - 16) * sizeof(float), at, space));
  for (int64_t task; (task = share->next.fetch_add(1)) < share->total;) {
    share->kernel->run(*share->problem, task, scratch);
  }
}

size_t Processors() {  // asked for once: the answer comes from files of the system
  static const size_t count = std::max(1u, std::thread::hardware_concurrency());
  return count;
}

Status* Compute(void* self, void* context) {
  const Node& node = *static_cast<Node*>(self);
  const Api& api = node.api;
  Tensor in[7];
  size_t inputs = 0, outputs = 0;
  api.Try(ort::kInputCount, static_cast<const void*>(context), &inputs);
  api.Try(ort::kOutputCount, static_cast<const void*>(context), &outputs);
  for (size_t i = 0; i < std::min<size_t>(inputs, 7); ++i) {
    const void* value = nullptr;
    api.Try(ort::kGetInput, static_cast<const void*>(context), i, &value);
    if (value && !ReadTensor(api, value, &in[i])) return api.Error("cannot read an input");
  }
  const size_t rank = node.layout == "BSH" ? 3 : 4;
  for (int i = 0; i < 3; ++i) {
    if (in[i].dims.size() != rank) return api.Error("query, key and value must fit the layout");
  }
  Problem p;
  p.type = node.type;
  p.batch = in[0].dims[0];
  p.heads = node.heads, p.kv_heads = node.kv_heads;
  p.q_len = Length(in[0], node.layout), p.kv_len = Length(in[1], node.layout);
  p.depth = in[0].dims[rank - 1], p.v_depth = in[2].dims[rank - 1];
  if (rank == 3) p.depth /= node.heads, p.v_depth /= node.kv_heads;
  p.scale = node.scale, p.softcap = node.softcap;
  p.causal = node.causal != "none", p.bottom_right = node.causal == "bottom_right";
  p.window_left = node.window_left, p.window_right = node.window_right;
  p.masked_rows = node.masked_rows == "zero"      ? MaskedRows::kZero
                  : node.masked_rows == "uniform" ? MaskedRows::kUniform
                                                  : MaskedRows::kNan;
  if (Lay(node.layout, p.batch, p.heads, p.q_len, p.depth, &p.query) != in[0].dims ||
      Lay(node.layout, p.batch, p.kv_heads, p.kv_len, p.depth, &p.key) != in[1].dims ||
      Lay(node.layout, p.batch, p.kv_heads, p.kv_len, p.v_depth, &p.value) != in[2].dims) {
    return api.Error("FlashAttention: shapes of query, key and value do not fit together");
  }
  if (p.kv_len >= 1 << 24) return api.Error("FlashAttention: more than 2^24 keys");
  p.query.data = in[0].data, p.key.data = in[1].data, p.value.data = in[2].data;
  const int64_t full[4] = {p.batch, p.heads, p.q_len, p.kv_len};
  if ((in[3].data && !Broadcast(in[3], full, &p.bias)) ||
      (in[4].data && !Broadcast(in[4], full, &p.mask))) {
    return api.Error("FlashAttention: attn_bias or attn_mask cannot be broadcast to the scores");
  }
  p.sink = in[5].data;
  p.kv_lengths = reinterpret_cast<const int32_t*>(in[6].data);
  if ((in[5].data && in[5].dims != std::vector<int64_t>{p.heads}) ||
      (in[6].data && in[6].dims != std::vector<int64_t>{p.batch})) {
    return api.Error("FlashAttention: sink must be [N] and kv_lengths [B]");
  }
  const auto dims = Lay(node.out_layout, p.batch, p.heads, p.q_len, p.v_depth, &p.out);
  void* value = nullptr;
  if (!api.Try(ort::kGetOutput, context, size_t{0}, dims.data(), dims.size(), &value)) {
    return api.Error("cannot make the output");
  }
  api.Try(ort::kGetTensorMutableData, static_cast<const void*>(value), &p.out.data);
  if (outputs > 1) {
    const int64_t lse[3] = {p.batch, p.heads, p.q_len};
    void* second = nullptr;
    if (api.Try(ort::kGetOutput, context, size_t{1}, &lse[0], size_t{3}, &second) && second) {
      api.Try(ort::kGetTensorMutableData, static_cast<const void*>(second), &p.lse);
    }
  }
  if (p.batch == 0 || p.q_len == 0) return nullptr;
  Share share;
  share.problem = &p;
  share.kernel = &BestKernel();
  share.total = share.kernel->tasks(p);
  const size_t threads = std::min(static_cast<size_t>(share.total), Processors());
  // Work that is done before a second thread wakes up is done alone.
  if (threads == 1 || p.batch * p.heads * p.q_len * p.kv_len * (p.depth + p.v_depth) < 1 << 18) {
    Work(&share, 0);
    return nullptr;
  }
  return api.Call<Status*>(ort::kParallelFor, static_cast<const void*>(context), &Work, threads,
                           size_t{0}, static_cast<void*>(&share));
}

int InputType(const CustomOp* op, size_t index) {
  if (index == 4) return 9;  // bool
  if (index == 6) return 6;  // int32
  return static_cast<int>(static_cast<const TypedOp*>(op)->type);
}

TypedOp Make(Type type) {
  TypedOp op = {};
  op.version = ort::kApiVersion;
  op.type = type;
  op.name = [](const CustomOp*) { return "FlashAttention"; };
  op.provider = [](const CustomOp*) -> const char* { return nullptr; };
  op.input_type = InputType;
  op.input_count = [](const CustomOp*) -> size_t { return 7; };
  op.output_type = [](const CustomOp* self, size_t index) {
    return index ? 1 : static_cast<int>(static_cast<const TypedOp*>(self)->type);
  };
  op.output_count = [](const CustomOp*) -> size_t { return 2; };
  op.destroy = [](void* node) { delete static_cast<Node*>(node); };
  op.input_characteristic = [](const CustomOp*, size_t index) { return index > 2 ? 1 : 0; };
  op.output_characteristic = [](const CustomOp*, size_t index) { return index ? 1 : 0; };
  op.input_memory = [](const CustomOp*, size_t) { return 0; };
  op.variadic_input_min = op.variadic_output_min = [](const CustomOp*) { return 1; };
  op.variadic_input_homogeneous =
      op.variadic_output_homogeneous = [](const CustomOp*) { return 1; };
  op.create_kernel_v2 = CreateNode;
  op.compute_v2 = Compute;
  op.start_version = [](const CustomOp*) { return 1; };
  op.end_version = [](const CustomOp*) { return 0x7fffffff; };
  return op;
}

}  // namespace
}  // namespace omfuse

extern "C" __attribute__((visibility("default"))) omfuse::ort::Status* RegisterCustomOps(
    void* options, const omfuse::ort::ApiBase* base) {
  using namespace omfuse;
  static const TypedOp ops[] = {Make(Type::kFloat32), Make(Type::kFloat16), Make(Type::kBFloat16)};
  const ort::Api api(base->get_api(ort::kApiVersion));
  void* domain = nullptr;
  if (ort::Status* status = api.Call(ort::kCreateCustomOpDomain, "omfuse", &domain)) return status;
  for (const TypedOp& op : ops) {
    if (ort::Status* status =
            api.Call(ort::kCustomOpDomainAdd, domain, static_cast<const ort::CustomOp*>(&op))) {
      return status;
    }
  }
  return api.Call(ort::kAddCustomOpDomain, options, domain);
}

extern "C" __attribute__((visibility("default"))) const char* OmfuseCpuKernel() {
  return omfuse::BestKernel().name;
}
