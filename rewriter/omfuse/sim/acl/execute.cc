// Execution: checks what the real executor checks, then lets Python compute.
#include <cmath>
#include <cstring>

#include "acl_prototypes.h"
#include "state.h"

namespace simacl {

namespace {

struct Plan {
  uint32_t model = 0;
  int device = 0;
  std::shared_ptr<const ModelInfo> info;
  std::vector<void*> input_data;
  std::vector<Dims> input_dims;
  std::vector<void*> output_data;
  std::vector<size_t> output_size;
  std::vector<Dims> output_dims;  // what the gear or the static shape says; empty when dynamic
  uint64_t outputs = 0;           // dataset handle
  bool poisoned = false;
};

std::shared_ptr<DataBuffer> BufferAt(const Dataset& dataset, size_t index) {
  return Find<DataBuffer>(AsPointer(dataset.buffers[index]), Kind::kDataBuffer);
}

// Shapes of the inputs in this run, by the model's shape mode.
int InputDims(Call* call, const Model& model, Dataset* inputs, std::vector<Dims>* dims) {
  const ModelInfo& info = *model.info;
  if (info.HasShapeInput() && (inputs->gear.empty() || inputs->gear_model != model.id)) {
    return call->Fail(kGeParam, "E19999: no gear was set for this run");
  }
  const size_t gear = info.GearIndex(inputs->gear);
  for (size_t i = 0; i < info.inputs.size(); ++i) {
    const Tensor& tensor = info.inputs[i];
    Dims actual = info.HasShapeInput() ? info.gear_inputs.at(gear).at(i) : tensor.dims;
    if (info.mode == Mode::kDynamic) {
      if (inputs->shapes.count(i)) actual = inputs->shapes[i].dims;
      if (!InRange(tensor, actual)) {
        return call->Fail(kInvalidParam, "E13025: Input tensor is invalid. Reason: shape " +
                                             DimsText(actual) + " of input " + std::to_string(i) +
                                             " is not in the range of the model.");
      }
    }
    dims->push_back(actual);
  }
  return kOk;
}

int Prepare(Call* call, uint32_t id, const aclmdlDataset* in, aclmdlDataset* out, bool sync,
            Plan* plan) {
  World& world = Get();
  if (const int code = CheckContext(call)) return code;
  auto found = world.models.find(id);
  if (found == world.models.end()) return call->Fail(kModelId, "E19999: no such model");
  Model& model = found->second;
  auto inputs = Find<Dataset>(in, Kind::kDataset);
  auto outputs = Find<Dataset>(out, Kind::kDataset);
  if (inputs == nullptr || outputs == nullptr) {
    return call->Fail(kInvalidParam, "EH0002: Argument dataset must not be null.");
  }
  const ModelInfo& info = *model.info;
  if (inputs->buffers.size() < info.inputs.size() + (info.HasShapeInput() ? 1 : 0) ||
      outputs->buffers.size() < info.outputs.size()) {
    return call->Fail(kInvalidParam, "EH0001: number of buffers is smaller than the model needs");
  }
  if (model.context != CurrentContextHandle()) Violation("model executed in another context");
  if (const int code = InputDims(call, model, inputs.get(), &plan->input_dims)) return code;
  for (size_t i = 0; i < info.inputs.size(); ++i) {
    auto buffer = BufferAt(*inputs, i);
    const size_t needed = DimsBytes(info.inputs[i].dtype, plan->input_dims[i]);
    if (buffer == nullptr || (buffer->data == nullptr && needed > 0)) {
      return call->Fail(kInvalidParam, "EH0002: data of input " + std::to_string(i) + " is null");
    }
    if (buffer->size + 64 < needed) {
      return call->Fail(static_cast<int>(world.Get("short_input_code")),
                        "E13025: Input tensor is invalid. Reason: Input " + std::to_string(i) +
                            " has " + std::to_string(buffer->size) + " bytes but needs " +
                            std::to_string(needed) + ".");
    }
    if (buffer->size < needed) Violation("input buffer smaller than the input");
    plan->input_data.push_back(buffer->data);
  }
  if (info.HasShapeInput()) plan->output_dims = info.gear_outputs.at(info.GearIndex(inputs->gear));
  for (size_t i = 0; i < info.outputs.size(); ++i) {
    auto buffer = BufferAt(*outputs, i);
    if (buffer == nullptr) return call->Fail(kInvalidParam, "EH0002: output buffer is null");
    if (info.mode == Mode::kStatic) plan->output_dims.push_back(info.outputs[i].dims);
    // The real library allocates outputs of known size before it runs, whatever happens next.
    if (buffer->data == nullptr && sync && info.outputs[i].size > 0) {
      buffer->data = AsPointer(AllocateDevice(info.outputs[i].size, model.device, true));
      buffer->size = info.outputs[i].size;
      if (buffer->data == nullptr) {
        buffer->size = 0;
        return call->Fail(kDeviceMemory, "EL0004: Failed to allocate memory for an output.");
      }
    }
    if (buffer->data == nullptr && !sync) Violation("asynchronous run without an output buffer");
    plan->output_data.push_back(buffer->data);
    plan->output_size.push_back(buffer->size);
  }
  inputs->gear.clear();  // has to be set again for the next run
  plan->model = id;
  plan->device = model.device;
  plan->info = model.info;
  plan->outputs = outputs->handle;
  return kOk;
}

Status Store(const Plan& plan, KernelCall* call, bool sync) {
  const ModelInfo& info = *plan.info;
  auto outputs = Find<Dataset>(AsPointer(plan.outputs), Kind::kDataset);
  for (size_t i = 0; i < info.outputs.size(); ++i) {
    Produced& made = call->outputs[i];
    if (!made.set) return {kGeFailure, "E19999: the kernel gave no output " + std::to_string(i)};
    if (info.mode != Mode::kDynamic && made.dims != plan.output_dims[i]) {
      return {kGeFailure, "E19999: output " + std::to_string(i) + " has shape " +
                              DimsText(made.dims) + ", the model says " +
                              DimsText(plan.output_dims[i])};
    }
    void* data = plan.output_data[i];
    size_t size = plan.output_size[i];
    auto buffer = outputs == nullptr ? nullptr : BufferAt(*outputs, i);
    if (data == nullptr && sync && buffer != nullptr) {
      // Of unknown size until now: memory from the library, owned by the caller.
      size = std::max<size_t>(made.bytes.size(), 1);
      data = AsPointer(AllocateDevice(size, Get().models.at(plan.model).device, true));
      if (data == nullptr) return {kDeviceMemory, "EL0004: Failed to allocate memory for output"};
      buffer->data = data;
      buffer->size = size;
    }
    if (data != nullptr && size < made.bytes.size()) {
      return {kGeFailure, "E13031: Output tensor is invalid. Reason: Output " + std::to_string(i) +
                              " needs " + std::to_string(made.bytes.size()) +
                              " bytes but the buffer has " + std::to_string(size) + "."};
    }
    if (data != nullptr && !made.bytes.empty()) {
      uint8_t* bytes = ResolveDevice(AsHandle(data), made.bytes.size());
      if (bytes == nullptr)
        return {kCoreException, "EZ9999: aicore exception, write outside memory"};
      if (plan.poisoned) {
        memset(bytes, 0xA5, made.bytes.size());
      } else {
        memcpy(bytes, made.bytes.data(), made.bytes.size());
      }
    }
    if (info.mode == Mode::kDynamic && outputs != nullptr) {
      if (outputs->descs.count(i)) Remove(outputs->descs[i]);  // a new one after every run
      outputs->descs.erase(i);
      outputs->shapes[i] = {info.outputs[i].dtype, made.dims};
    }
  }
  return {};
}

Status Compute(const Plan& plan, bool sync, double deadline, Lock* lock) {
  World& world = Get();
  int64_t delay = world.Get("exec_us");
  const Status fault = DeviceFault("exec", &delay);
  if (!Spend(delay, deadline, lock)) return {kStreamTimeout, "EE1002: Stream synchronize timeout."};
  if (fault.code != kOk) {
    if (world.Get("sticky")) world.dead[plan.device] = fault.code;
    return fault;
  }
  std::vector<std::vector<uint8_t>> copies(plan.input_data.size());
  std::vector<HostTensor> tensors;
  for (size_t i = 0; i < plan.input_data.size(); ++i) {
    const Dims& dims = plan.input_dims[i];
    const size_t size = DimsBytes(plan.info->inputs[i].dtype, dims);
    const uint8_t* bytes = size == 0 ? nullptr : ResolveDevice(AsHandle(plan.input_data[i]), size);
    if (size > 0 && bytes == nullptr) {
      return {kCoreException, "EZ9999: aicore exception, read outside live device memory"};
    }
    copies[i].assign(bytes, bytes + size);
    tensors.push_back({copies[i].data(), size, plan.info->inputs[i].dtype,
                       static_cast<int>(dims.size()), dims.data()});
  }
  KernelCall call;
  call.outputs.resize(plan.info->outputs.size());
  lock->unlock();
  RunKernel(plan.model, tensors, &call);
  lock->lock();
  return call.status.code != kOk ? call.status : Store(plan, &call, sync);
}

// Work memory of a model belongs to one run at a time.
bool WorkspaceBusy(const Model& model) {
  for (const auto& [id, other] : Get().models) {
    if (id != model.id && model.work != 0 && other.work == model.work && other.in_flight > 0) {
      Violation("workspace shared with a model that is running");
      return true;
    }
  }
  return false;
}

// An injected failure of a synchronous run. The real library has allocated the outputs by then.
int FailNow(Call* call, uint32_t id, const aclmdlDataset* in, aclmdlDataset* out) {
  const char* text = TakeMessage();
  const std::string kept = text == nullptr ? "" : text;
  Plan plan;
  Prepare(call, id, in, out, true, &plan);
  SetMessage(kept);
  return call->Return(call->injected());
}

int ExecuteNow(Call* call, uint32_t id, const aclmdlDataset* in, aclmdlDataset* out,
               int64_t timeout_us) {
  Plan plan;
  if (const int code = Prepare(call, id, in, out, true, &plan)) return code;
  Model& model = Get().models[id];
  if (model.in_flight > 0) {
    Violation("model executed while another run of it is in flight");
    plan.poisoned = true;
  }
  if (WorkspaceBusy(model)) plan.poisoned = true;
  ++model.in_flight;
  const double deadline = timeout_us < 0 ? INFINITY : NowUs() + static_cast<double>(timeout_us);
  Status status = Compute(plan, true, deadline, &call->lock());
  if (status.code == kOk && NowUs() >= deadline) {
    status = {kStreamTimeout, "EE1002: Stream synchronize timeout."};
  }
  auto found = Get().models.find(id);
  if (found != Get().models.end()) --found->second.in_flight;
  if (status.code != kOk) return call->Fail(status.code, status.text);
  return call->Return(kOk);
}

int ExecuteLater(Call* call, uint32_t id, const aclmdlDataset* in, aclmdlDataset* out,
                 aclrtStream handle) {
  int code = kOk;
  auto stream = FindStream(call, handle, &code);
  if (stream == nullptr) return code;
  auto plan = std::make_shared<Plan>();
  code = Prepare(call, id, in, out, false, plan.get());
  if (code != kOk) return code;
  Model& model = Get().models[id];
  if (model.in_flight > 0 && model.flight_stream != stream->handle) {
    Violation("model executed on two streams at the same time");
    plan->poisoned = true;
  }
  if (WorkspaceBusy(model)) plan->poisoned = true;
  ++model.in_flight;
  model.flight_stream = stream->handle;
  Op op;
  op.what = "execute";
  op.dropped = [plan] {
    auto found = Get().models.find(plan->model);
    if (found != Get().models.end()) --found->second.in_flight;
  };
  op.run = [plan, ended = op.dropped](Lock* lock) {
    const Status status = Compute(*plan, false, INFINITY, lock);
    ended();
    return status;
  };
  // The time of the run belongs to the operation, so that waiting with a time-out can give up.
  op.delay_us = Get().Get("async_exec_us");
  Enqueue(stream.get(), std::move(op));
  return call->Return(kOk);
}

std::shared_ptr<Config> ExecConfig(Call* call, const aclmdlExecConfigHandle* handle, int* code) {
  auto config = Find<Config>(handle, Kind::kExecConfig);
  if (config == nullptr) *code = call->Fail(kInvalidParam, "EH0002: handle must not be null.");
  return config;
}

}  // namespace
}  // namespace simacl

