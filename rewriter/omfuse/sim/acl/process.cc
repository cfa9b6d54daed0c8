// Process, devices and contexts.
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "acl_prototypes.h"
#include "state.h"

using namespace simacl;

namespace {

bool HoldsSomething() {
  const World& world = Get();
  return !world.objects.empty() || !world.blocks.empty() || !world.pinned.empty() ||
         !world.models.empty() || !world.device_refs.empty();
}

int ReleaseDevice(Call* call, int32_t device, bool all) {
  World& world = Get();
  auto found = world.device_refs.find(device);
  if (found == world.device_refs.end() || found->second == 0) {
    return call->Fail(kContextRelease, "EE9999: device is not set: context release failed");
  }
  if (!all && --found->second > 0) return call->Return(kOk);
  world.dead.erase(device);
  world.device_refs.erase(found);
  const uint64_t primary = world.primary[device];
  world.primary.erase(device);
  if (CurrentContextHandle() == primary) SetCurrentContextHandle(0);
  Remove(primary);
  for (auto& [handle, object] : world.objects) {
    auto context = object->kind == Kind::kContext ? static_cast<Context*>(object.get()) : nullptr;
    if (context != nullptr && context->device == device) Violation("device reset with a context");
  }
  for (auto& [address, block] : world.blocks) {
    if (block.device == device) {
      Violation("device reset with memory allocated");
      break;
    }
  }
  return call->Return(kOk);
}

int Finalize(Call* call, bool all) {
  World& world = Get();
  if (world.finalized && world.init_count == 0) {
    return call->Fail(kRepeatFinalize, "EH0003: repeated finalize");
  }
  // The reference count of nobody cannot sink; the older call succeeds once, as the real one does.
  if (world.init_count == 0 && !all) return call->Fail(kRepeatFinalize, "EH0003: no reference");
  if (world.init_count == 0) Violation("finalize before init");
  world.init_count = all ? 0 : std::max(0, world.init_count - 1);
  if (world.init_count == 0) {
    if (HoldsSomething()) Violation("finalize with live resources");
    world.finalized = true;
  }
  return call->Return(kOk);
}

}  // namespace

SIMACL_EXPORT aclError aclInit(const char* path) {
  SIMACL_ENTER(aclInit);
  World& world = Get();
  if (world.Get("stub")) return call.Return(kStubMode);
  std::string json;
  if (path != nullptr && path[0] != '\0') {
    std::ifstream file(path);
    if (!file) return call.Fail(kInvalidFile, "EH0005: cannot read the configuration file");
    json.assign(std::istreambuf_iterator<char>(file), {});
  }
  if (world.init_count == 0 && world.Get("foreign_init")) world.init_count = 1;
  if (world.init_count > 0) {
    if (json != world.init_json) {
      return call.Fail(kInvalidParam, "EH0004: config content differs from the first aclInit");
    }
#if SIMACL_API >= 90
    ++world.init_count;
#endif
    return call.Return(kRepeatInit);
  }
  world.init_count = 1;
  world.init_json = json;
  world.finalized = false;
  world.pid = getpid();
  return call.Return(kOk);
}

SIMACL_EXPORT aclError aclFinalize() {
  SIMACL_RELEASE(aclFinalize);
  return Finalize(&call, true);
}

#if SIMACL_API >= 90
SIMACL_EXPORT aclError aclFinalizeReference(uint64_t* count) {
  SIMACL_RELEASE(aclFinalizeReference);
  const int code = Finalize(&call, false);
  if (count != nullptr) *count = static_cast<uint64_t>(Get().init_count);
  return code;
}
#endif

SIMACL_EXPORT aclError aclrtGetVersion(int32_t* major, int32_t* minor, int32_t* patch) {
  SIMACL_ENTER(aclrtGetVersion);
  SIMACL_NEED(major);
  SIMACL_NEED(minor);
  SIMACL_NEED(patch);
  *major = 1;
  *minor = SIMACL_API >= 90 ? 15 : 13;
  *patch = 0;
  return call.Return(kOk);
}

SIMACL_EXPORT const char* aclrtGetSocName() {
  Call call("aclrtGetSocName");
  thread_local std::string name;
  const std::string& soc = Get().text_config["soc"];
  name = soc.empty() ? "Simulated" : soc;
  return call.injected() ? nullptr : name.c_str();
}

SIMACL_EXPORT const char* aclGetRecentErrMsg() {
  thread_local std::string said;
  {
    Lock lock(Get().mu);
    if (const Fault* fault = NamedFault("aclGetRecentErrMsg")) {
      said = fault->text;
      return fault->has_text ? said.c_str() : nullptr;
    }
  }
  return TakeMessage();
}

SIMACL_EXPORT aclError aclrtSetDevice(int32_t device) {
  SIMACL_ENTER(aclrtSetDevice);
  World& world = Get();
  if (world.init_count == 0) return call.Fail(kUninitialized, "EH0003: aclInit was not called");
  if (device < 0 || device >= world.Get("device_count")) {
    return call.Fail(kDeviceId, "EE1001: Invalid device ID " + std::to_string(device));
  }
  auto dead = world.dead.find(device);
  if (dead != world.dead.end()) return call.Fail(dead->second, "EE9999: the device is lost");
  if (world.device_refs[device]++ == 0) {
    auto context = std::make_shared<Context>();
    context->device = device;
    context->primary = true;
    world.primary[device] = Add(context, Kind::kContext)->handle;
  }
  SetCurrentContextHandle(world.primary[device]);
  return call.Return(kOk);
}

