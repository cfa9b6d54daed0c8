// Loading and describing models. The container is checked here; what the model holds is read by
// the loader that Python registers, which answers with a small text description.
#include <algorithm>
#include <cstring>
#include <fstream>

#include "acl_prototypes.h"
#include "control.h"
#include "state.h"

namespace simacl {

size_t ElementSize(int dtype) {
  switch (dtype) {
    case 2:
    case 4:
    case 12:
    case 35:
    case 36:
      return 1;
    case 1:
    case 6:
    case 7:
    case 27:
      return 2;
    case 0:
    case 3:
    case 8:
      return 4;
    case 9:
    case 10:
    case 11:
    case 16:
      return 8;
    case 17:
      return 16;
    default:
      return 0;
  }
}

size_t DimsBytes(int dtype, const Dims& dims) {
  size_t count = ElementSize(dtype);
  for (const int64_t dim : dims) count *= dim < 0 ? 0 : static_cast<size_t>(dim);
  return count;
}

std::string DimsText(const Dims& dims) {
  std::string text = "[";
  for (size_t i = 0; i < dims.size(); ++i) text += (i ? "," : "") + std::to_string(dims[i]);
  return text + "]";
}

size_t ModelInfo::GearIndex(const Dims& gear) const {
  return static_cast<size_t>(std::find(gears.begin(), gears.end(), gear) - gears.begin());
}

bool InRange(const Tensor& tensor, const Dims& dims) {
  if (dims.size() != tensor.dims.size()) return false;
  for (size_t i = 0; i < dims.size(); ++i) {
    if (tensor.dims[i] >= 0 && dims[i] != tensor.dims[i]) return false;
    if (tensor.dims[i] < 0 && i < tensor.range.size()) {
      const auto& [low, high] = tensor.range[i];
      if (dims[i] < low || (high >= 0 && dims[i] > high)) return false;
    }
    if (dims[i] < 0) return false;
  }
  return true;
}

namespace {

Dims ParseDims(const std::string& text) {
  Dims dims;
  for (const std::string& part : SplitText(text, ',')) {
    if (!part.empty()) dims.push_back(std::stoll(part));
  }
  return dims;
}

std::vector<Dims> ParseDimsList(const std::vector<std::string>& field, size_t count) {
  std::vector<Dims> list;
  for (size_t i = 1; i < field.size(); ++i) list.push_back(ParseDims(field[i]));
  list.resize(count);  // a scalar at the end leaves no field
  return list;
}

Tensor ParseTensor(const std::vector<std::string>& field) {
  Tensor tensor;
  tensor.name = field.at(1);
  tensor.dtype = std::stoi(field.at(2));
  tensor.format = std::stoi(field.at(3));
  tensor.size = std::stoull(field.at(4));
  if (field.size() > 5) tensor.dims = ParseDims(field[5]);
  if (field.size() > 6) {
    for (const std::string& pair : SplitText(field[6], ',')) {
      const size_t mark = pair.find('~');
      tensor.range.emplace_back(std::stoll(pair), std::stoll(pair.substr(mark + 1)));
    }
  }
  return tensor;
}

std::shared_ptr<ModelInfo> Parse(const std::string& text, Status* status) {
  auto info = std::make_shared<ModelInfo>();
  for (const std::string& line : SplitText(text, '\n')) {
    const std::vector<std::string> field = SplitText(line, '\t');
    if (field.empty()) continue;
    const std::string& key = field[0];
    if (key == "error") {
      *status = {std::stoi(field.at(1)), field.size() > 2 ? field[2] : ""};
      return nullptr;
    } else if (key == "mode") {
      const std::vector<std::string> names = {"static", "batch", "image", "dims", "dynamic"};
      info->mode =
          static_cast<Mode>(std::find(names.begin(), names.end(), field.at(1)) - names.begin());
    } else if (key == "soc") {
      info->soc = field.size() > 1 ? field[1] : "";
    } else if (key == "size") {
      info->work = std::stoull(field.at(1));
      info->weight = std::stoull(field.at(2));
    } else if (key == "input") {
      info->inputs.push_back(ParseTensor(field));
    } else if (key == "output") {
      info->outputs.push_back(ParseTensor(field));
    } else if (key == "gear") {
      info->gears.push_back(ParseDims(field.at(1)));
    } else if (key == "gearnumbers") {
      info->gear_numbers = std::stoull(field.at(1));
    } else if (key == "gearin") {
      info->gear_inputs.push_back(ParseDimsList(field, info->inputs.size()));
    } else if (key == "gearout") {
      info->gear_outputs.push_back(ParseDimsList(field, info->outputs.size()));
    }
  }
  if (info->HasShapeInput() &&
      (info->gears.empty() || info->gear_inputs.size() != info->gears.size() ||
       info->gear_outputs.size() != info->gears.size())) {
    *status = {kModelData, "E19999: the gears of the model are incomplete"};
    return nullptr;
  }
  if (info->inputs.empty() && info->outputs.empty()) {
    *status = {kModelData, "E19999: the model holds no description"};
    return nullptr;
  }
  return info;
}

// The checks that the real loader makes before it looks inside.
Status CheckContainer(const uint8_t* data, size_t size) {
  if (size < 256) return {kModelData, "EZ9999: model data size is smaller than the header"};
  uint32_t magic, head, old_length;
  uint64_t length;
  memcpy(&magic, data, 4);
  memcpy(&head, data + 4, 4);
  memcpy(&old_length, data + 76, 4);
  memcpy(&length, data + 184, 8);
  if (magic != 0x444F4D49 || head != 256) return {kModelData, "EZ9999: wrong magic of the model"};
  if (length == 0) length = old_length;
  if (size - 256 != length)
    return {kModelData, "EZ9999: model data is shorter or longer than its header says"};
  return {};
}

}  // namespace

std::shared_ptr<const ModelInfo> Describe(const char* path, const void* data, size_t size,
                                          uint64_t key, Status* status, Lock* lock) {
  std::vector<uint8_t> bytes;
  if (path != nullptr) {
    std::ifstream file(path, std::ios::binary);
    if (!file || file.peek() == EOF) {  // a folder opens, and cannot be read
      *status = {kModelPath, "E10001: cannot read the model file " + std::string(path)};
      return nullptr;
    }
    bytes.assign(std::istreambuf_iterator<char>(file), {});
    data = bytes.data();
    size = bytes.size();
  }
  *status = CheckContainer(static_cast<const uint8_t*>(data), size);
  if (status->code != kOk) return nullptr;
  lock->unlock();
  const std::string text = CallLoader(key, path, data, size);
  lock->lock();
  if (text.empty()) {
    *status = {kLoadFailed, "E19999: no loader is registered with the simulated device"};
    return nullptr;
  }
  auto info = Parse(text, status);
  if (info == nullptr) return nullptr;
  const std::string& soc = Get().text_config["soc"];
  if (!soc.empty() && !info->soc.empty() && soc != info->soc) {
    *status = {kLoadFailed, "E19999: model is for " + info->soc + ", the device is " + soc};
    ForgetModel(key, lock);
    return nullptr;
  }
  return info;
}

namespace {

int Load(Call* call, const char* path, const void* data, size_t size, uint32_t* out,
         const void* work, size_t work_size, const void* weight, size_t weight_size, bool own) {
  World& world = Get();
  if (world.init_count == 0) return call->Fail(kGeNotInit, "EH0003: aclInit was not called");
  if (const int code = CheckContext(call)) return code;
  if (out == nullptr || (path == nullptr && data == nullptr)) {
    return call->Fail(path == nullptr ? kModelPath : kInvalidParam, "EH0002: must not be null.");
  }
  Model model;
  model.id = world.next_model++;
  Status status;
  model.info = Describe(path, data, size, model.id, &status, &call->lock());
  if (model.info == nullptr) return call->Fail(status.code, status.text);
  model.born = world.seq;
  model.thread = ThreadNumber();
  model.context = CurrentContextHandle();
  model.device = CurrentContext()->device;
  if (own) {
    model.own_bytes = model.info->work + model.info->weight;
    if (!HasRoom(model.device, model.own_bytes)) {
      ForgetModel(model.id, &call->lock());
      return call->Fail(kDeviceMemory, "EL0004: Failed to allocate memory for the model.");
    }
    Charge(model.device, model.own_bytes);
  } else {
    const bool short_work = work_size < model.info->work;
    if (short_work || weight_size < model.info->weight) {
      ForgetModel(model.id, &call->lock());
      return call->Fail(kGeParam, short_work ? "E19999: work memory is too small"
                                             : "E19999: weight memory is too small");
    }
    model.work = AsHandle(work);
    model.weight = AsHandle(weight);
    const std::pair<uintptr_t, size_t> blocks[] = {{model.work, model.info->work},
                                                   {model.weight, model.info->weight}};
    for (const auto& [address, needed] : blocks) {
      if (needed > 0 && ResolveDevice(address, needed) == nullptr) {
        Violation("memory given to a model is not that much device memory");
      }
    }
  }
  world.models[model.id] = model;
  *out = model.id;
  return call->Return(kOk);
}

int QuerySize(Call* call, const char* path, const void* data, size_t size, size_t* work,
              size_t* weight) {
  Status status;
  auto info = Describe(path, data, size, 0, &status, &call->lock());
  if (info == nullptr) return call->Fail(status.code, status.text);
  if (info->mode == Mode::kDynamic) return call->Fail(kGeParam, "E19999: unknown-shape model");
  *work = info->work;
  *weight = info->weight;
  return call->Return(kOk);
}

}  // namespace
}  // namespace simacl

