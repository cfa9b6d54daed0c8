// Model descriptions: inputs, outputs, gears, and tensor descriptions.
#include <algorithm>
#include <cstring>

#include "acl_prototypes.h"
#include "state.h"

using namespace simacl;

namespace {

constexpr size_t kNameLimit = 127;

std::shared_ptr<ModelDesc> DescOf(const void* handle) {
  auto desc = Find<ModelDesc>(handle, Kind::kModelDesc);
  return desc != nullptr && desc->info != nullptr ? desc : nullptr;
}

Tensor ShapeInput(const ModelInfo& info) {
  Tensor tensor;
  tensor.name = "ascend_mbatch_shape_data";
  tensor.dtype = 9;
  tensor.dims = {static_cast<int64_t>(info.gear_numbers)};
  tensor.size = DimsBytes(tensor.dtype, tensor.dims);
  return tensor;
}

bool GetTensor(const void* handle, size_t index, bool input, Tensor* tensor) {
  auto desc = DescOf(handle);
  if (desc == nullptr) return false;
  const auto& list = input ? desc->info->inputs : desc->info->outputs;
  if (index < list.size()) {
    *tensor = list[index];
    return true;
  }
  if (!input || index != list.size() || !desc->info->HasShapeInput()) return false;
  *tensor = ShapeInput(*desc->info);
  return true;
}

std::string ShownName(const ModelDesc& desc, const Tensor& tensor, size_t index, bool input) {
  if (tensor.name.size() <= kNameLimit) return tensor.name;
  return "acl_modelId_" + std::to_string(desc.model) + (input ? "_input_" : "_output_") +
         std::to_string(index);
}

int Dims_(Call* call, const void* handle, size_t index, bool input, const Dims* replace,
          aclmdlIODims* out) {
  Tensor tensor;
  if (out == nullptr || !GetTensor(handle, index, input, &tensor))
    return call->Return(kInvalidParam);
  const Dims& dims = replace != nullptr ? *replace : tensor.dims;
  const std::string name = ShownName(*DescOf(handle), tensor, index, input);
  memset(out, 0, sizeof(*out));
  memcpy(out->name, name.data(), std::min(name.size(), kNameLimit));
  out->dimCount = std::min<size_t>(dims.size(), 128);
  std::copy_n(dims.begin(), out->dimCount, out->dims);
  return call->Return(kOk);
}

const char* Name(const char* symbol, const void* handle, size_t index, bool input) {
  thread_local std::string name;
  Call call(symbol);
  Tensor tensor;
  name.clear();
  if (!call.injected() && GetTensor(handle, index, input, &tensor)) {
    name = ShownName(*DescOf(handle), tensor, index, input);
  }
  return name.c_str();
}

template <typename T, typename Get>
T Field(const char* symbol, const void* handle, size_t index, bool input, T none, Get get) {
  Call call(symbol);
  Tensor tensor;
  if (call.injected() || !GetTensor(handle, index, input, &tensor)) return none;
  return get(tensor);
}

int IndexOf(Call* call, const void* handle, const char* name, bool input, size_t* out) {
  Tensor tensor;
  auto desc = DescOf(handle);
  for (size_t i = 0; desc != nullptr && GetTensor(handle, i, input, &tensor); ++i) {
    if (tensor.name == name || ShownName(*desc, tensor, i, input) == name) {
      *out = i;
      return call->Return(kOk);
    }
  }
  return call->Return(kInvalidParam);
}

}  // namespace