SIMACL_EXPORT aclError aclrtResetDevice(int32_t device) {
  SIMACL_RELEASE(aclrtResetDevice);
  return ReleaseDevice(&call, device, false);
}

SIMACL_EXPORT aclError aclrtResetDeviceForce(int32_t device) {
  SIMACL_RELEASE(aclrtResetDeviceForce);
  return ReleaseDevice(&call, device, true);
}

SIMACL_EXPORT aclError aclrtGetDevice(int32_t* device) {
  SIMACL_ENTER(aclrtGetDevice);
  SIMACL_NEED(device);
  if (const int code = CheckContext(&call)) return code;
  *device = CurrentContext()->device;
  return call.Return(kOk);
}

SIMACL_EXPORT aclError aclrtGetDeviceCount(uint32_t* count) {
  SIMACL_ENTER(aclrtGetDeviceCount);
  SIMACL_NEED(count);
  *count = static_cast<uint32_t>(Get().Get("device_count"));
  return call.Return(kOk);
}

SIMACL_EXPORT aclError aclrtGetRunMode(aclrtRunMode* mode) {
  SIMACL_ENTER(aclrtGetRunMode);
  SIMACL_NEED(mode);
  *mode = 1;
  return call.Return(kOk);
}

SIMACL_EXPORT aclError aclrtSetSysParamOpt(aclSysParamOpt, int64_t) {
  SIMACL_ENTER(aclrtSetSysParamOpt);
  if (const int code = CheckContext(&call)) return code;
  return call.Return(kOk);
}

SIMACL_EXPORT aclError aclrtCreateContext(aclrtContext* out, int32_t device) {
  SIMACL_ENTER(aclrtCreateContext);
  World& world = Get();
  if (out == nullptr) return call.Return(kInvalidParam);
  if (device < 0 || device >= world.Get("device_count") || world.device_refs.count(device) == 0) {
    return call.Fail(kDeviceId, "EE1001: Invalid device ID, or aclrtSetDevice was not called");
  }
  auto context = std::make_shared<Context>();
  context->device = device;
  *out = AsPointer(Add(context, Kind::kContext)->handle);
  SetCurrentContextHandle(context->handle);
  return call.Return(kOk);
}

SIMACL_EXPORT aclError aclrtDestroyContext(aclrtContext handle) {
  SIMACL_RELEASE(aclrtDestroyContext);
  if (handle == nullptr) return call.Return(kInvalidParam);
  auto context = Find<Context>(handle, Kind::kContext);
  if (context == nullptr || context->primary) {
    return call.Fail(kContextNull, "EE1010: no such context, or a primary one");
  }
  for (auto& [id, object] : Get().objects) {
    const uint64_t owner =
        object->kind == Kind::kStream  ? static_cast<Stream*>(object.get())->context
        : object->kind == Kind::kEvent ? static_cast<Event*>(object.get())->context
                                       : 0;
    if (owner == context->handle) {
      Violation(std::string("context destroyed with a live ") + KindName(object->kind));
    }
  }
  Remove(context->handle);
  if (CurrentContextHandle() == context->handle) SetCurrentContextHandle(0);
  return call.Return(kOk);
}

SIMACL_EXPORT aclError aclrtSetCurrentContext(aclrtContext handle) {
  SIMACL_ENTER(aclrtSetCurrentContext);
  if (handle == nullptr) return call.Fail(kInvalidParam, "EH0002: context must not be null.");
  if (Find<Context>(handle, Kind::kContext) == nullptr) {
    return call.Fail(kRtParam, "EE1003: the context was destroyed");
  }
  SetCurrentContextHandle(AsHandle(handle));
  return call.Return(kOk);
}

SIMACL_EXPORT aclError aclrtGetCurrentContext(aclrtContext* handle) {
  SIMACL_ENTER(aclrtGetCurrentContext);
  SIMACL_NEED(handle);
  if (const int code = CheckContext(&call)) return code;
  *handle = AsPointer(CurrentContextHandle());
  return call.Return(kOk);
}

SIMACL_EXPORT aclError aclmdlInitDump() {
  SIMACL_ENTER(aclmdlInitDump);
  World& world = Get();
  if (world.init_count == 0) return call.Return(kUninitialized);
  if (world.dump_sessions > 0 || world.init_json.find("\"dump\"") != std::string::npos) {
    return call.Fail(kDumpRunning, "EH0003: dump is already on");
  }
  if (!world.models.empty()) Violation("dump started after a model was loaded");
  ++world.dump_sessions;
  return call.Return(kOk);
}

SIMACL_EXPORT aclError aclmdlSetDump(const char* path) {
  SIMACL_ENTER(aclmdlSetDump);
  if (path == nullptr || !std::ifstream(path)) return call.Return(kInvalidFile);
  return call.Return(Get().dump_sessions > 0 ? kOk : 100045);
}

SIMACL_EXPORT aclError aclmdlFinalizeDump() {
  SIMACL_RELEASE(aclmdlFinalizeDump);
  if (Get().dump_sessions == 0) return call.Return(100045);
  --Get().dump_sessions;
  return call.Return(kOk);
}