using namespace simacl;

SIMACL_EXPORT aclError aclmdlLoadFromFile(const char* path, uint32_t* id) {
  SIMACL_ENTER(aclmdlLoadFromFile);
  return Load(&call, path, nullptr, 0, id, nullptr, 0, nullptr, 0, true);
}
SIMACL_EXPORT aclError aclmdlLoadFromMem(const void* data, size_t size, uint32_t* id) {
  SIMACL_ENTER(aclmdlLoadFromMem);
  return Load(&call, nullptr, data, size, id, nullptr, 0, nullptr, 0, true);
}
SIMACL_EXPORT aclError aclmdlLoadFromFileWithMem(const char* path, uint32_t* id, void* work,
                                                 size_t work_size, void* weight,
                                                 size_t weight_size) {
  SIMACL_ENTER(aclmdlLoadFromFileWithMem);
  return Load(&call, path, nullptr, 0, id, work, work_size, weight, weight_size, false);
}
SIMACL_EXPORT aclError aclmdlLoadFromMemWithMem(const void* data, size_t size, uint32_t* id,
                                                void* work, size_t work_size, void* weight,
                                                size_t weight_size) {
  SIMACL_ENTER(aclmdlLoadFromMemWithMem);
  return Load(&call, nullptr, data, size, id, work, work_size, weight, weight_size, false);
}
SIMACL_EXPORT aclError aclmdlQuerySize(const char* path, size_t* work, size_t* weight) {
  SIMACL_ENTER(aclmdlQuerySize);
  SIMACL_NEED(work);
  SIMACL_NEED(weight);
  if (path == nullptr) return call.Return(kModelPath);
  return QuerySize(&call, path, nullptr, 0, work, weight);
}
SIMACL_EXPORT aclError aclmdlQuerySizeFromMem(const void* data, size_t size, size_t* work,
                                              size_t* weight) {
  SIMACL_ENTER(aclmdlQuerySizeFromMem);
  SIMACL_NEED(work);
  SIMACL_NEED(weight);
  if (data == nullptr) return call.Return(kInvalidParam);
  return QuerySize(&call, nullptr, data, size, work, weight);
}