using namespace simacl;

SIMACL_EXPORT aclError aclmdlExecute(uint32_t id, const aclmdlDataset* in, aclmdlDataset* out) {
  Call call("aclmdlExecute");
  if (call.injected() != kOk) return FailNow(&call, id, in, out);
  return ExecuteNow(&call, id, in, out, -1);
}

SIMACL_EXPORT aclError aclmdlExecuteV2(uint32_t id, const aclmdlDataset* in, aclmdlDataset* out,
                                       aclrtStream, const aclmdlExecConfigHandle* handle) {
  Call call("aclmdlExecuteV2");
  if (call.injected() != kOk) return FailNow(&call, id, in, out);
  int code = kOk;
  auto config = ExecConfig(&call, handle, &code);
  if (config == nullptr) return code;
  int32_t ms = -1;
  if (config->values.count(0)) memcpy(&ms, config->values[0].data(), sizeof(ms));
  return ExecuteNow(&call, id, in, out, ms < 0 ? -1 : int64_t{ms} * 1000);
}

SIMACL_EXPORT aclError aclmdlExecuteAsync(uint32_t id, const aclmdlDataset* in, aclmdlDataset* out,
                                          aclrtStream stream) {
  SIMACL_ENTER(aclmdlExecuteAsync);
  return ExecuteLater(&call, id, in, out, stream);
}

