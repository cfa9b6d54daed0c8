// The control interface: callbacks into Python, settings, injected faults.
#include "control.h"

#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>

namespace simacl {

namespace {

using LoaderFn = void (*)(uint64_t key, const char* path, const void* data, uint64_t size);
using KernelFn = void (*)(uint64_t key, int count, const HostTensor* inputs, void* call);
using ForgetFn = void (*)(uint64_t key);

LoaderFn loader = nullptr;
KernelFn kernel = nullptr;
ForgetFn forget = nullptr;
thread_local std::string answer;

size_t CopyOut(const std::string& text, char* out, size_t capacity) {
  if (out != nullptr && capacity > 0) {
    const size_t count = std::min(text.size(), capacity - 1);
    memcpy(out, text.data(), count);
    out[count] = '\0';
  }
  return text.size();
}

// Runs a callback into Python. Never on the main thread: there Python would raise what a Ctrl-C
// asks for inside the callback, where nobody can catch it, instead of in the caller.
template <typename Work>
void OffMain(Work work) {
  if (syscall(SYS_gettid) != getpid()) {
    work();
    return;
  }
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  std::thread thread(work);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  thread.join();
}

}  // namespace

std::string CallLoader(uint64_t key, const char* path, const void* data, size_t size) {
  std::string text;
  OffMain([&] {
    answer.clear();
    if (loader != nullptr) loader(key, path, data, size);
    text = answer;
  });
  return text;
}

void RunKernel(uint64_t key, const std::vector<HostTensor>& inputs, KernelCall* call) {
  if (kernel == nullptr) {
    call->status = {kGeFailure, "E19999: no kernel is registered with the simulated device"};
    return;
  }
  OffMain([&] { kernel(key, static_cast<int>(inputs.size()), inputs.data(), call); });
}

void ForgetModel(uint64_t key, Lock* lock) {
  if (forget == nullptr || key == 0) return;
  lock->unlock();
  OffMain([&] { forget(key); });
  lock->lock();
}

}  // namespace simacl

using namespace simacl;

SIMACL_EXPORT void simacl_set_callbacks(LoaderFn load, KernelFn run, ForgetFn drop) {
  Lock lock(Get().mu);
  loader = load;
  kernel = run;
  forget = drop;
}

// Called by the loader: the description of the model it was asked for.
SIMACL_EXPORT void simacl_answer(const char* text, uint64_t size) { answer.assign(text, size); }

// Called by the kernel: one output.
SIMACL_EXPORT void simacl_output(void* handle, int index, int dtype, int ndim, const int64_t* dims,
                                 const void* data, uint64_t size) {
  auto* call = static_cast<KernelCall*>(handle);
  if (index < 0 || static_cast<size_t>(index) >= call->outputs.size()) return;
  Produced& made = call->outputs[static_cast<size_t>(index)];
  made.dims.assign(dims, dims + ndim);
  made.dtype = dtype;
  const auto* bytes = static_cast<const uint8_t*>(data);
  made.bytes.assign(bytes, bytes + size);
  made.set = true;
}

// Called by the kernel instead of outputs.
SIMACL_EXPORT void simacl_kernel_error(void* handle, int code, const char* text) {
  static_cast<KernelCall*>(handle)->status = {code, text};
}

SIMACL_EXPORT void simacl_reset() {
  Lock lock(Get().mu);
  ResetWorld(&lock);
}

SIMACL_EXPORT void simacl_config(const char* key, int64_t value) {
  Lock lock(Get().mu);
  if (strcmp(key, "seed") == 0) Get().random.seed(static_cast<uint64_t>(value));
  Get().config[key] = value;
  Get().changed.notify_all();
}

SIMACL_EXPORT void simacl_config_text(const char* key, const char* value) {
  Lock lock(Get().mu);
  Get().text_config[key] = value;
}

SIMACL_EXPORT void simacl_fault(const char* site, int64_t nth, int code, const char* text,
                                int sticky, int64_t delay_us, double probability) {
  Lock lock(Get().mu);
  Fault fault;
  fault.site = site;
  fault.nth = nth;
  fault.code = code;
  fault.has_text = text != nullptr;
  if (text != nullptr) fault.text = text;
  fault.sticky = sticky != 0;
  fault.delay_us = delay_us;
  fault.probability = probability;
  Get().faults.push_back(fault);
}

SIMACL_EXPORT void simacl_clear_faults() {
  Lock lock(Get().mu);
  Get().faults.clear();
  Get().dead.clear();
}

// The length of the text; as much of it as fits is copied.
SIMACL_EXPORT uint64_t simacl_report(char* out, uint64_t capacity) {
  Lock lock(Get().mu);
  return CopyOut(Report(), out, capacity);
}

SIMACL_EXPORT int simacl_api_version() { return SIMACL_API; }