SIMACL_EXPORT aclmdlDesc* aclmdlCreateDesc() {
  Call call("aclmdlCreateDesc");
  if (call.injected()) return nullptr;
  return AsPointer<aclmdlDesc>(Add(std::make_shared<ModelDesc>(), Kind::kModelDesc)->handle);
}
SIMACL_EXPORT aclError aclmdlDestroyDesc(aclmdlDesc* desc) {
  SIMACL_RELEASE(aclmdlDestroyDesc);
  if (Find<ModelDesc>(desc, Kind::kModelDesc) == nullptr) return call.Return(kInvalidParam);
  Remove(AsHandle(desc));
  return call.Return(kOk);
}
SIMACL_EXPORT aclError aclmdlGetDesc(aclmdlDesc* handle, uint32_t id) {
  SIMACL_ENTER(aclmdlGetDesc);
  if (const int code = CheckContext(&call)) return code;
  auto desc = Find<ModelDesc>(handle, Kind::kModelDesc);
  if (desc == nullptr) return call.Return(kInvalidParam);
  auto found = Get().models.find(id);
  if (found == Get().models.end()) return call.Fail(kModelId, "E19999: no such model");
  desc->info = found->second.info;
  desc->model = id;
  return call.Return(kOk);
}
SIMACL_EXPORT aclError aclmdlGetDescFromFile(aclmdlDesc* handle, const char* path) {
  SIMACL_ENTER(aclmdlGetDescFromFile);
  auto desc = Find<ModelDesc>(handle, Kind::kModelDesc);
  if (desc == nullptr || path == nullptr) return call.Return(kInvalidParam);
  Status status;
  desc->info = Describe(path, nullptr, 0, 0, &status, &call.lock());
  if (desc->info == nullptr) return call.Fail(status.code, status.text);
  return call.Return(kOk);
}
SIMACL_EXPORT size_t aclmdlGetNumInputs(aclmdlDesc* handle) {
  Call call("aclmdlGetNumInputs");
  auto desc = DescOf(handle);
  if (call.injected() || desc == nullptr) return 0;
  return desc->info->inputs.size() + (desc->info->HasShapeInput() ? 1 : 0);
}
SIMACL_EXPORT size_t aclmdlGetNumOutputs(aclmdlDesc* handle) {
  Call call("aclmdlGetNumOutputs");
  auto desc = DescOf(handle);
  return call.injected() || desc == nullptr ? 0 : desc->info->outputs.size();
}
SIMACL_EXPORT size_t aclmdlGetInputSizeByIndex(aclmdlDesc* desc, size_t index) {
  return Field<size_t>("aclmdlGetInputSizeByIndex", desc, index, true, 0,
                       [](const Tensor& tensor) { return tensor.size; });
}
SIMACL_EXPORT size_t aclmdlGetOutputSizeByIndex(aclmdlDesc* desc, size_t index) {
  return Field<size_t>("aclmdlGetOutputSizeByIndex", desc, index, false, 0,
                       [](const Tensor& tensor) { return tensor.size; });
}
SIMACL_EXPORT aclDataType aclmdlGetInputDataType(const aclmdlDesc* desc, size_t index) {
  return Field<int>("aclmdlGetInputDataType", desc, index, true, -1,
                    [](const Tensor& tensor) { return tensor.dtype; });
}
SIMACL_EXPORT aclDataType aclmdlGetOutputDataType(const aclmdlDesc* desc, size_t index) {
  return Field<int>("aclmdlGetOutputDataType", desc, index, false, -1,
                    [](const Tensor& tensor) { return tensor.dtype; });
}
SIMACL_EXPORT aclFormat aclmdlGetInputFormat(const aclmdlDesc* desc, size_t index) {
  return Field<int>("aclmdlGetInputFormat", desc, index, true, -1,
                    [](const Tensor& tensor) { return tensor.format; });
}
SIMACL_EXPORT aclFormat aclmdlGetOutputFormat(const aclmdlDesc* desc, size_t index) {
  return Field<int>("aclmdlGetOutputFormat", desc, index, false, -1,
                    [](const Tensor& tensor) { return tensor.format; });
}
SIMACL_EXPORT aclError aclmdlGetInputDims(const aclmdlDesc* desc, size_t index,
                                          aclmdlIODims* dims) {
  SIMACL_ENTER(aclmdlGetInputDims);
  return Dims_(&call, desc, index, true, nullptr, dims);
}
SIMACL_EXPORT aclError aclmdlGetInputDimsV2(const aclmdlDesc* desc, size_t index,
                                            aclmdlIODims* dims) {
  SIMACL_ENTER(aclmdlGetInputDimsV2);
  return Dims_(&call, desc, index, true, nullptr, dims);
}
SIMACL_EXPORT aclError aclmdlGetOutputDims(const aclmdlDesc* desc, size_t index,
                                           aclmdlIODims* dims) {
  SIMACL_ENTER(aclmdlGetOutputDims);
  return Dims_(&call, desc, index, false, nullptr, dims);
}
SIMACL_EXPORT aclError aclmdlGetCurOutputDims(const aclmdlDesc* handle, size_t index,
                                              aclmdlIODims* dims) {
  SIMACL_ENTER(aclmdlGetCurOutputDims);
  auto desc = DescOf(handle);
  if (desc == nullptr || index >= desc->info->outputs.size()) return call.Return(kInvalidParam);
  const ModelInfo& info = *desc->info;
  if (info.mode == Mode::kDynamic) return call.Fail(kUnsupported, "EH0003: unknown-shape model");
  auto model = Get().models.find(desc->model);
  if (!info.HasShapeInput() || model == Get().models.end()) {
    return Dims_(&call, handle, index, false, nullptr, dims);
  }
  // Before the first gear is set: the largest.
  const size_t gear = std::min(info.GearIndex(model->second.last_gear), info.gears.size() - 1);
  return Dims_(&call, handle, index, false, &info.gear_outputs.at(gear).at(index), dims);
}
#if SIMACL_API >= 90
SIMACL_EXPORT aclError aclmdlGetInputDimsRange(const aclmdlDesc* desc, size_t index,
                                               aclmdlIODimsRange* range) {
  SIMACL_ENTER(aclmdlGetInputDimsRange);
  SIMACL_NEED(range);
  Tensor tensor;
  if (!GetTensor(desc, index, true, &tensor)) return call.Return(kInvalidParam);
  memset(range, 0, sizeof(*range));
  range->rangeCount = std::min<size_t>(tensor.range.size(), 128);
  for (size_t i = 0; i < range->rangeCount; ++i) {
    range->range[i][0] = tensor.range[i].first;
    range->range[i][1] = tensor.range[i].second;
  }
  return call.Return(kOk);
}
#endif
SIMACL_EXPORT const char* aclmdlGetInputNameByIndex(const aclmdlDesc* desc, size_t index) {
  return Name("aclmdlGetInputNameByIndex", desc, index, true);
}
SIMACL_EXPORT const char* aclmdlGetOutputNameByIndex(const aclmdlDesc* desc, size_t index) {
  return Name("aclmdlGetOutputNameByIndex", desc, index, false);
}
SIMACL_EXPORT const char* aclmdlGetTensorRealName(const aclmdlDesc* handle, const char* name) {
  thread_local std::string real;
  Call call("aclmdlGetTensorRealName");
  auto desc = DescOf(handle);
  if (call.injected() || desc == nullptr || name == nullptr) return nullptr;
  for (const bool input : {true, false}) {
    Tensor tensor;
    for (size_t i = 0; GetTensor(handle, i, input, &tensor); ++i) {
      if (ShownName(*desc, tensor, i, input) == name) {
        real = tensor.name;
        return real.c_str();
      }
    }
  }
  return nullptr;
}
SIMACL_EXPORT aclError aclmdlGetInputIndexByName(const aclmdlDesc* desc, const char* name,
                                                 size_t* index) {
  SIMACL_ENTER(aclmdlGetInputIndexByName);
  SIMACL_NEED(name);
  SIMACL_NEED(index);
  return IndexOf(&call, desc, name, true, index);
}
SIMACL_EXPORT aclError aclmdlGetOutputIndexByName(const aclmdlDesc* desc, const char* name,
                                                  size_t* index) {
  SIMACL_ENTER(aclmdlGetOutputIndexByName);
  SIMACL_NEED(name);
  SIMACL_NEED(index);
  return IndexOf(&call, desc, name, false, index);
}
SIMACL_EXPORT aclError aclmdlGetDynamicBatch(const aclmdlDesc* handle, aclmdlBatch* batch) {
  SIMACL_ENTER(aclmdlGetDynamicBatch);
  auto desc = DescOf(handle);
  if (desc == nullptr || batch == nullptr) return call.Return(kInvalidParam);
  memset(batch, 0, sizeof(*batch));
  if (desc->info->mode == Mode::kBatch) {
    for (const Dims& gear : desc->info->gears) batch->batch[batch->batchCount++] = gear.at(0);
  }
  return call.Return(kOk);
}
SIMACL_EXPORT aclError aclmdlGetDynamicHW(const aclmdlDesc* handle, size_t, aclmdlHW* hw) {
  SIMACL_ENTER(aclmdlGetDynamicHW);
  auto desc = DescOf(handle);
  if (desc == nullptr || hw == nullptr) return call.Return(kInvalidParam);
  memset(hw, 0, sizeof(*hw));
  if (desc->info->mode == Mode::kImage) {
    for (const Dims& gear : desc->info->gears) {
      hw->hw[hw->hwCount][0] = gear.at(0);
      hw->hw[hw->hwCount++][1] = gear.at(1);
    }
  }
  return call.Return(kOk);
}
SIMACL_EXPORT aclError aclmdlGetInputDynamicGearCount(const aclmdlDesc* handle, size_t index,
                                                      size_t* count) {
  SIMACL_ENTER(aclmdlGetInputDynamicGearCount);
  auto desc = DescOf(handle);
  if (desc == nullptr || count == nullptr || index != SIZE_MAX) {
    return call.Fail(kInvalidParam, "EH0001: index must be -1");
  }
  *count = desc->info->mode == Mode::kDims ? desc->info->gears.size() : 0;
  return call.Return(kOk);
}
SIMACL_EXPORT aclError aclmdlGetInputDynamicDims(const aclmdlDesc* handle, size_t index,
                                                 aclmdlIODims* dims, size_t count) {
  SIMACL_ENTER(aclmdlGetInputDynamicDims);
  auto desc = DescOf(handle);
  if (desc == nullptr || dims == nullptr || index != SIZE_MAX || count < desc->info->gears.size()) {
    return call.Fail(kInvalidParam, "EH0001: index must be -1 and the array large enough");
  }
  for (size_t i = 0; i < desc->info->gears.size() && desc->info->mode == Mode::kDims; ++i) {
    const Dims& gear = desc->info->gears[i];
    memset(&dims[i], 0, sizeof(dims[i]));
    dims[i].dimCount = std::min<size_t>(gear.size(), 128);
    std::copy_n(gear.begin(), dims[i].dimCount, dims[i].dims);
  }
  return call.Return(kOk);
}