SIMACL_EXPORT aclError aclmdlExecuteAsyncV2(uint32_t id, const aclmdlDataset* in,
                                            aclmdlDataset* out, aclrtStream stream,
                                            const aclmdlExecConfigHandle* handle) {
  SIMACL_ENTER(aclmdlExecuteAsyncV2);
  int code = kOk;
  if (ExecConfig(&call, handle, &code) == nullptr) return code;
  return ExecuteLater(&call, id, in, out, stream);
}

SIMACL_EXPORT aclmdlExecConfigHandle* aclmdlCreateExecConfigHandle() {
  Call call("aclmdlCreateExecConfigHandle");
  if (call.injected()) return nullptr;
  return AsPointer<aclmdlExecConfigHandle>(
      Add(std::make_shared<Config>(), Kind::kExecConfig)->handle);
}
SIMACL_EXPORT aclError aclmdlDestroyExecConfigHandle(const aclmdlExecConfigHandle* handle) {
  SIMACL_RELEASE(aclmdlDestroyExecConfigHandle);
  if (Find<Config>(handle, Kind::kExecConfig) == nullptr) return call.Return(kInvalidParam);
  Remove(AsHandle(handle));
  return call.Return(kOk);
}
SIMACL_EXPORT aclError aclmdlSetExecConfigOpt(aclmdlExecConfigHandle* handle,
                                              aclmdlExecConfigAttr attribute, const void* value,
                                              size_t size) {
  SIMACL_ENTER(aclmdlSetExecConfigOpt);
  auto config = Find<Config>(handle, Kind::kExecConfig);
  if (config == nullptr || value == nullptr || attribute < 0 || attribute > 1 || size != 4) {
    return call.Return(kInvalidParam);
  }
  config->values[attribute].assign(static_cast<const char*>(value), size);
  return call.Return(kOk);
}