SIMACL_EXPORT aclError aclmdlUnload(uint32_t id) {
  SIMACL_RELEASE(aclmdlUnload);
  if (const int code = CheckContext(&call)) return code;
  World& world = Get();
  auto found = world.models.find(id);
  if (found == world.models.end()) return call.Fail(kModelId, "E19999: no such model");
  if (found->second.context != CurrentContextHandle())
    Violation("model unloaded in another context");
  if (found->second.in_flight > 0) Violation("model unloaded while it runs");
  Refund(found->second.device, found->second.own_bytes);
  world.models.erase(found);
  ForgetModel(id, &call.lock());
  return call.Return(kOk);
}

// Load with a configuration handle: the file route only.
SIMACL_EXPORT aclmdlConfigHandle* aclmdlCreateConfigHandle() {
  Call call("aclmdlCreateConfigHandle");
  if (call.injected()) return nullptr;
  return AsPointer<aclmdlConfigHandle>(Add(std::make_shared<Config>(), Kind::kConfig)->handle);
}
SIMACL_EXPORT aclError aclmdlDestroyConfigHandle(aclmdlConfigHandle* handle) {
  SIMACL_RELEASE(aclmdlDestroyConfigHandle);
  if (Find<Config>(handle, Kind::kConfig) == nullptr) return call.Return(kInvalidParam);
  Remove(AsHandle(handle));
  return call.Return(kOk);
}
SIMACL_EXPORT aclError aclmdlSetConfigOpt(aclmdlConfigHandle* handle, aclmdlConfigAttr attribute,
                                          const void* value, size_t size) {
  SIMACL_ENTER(aclmdlSetConfigOpt);
  auto config = Find<Config>(handle, Kind::kConfig);
  if (config == nullptr || value == nullptr) return call.Return(kInvalidParam);
  // A path is passed by the address of the char pointer.
  if (attribute == 2) {
    config->values[attribute] = *static_cast<const char* const*>(value);
  } else {
    config->values[attribute].assign(static_cast<const char*>(value), size);
  }
  return call.Return(kOk);
}
SIMACL_EXPORT aclError aclmdlLoadWithConfig(const aclmdlConfigHandle* handle, uint32_t* id) {
  SIMACL_ENTER(aclmdlLoadWithConfig);
  auto config = Find<Config>(handle, Kind::kConfig);
  if (config == nullptr) return call.Return(kInvalidParam);
  const std::string& type = config->values[1];
  if (type.size() != sizeof(size_t) || type[0] != 1) {
    return call.Fail(kUnsupported, "the simulated device loads from a file only here");
  }
  const std::string path = config->values[2];
  return Load(&call, path.c_str(), nullptr, 0, id, nullptr, 0, nullptr, 0, true);
}
