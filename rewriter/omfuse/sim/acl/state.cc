// The world, call bookkeeping, injected faults and handles.
#include "state.h"

#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <sstream>

namespace simacl {

namespace {
thread_local std::string pending_message;
thread_local std::string taken_message;
std::atomic<int> thread_count{0};

// The current context of a thread; the ledger lists those of living threads.
struct Current {
  uint64_t handle = 0;
  int thread = ThreadNumber();
  ~Current() {
    Lock lock(Get().mu);
    Get().held.erase(thread);
  }
};
thread_local Current current;
}  // namespace

World& Get() {
  static World* world = new World();  // never destroyed: stream threads may outlive main
  return *world;
}

int ThreadNumber() {
  thread_local int number = ++thread_count;
  return number;
}

double NowUs() {
  return std::chrono::duration<double, std::micro>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

std::vector<std::string> SplitText(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::string part;
  std::istringstream stream(text);
  while (std::getline(stream, part, separator)) parts.push_back(part);
  return parts;
}

const char* KindName(Kind kind) {
  static const char* const kNames[] = {"?",      "context",    "stream",      "event",
                                       "buffer", "dataset",    "tensor_desc", "model_desc",
                                       "config", "exec_config"};
  return kNames[static_cast<int>(kind)];
}

void SetMessage(const std::string& text) { pending_message = text; }

const char* TakeMessage() {
  if (pending_message.empty()) return nullptr;
  taken_message.swap(pending_message);
  pending_message.clear();
  return taken_message.c_str();
}

void Violation(const std::string& text) {
  World& world = Get();
  if (world.violations.size() < 1000) {
    world.violations.push_back("#" + std::to_string(world.seq) + " " + text);
  }
}

namespace {

bool IsFatal(int code) {
  return code == 507010 || code == 507899 || code == 507901 || code == kCoreException;
}

// Calls that a dead device fails until it is reset.
bool TouchesDevice(const std::string& name) {
  // These name the device or context that they are for.
  for (const char* other : {"aclrtResetDevice", "aclrtSetDevice", "aclrtGetDeviceCount",
                            "aclrtGetRunMode", "aclrtSetCurrentContext", "aclrtCreateContext"}) {
    if (name.rfind(other, 0) == 0) return false;
  }
  return name.rfind("aclrt", 0) == 0 || name.rfind("aclmdlExecute", 0) == 0 ||
         name.rfind("aclmdlLoad", 0) == 0 || name == "aclmdlUnload";
}

// Returns the fault that fires at this site now, or null.
const Fault* Match(const char* site, bool device_side) {
  const Fault* hit = nullptr;
  for (Fault& fault : Get().faults) {
    const bool any = fault.site == "*" && !device_side;
    if (!any && fault.site != site) continue;
    ++fault.seen;
    const bool due = fault.seen == fault.nth || (fault.sticky && fault.seen > fault.nth);
    const bool drawn = fault.probability > 0 && std::uniform_real_distribution<double>(
                                                    0, 1)(Get().random) < fault.probability;
    if (fault.probability > 0 ? drawn : due) hit = &fault;
  }
  return hit;
}

}  // namespace

const Fault* NamedFault(const char* site) { return Match(site, true); }

Status DeviceFault(const char* site, int64_t* delay_us) {
  const Fault* fault = NamedFault(site);
  if (fault == nullptr) return {};
  *delay_us += fault->delay_us;
  return {fault->code, fault->has_text ? fault->text : ""};
}

Call::Call(const char* name, Releases releases)
    : name_(name), releases_(releases == Releases::kYes), lock_(Get().mu) {
  World& world = Get();
  seq_ = ++world.seq;
  if (world.pid != 0 && world.pid != getpid()) {
    fault_ = kRtInternal;
    SetMessage("EE9999: Inner Error! the process was forked after aclInit");
    return;
  }
  if (world.finalized && world.init_count == 0 && std::string(name) != "aclInit" &&
      std::string(name) != "aclFinalize" && std::string(name) != "aclFinalizeReference") {
    Violation(std::string(name) + " called after finalize");
  }
  if (const Fault* fault = Match(name, false)) {
    const int64_t delay = fault->delay_us;
    fault_ = fault->code;
    named_ = fault->site != "*";
    if (fault->has_text) SetMessage(fault->text);
    auto context = CurrentContext();
    if (IsFatal(fault_) && world.Get("sticky") && context != nullptr) {
      world.dead[context->device] = fault_;
    }
    if (delay > 0) {
      lock_.unlock();
      usleep(static_cast<useconds_t>(delay));
      lock_.lock();
    }
  } else if (auto context = CurrentContext(); context != nullptr && TouchesDevice(name)) {
    auto dead = world.dead.find(context->device);
    if (dead != world.dead.end()) fault_ = dead->second;
  }
}

int Call::Return(int code) {
  code_ = code == kOk ? fault_ : code;
  return code_;
}

int Call::Fail(int code, const std::string& text) {
  SetMessage(text);
  return Return(code);
}

Call::~Call() {
  World& world = Get();
  if (!lock_.owns_lock()) lock_.lock();
  world.trace.push_back({seq_, ThreadNumber(), name_, code_});
  const size_t limit = static_cast<size_t>(world.Get("trace_limit"));
  while (world.trace.size() > (limit == 0 ? 4096 : limit)) world.trace.pop_front();
}

bool Remove(uint64_t handle) { return Get().objects.erase(handle) == 1; }

uint64_t CurrentContextHandle() { return current.handle; }
void SetCurrentContextHandle(uint64_t handle) {
  current.handle = handle;
  if (handle == 0) {
    Get().held.erase(current.thread);
  } else {
    Get().held[current.thread] = handle;
  }
}

std::shared_ptr<Context> CurrentContext() {
  return Find<Context>(AsPointer(current.handle), Kind::kContext);
}

int CheckContext(Call* call) {
  if (CurrentContext() != nullptr) return kOk;
  return call->Fail(kContextNull, "EE1010: The current thread has no context.");
}

void ResetWorld(Lock* lock) {
  World& world = Get();
  std::vector<std::shared_ptr<Stream>> streams;
  for (auto& [handle, object] : world.objects) {
    if (object->kind == Kind::kStream) streams.push_back(std::static_pointer_cast<Stream>(object));
  }
  for (auto& stream : streams) StopStream(stream, lock);
  std::vector<uint32_t> models;
  for (auto& [id, model] : world.models) models.push_back(id);
  for (const uint32_t id : models) ForgetModel(id, lock);
  while (!world.blocks.empty()) FreeDevice(world.blocks.begin()->first);
  for (auto& [address, block] : world.pinned) free(block.shadow);
  world.pinned.clear();
  world.objects.clear();
  world.models.clear();
  world.device_refs.clear();
  world.primary.clear();
  world.violations.clear();
  world.trace.clear();
  world.faults.clear();
  world.init_count = 0;
  world.finalized = false;
  world.init_json.clear();
  world.dump_sessions = 0;
  world.dead.clear();
  world.pid = 0;
  world.used = world.peak = 0;
  world.used_on.clear();
  world.held.clear();
  world.seq = 0;
  current.handle = 0;
}

}  // namespace simacl
