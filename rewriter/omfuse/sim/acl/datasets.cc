// Data buffers, datasets, and the calls that choose a shape for the next run.
#include <cstring>

#include "acl_prototypes.h"
#include "state.h"

using namespace simacl;

namespace {

bool InDataset(uint64_t buffer) {
  for (const auto& [handle, object] : Get().objects) {
    if (object->kind != Kind::kDataset) continue;
    for (const uint64_t member : static_cast<Dataset*>(object.get())->buffers) {
      if (member == buffer) return true;
    }
  }
  return false;
}

// Stores the gear and writes it to the hidden input, as the real call does with a synchronous copy.
int SetGear(Call* call, uint32_t id, aclmdlDataset* handle, size_t index, const Dims& shown,
            const Dims& gear) {
  if (const int code = CheckContext(call)) return code;  // it copies to the device
  auto dataset = Find<Dataset>(handle, Kind::kDataset);
  if (dataset == nullptr || index >= dataset->buffers.size()) return call->Return(kInvalidParam);
  auto model = Get().models.find(id);
  if (model == Get().models.end()) return call->Fail(kModelId, "E19999: no such model");
  const ModelInfo& info = *model->second.info;
  if (!info.HasShapeInput()) return call->Fail(kDynGear, "E19999: not a model with gears");
  if (index != info.inputs.size()) return call->Fail(kInvalidParam, "EH0001: not the shape input");
  auto buffer = Find<DataBuffer>(AsPointer(dataset->buffers[index]), Kind::kDataBuffer);
  if (buffer == nullptr || buffer->data == nullptr) return call->Return(kInvalidParam);
  if (buffer->size < shown.size() * 8) return call->Fail(kDynLength, "E19999: buffer too short");
  if (info.GearIndex(gear) == info.gears.size()) {
    return call->Fail(kDynGear, "E19999: gear " + DimsText(gear) + " was not compiled");
  }
  uint8_t* bytes = ResolveDevice(AsHandle(buffer->data), shown.size() * 8);
  if (bytes == nullptr) return call->Fail(kCopyError, "EZ9999: shape buffer is not device memory");
  memcpy(bytes, shown.data(), shown.size() * 8);
  dataset->gear = gear;
  dataset->gear_model = id;
  model->second.last_gear = gear;
  return call->Return(kOk);
}

}  // namespace

SIMACL_EXPORT aclDataBuffer* aclCreateDataBuffer(void* data, size_t size) {
  Call call("aclCreateDataBuffer");
  if (call.injected()) return nullptr;
  auto buffer = std::make_shared<DataBuffer>();
  buffer->data = data;
  buffer->size = size;
  return AsPointer<aclDataBuffer>(Add(buffer, Kind::kDataBuffer)->handle);
}
SIMACL_EXPORT aclError aclDestroyDataBuffer(const aclDataBuffer* handle) {
  SIMACL_RELEASE(aclDestroyDataBuffer);
  if (Find<DataBuffer>(handle, Kind::kDataBuffer) == nullptr) return call.Return(kInvalidParam);
  if (InDataset(AsHandle(handle))) Violation("data buffer destroyed while a dataset holds it");
  Remove(AsHandle(handle));
  return call.Return(kOk);
}
SIMACL_EXPORT aclError aclUpdateDataBuffer(aclDataBuffer* handle, void* data, size_t size) {
  SIMACL_ENTER(aclUpdateDataBuffer);
  auto buffer = Find<DataBuffer>(handle, Kind::kDataBuffer);
  if (buffer == nullptr) return call.Return(kInvalidParam);
  buffer->data = data;
  buffer->size = size;
  return call.Return(kOk);
}
SIMACL_EXPORT void* aclGetDataBufferAddr(const aclDataBuffer* handle) {
  Call call("aclGetDataBufferAddr");
  if (call.named()) return nullptr;
  auto buffer = Find<DataBuffer>(handle, Kind::kDataBuffer);
  return buffer == nullptr ? nullptr : buffer->data;
}
SIMACL_EXPORT size_t aclGetDataBufferSizeV2(const aclDataBuffer* handle) {
  Call call("aclGetDataBufferSizeV2");
  if (call.named()) return 0;
  auto buffer = Find<DataBuffer>(handle, Kind::kDataBuffer);
  return buffer == nullptr ? 0 : buffer->size;
}