// ---- tensor descriptions
SIMACL_EXPORT aclTensorDesc* aclCreateTensorDesc(aclDataType dtype, int count, const int64_t* dims,
                                                 aclFormat format) {
  Call call("aclCreateTensorDesc");
  if (call.injected() || count < 0 || count > 128 || (count > 0 && dims == nullptr)) return nullptr;
  auto desc = std::make_shared<TensorDesc>();
  desc->dtype = dtype;
  desc->format = format;
  desc->dims.assign(dims, dims + count);
  return AsPointer<aclTensorDesc>(Add(desc, Kind::kTensorDesc)->handle);
}
SIMACL_EXPORT void aclDestroyTensorDesc(const aclTensorDesc* handle) {
  Call call("aclDestroyTensorDesc", Call::Releases::kYes);
  auto desc = Find<TensorDesc>(handle, Kind::kTensorDesc);
  if (desc == nullptr) {
    Violation("aclDestroyTensorDesc of something else, or twice");
  } else if (desc->owner != 0) {
    Violation("tensor description that belongs to a dataset destroyed by the caller");
  } else {
    Remove(desc->handle);
  }
}

namespace {
std::shared_ptr<TensorDesc> Live(const aclTensorDesc* handle) {
  auto desc = Find<TensorDesc>(handle, Kind::kTensorDesc);
  if (desc == nullptr) Violation("stale tensor description used");
  return desc;
}
}  // namespace