SIMACL_EXPORT aclmdlDataset* aclmdlCreateDataset() {
  Call call("aclmdlCreateDataset");
  if (call.injected()) return nullptr;
  return AsPointer<aclmdlDataset>(Add(std::make_shared<Dataset>(), Kind::kDataset)->handle);
}
SIMACL_EXPORT aclError aclmdlDestroyDataset(const aclmdlDataset* handle) {
  SIMACL_RELEASE(aclmdlDestroyDataset);
  auto dataset = Find<Dataset>(handle, Kind::kDataset);
  if (dataset == nullptr) return call.Return(kInvalidParam);
  for (const auto& [index, desc] : dataset->descs) Remove(desc);
  Remove(dataset->handle);
  return call.Return(kOk);
}
SIMACL_EXPORT aclError aclmdlAddDatasetBuffer(aclmdlDataset* handle, aclDataBuffer* buffer) {
  SIMACL_ENTER(aclmdlAddDatasetBuffer);
  auto dataset = Find<Dataset>(handle, Kind::kDataset);
  if (dataset == nullptr || Find<DataBuffer>(buffer, Kind::kDataBuffer) == nullptr) {
    return call.Return(kInvalidParam);
  }
  dataset->buffers.push_back(AsHandle(buffer));
  return call.Return(kOk);
}
SIMACL_EXPORT aclDataBuffer* aclmdlGetDatasetBuffer(const aclmdlDataset* handle, size_t index) {
  Call call("aclmdlGetDatasetBuffer");
  if (call.named()) return nullptr;
  auto dataset = Find<Dataset>(handle, Kind::kDataset);
  if (dataset == nullptr || index >= dataset->buffers.size()) return nullptr;
  return AsPointer<aclDataBuffer>(dataset->buffers[index]);
}
SIMACL_EXPORT size_t aclmdlGetDatasetNumBuffers(const aclmdlDataset* handle) {
  Call call("aclmdlGetDatasetNumBuffers");
  if (call.named()) return 0;
  auto dataset = Find<Dataset>(handle, Kind::kDataset);
  return dataset == nullptr ? 0 : dataset->buffers.size();
}
SIMACL_EXPORT aclError aclmdlSetDatasetTensorDesc(aclmdlDataset* handle, aclTensorDesc* desc_handle,
                                                  size_t index) {
  SIMACL_ENTER(aclmdlSetDatasetTensorDesc);
  auto dataset = Find<Dataset>(handle, Kind::kDataset);
  if (dataset == nullptr || index >= dataset->buffers.size()) return call.Return(kInvalidParam);
  if (dataset->descs.count(index)) Remove(dataset->descs[index]);
  dataset->descs.erase(index);
  dataset->shapes.erase(index);
  if (desc_handle == nullptr) return call.Return(kOk);
  auto desc = Find<TensorDesc>(desc_handle, Kind::kTensorDesc);
  if (desc == nullptr) return call.Return(kInvalidParam);
  dataset->shapes[index] = {desc->dtype, desc->dims};
  return call.Return(kOk);
}
SIMACL_EXPORT aclTensorDesc* aclmdlGetDatasetTensorDesc(const aclmdlDataset* handle, size_t index) {
  Call call("aclmdlGetDatasetTensorDesc");
  auto dataset = Find<Dataset>(handle, Kind::kDataset);
  if (call.injected() || dataset == nullptr || dataset->shapes.count(index) == 0) return nullptr;
  if (dataset->descs.count(index) == 0) {
    auto desc = std::make_shared<TensorDesc>();
    desc->dtype = dataset->shapes[index].dtype;
    desc->dims = dataset->shapes[index].dims;
    desc->owner = dataset->handle;
    dataset->descs[index] = Add(desc, Kind::kTensorDesc)->handle;
  }
  return AsPointer<aclTensorDesc>(dataset->descs[index]);
}

SIMACL_EXPORT aclError aclmdlSetDynamicBatchSize(uint32_t id, aclmdlDataset* dataset, size_t index,
                                                 uint64_t batch) {
  SIMACL_ENTER(aclmdlSetDynamicBatchSize);
  if (batch == 0) return call.Fail(kInvalidParam, "EH0001: batchSize is 0");
  const Dims gear = {static_cast<int64_t>(batch)};
  return SetGear(&call, id, dataset, index, gear, gear);
}
SIMACL_EXPORT aclError aclmdlSetDynamicHWSize(uint32_t id, aclmdlDataset* dataset, size_t index,
                                              uint64_t height, uint64_t width) {
  SIMACL_ENTER(aclmdlSetDynamicHWSize);
  if (height == 0 || width == 0) return call.Fail(kInvalidParam, "EH0001: height or width is 0");
  const Dims gear = {static_cast<int64_t>(height), static_cast<int64_t>(width)};
  return SetGear(&call, id, dataset, index, gear, gear);
}
SIMACL_EXPORT aclError aclmdlSetInputDynamicDims(uint32_t id, aclmdlDataset* dataset, size_t index,
                                                 const aclmdlIODims* dims) {
  SIMACL_ENTER(aclmdlSetInputDynamicDims);
  if (dims == nullptr || dims->dimCount == 0 || dims->dimCount > 128) {
    return call.Fail(kInvalidParam, "EH0001: dimCount is invalid");
  }
  const Dims gear(dims->dims, dims->dims + dims->dimCount);
  Dims open;  // only the sizes that the model leaves open reach the hidden input
  auto model = Get().models.find(id);
  if (model != Get().models.end() && model->second.info->mode == Mode::kDims) {
    Dims compiled;
    for (const Tensor& input : model->second.info->inputs) {
      compiled.insert(compiled.end(), input.dims.begin(), input.dims.end());
    }
    bool fits = compiled.size() == gear.size();
    for (size_t i = 0; fits && i < gear.size(); ++i) {
      fits = compiled[i] < 0 || compiled[i] == gear[i];
      if (compiled[i] < 0) open.push_back(gear[i]);
    }
    if (!fits) return call.Fail(kDynLength, "E19999: dims do not match the model");
  }
  return SetGear(&call, id, dataset, index, open, gear);
}