SIMACL_EXPORT aclDataType aclGetTensorDescType(const aclTensorDesc* handle) {
  Call call("aclGetTensorDescType");
  auto desc = Live(handle);
  return call.injected() || desc == nullptr ? -1 : desc->dtype;
}
SIMACL_EXPORT aclFormat aclGetTensorDescFormat(const aclTensorDesc* handle) {
  Call call("aclGetTensorDescFormat");
  auto desc = Live(handle);
  return call.injected() || desc == nullptr ? -1 : desc->format;
}
SIMACL_EXPORT size_t aclGetTensorDescSize(const aclTensorDesc* handle) {
  Call call("aclGetTensorDescSize");
  auto desc = Live(handle);
  return call.injected() || desc == nullptr ? 0 : DimsBytes(desc->dtype, desc->dims);
}
SIMACL_EXPORT size_t aclGetTensorDescNumDims(const aclTensorDesc* handle) {
  Call call("aclGetTensorDescNumDims");
  auto desc = Live(handle);
  return call.injected() || desc == nullptr ? 0 : desc->dims.size();
}
SIMACL_EXPORT aclError aclGetTensorDescDimV2(const aclTensorDesc* handle, size_t index,
                                             int64_t* dim) {
  SIMACL_ENTER(aclGetTensorDescDimV2);
  SIMACL_NEED(dim);
  auto desc = Live(handle);
  if (desc == nullptr || index >= desc->dims.size()) return call.Return(kInvalidParam);
  *dim = desc->dims[index];
  return call.Return(kOk);
}
