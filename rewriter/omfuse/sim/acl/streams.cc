// Streams as the caller sees them; how their work gets done is in queues.cc.
#include "acl_prototypes.h"
#include "state.h"

namespace simacl {

std::shared_ptr<Stream> FindStream(Call* call, aclrtStream handle, int* code) {
  auto context = CurrentContext();
  if (context == nullptr) {
    *code = CheckContext(call);
    return nullptr;
  }
  auto stream = Find<Stream>(handle, Kind::kStream);
  if (stream == nullptr) {
    *code = call->Fail(kRtParam, "EE1003: not a live stream");
  } else if (stream->context != context->handle) {
    *code = call->Fail(kStreamContext, "EE1010: the stream does not belong to the current context");
    return nullptr;
  }
  return stream;
}

namespace {

// The device of a stream, -1 when its context is gone.
int DeviceOf(const Stream& stream) {
  auto context = Find<Context>(AsPointer(stream.context), Kind::kContext);
  return context == nullptr ? -1 : context->device;
}

int CreateStream(Call* call, aclrtStream* out) {
  if (const int code = CheckContext(call)) return code;
  World& world = Get();
  int64_t count = 0;
  for (auto& [handle, object] : world.objects) {
    if (object->kind != Kind::kStream) continue;
    if (DeviceOf(*static_cast<Stream*>(object.get())) == CurrentContext()->device) ++count;
  }
  if (count >= world.Get("max_streams"))
    return call->Fail(kStreamResource, "EE1005: no stream left");
  auto stream = std::make_shared<Stream>();
  stream->context = CurrentContextHandle();
  *out = AsPointer(Add(stream, Kind::kStream)->handle);
  StartStream(stream);
  return call->Return(kOk);
}

int DestroyStream(Call* call, aclrtStream handle, bool force) {
  int code = kOk;
  auto stream = FindStream(call, handle, &code);
  if (stream == nullptr) return code;
  if (!force && !stream->queue.empty()) {
    if (stream->error.code == kOk) Violation("stream destroyed with work pending");
    Drain(stream.get(), &call->lock(), 1000000, SIZE_MAX);
  }
  StopStream(stream, &call->lock());
  for (const Op& op : stream->queue) {
    if (op.dropped) op.dropped();
  }
  stream->queue.clear();
  Remove(stream->handle);
  return call->Return(kOk);
}

int Synchronize(Call* call, aclrtStream handle, int64_t timeout_us) {
  int code = kOk;
  auto stream = FindStream(call, handle, &code);
  if (stream == nullptr) return code;
  const Status status = Drain(stream.get(), &call->lock(), timeout_us, SIZE_MAX);
  if (status.code != kOk) return call->Fail(status.code, status.text);
  return call->Return(kOk);
}

}  // namespace
}  // namespace simacl

using namespace simacl;

SIMACL_EXPORT aclError aclrtCreateStream(aclrtStream* stream) {
  SIMACL_ENTER(aclrtCreateStream);
  SIMACL_NEED(stream);
  return CreateStream(&call, stream);
}
SIMACL_EXPORT aclError aclrtCreateStreamWithConfig(aclrtStream* stream, uint32_t, uint32_t) {
  SIMACL_ENTER(aclrtCreateStreamWithConfig);
  SIMACL_NEED(stream);
  return CreateStream(&call, stream);
}
SIMACL_EXPORT aclError aclrtDestroyStream(aclrtStream stream) {
  SIMACL_RELEASE(aclrtDestroyStream);
  return DestroyStream(&call, stream, false);
}
SIMACL_EXPORT aclError aclrtDestroyStreamForce(aclrtStream stream) {
  SIMACL_RELEASE(aclrtDestroyStreamForce);
  return DestroyStream(&call, stream, true);
}
SIMACL_EXPORT aclError aclrtSynchronizeStream(aclrtStream stream) {
  SIMACL_ENTER(aclrtSynchronizeStream);
  return Synchronize(&call, stream, -1);
}
SIMACL_EXPORT aclError aclrtSynchronizeStreamWithTimeout(aclrtStream stream, int32_t ms) {
  SIMACL_ENTER(aclrtSynchronizeStreamWithTimeout);
  return Synchronize(&call, stream, ms < 0 ? -1 : int64_t{ms} * 1000);
}
SIMACL_EXPORT aclError aclrtSynchronizeDevice() {
  SIMACL_ENTER(aclrtSynchronizeDevice);
  if (const int code = CheckContext(&call)) return code;
  std::vector<std::shared_ptr<Stream>> streams;
  for (auto& [handle, object] : Get().objects) {
    if (object->kind != Kind::kStream) continue;
    auto stream = std::static_pointer_cast<Stream>(object);
    if (DeviceOf(*stream) == CurrentContext()->device) streams.push_back(stream);
  }
  Status first;
  for (auto& stream : streams) {
    const Status status = Drain(stream.get(), &call.lock(), -1, SIZE_MAX);
    if (first.code == kOk) first = status;
  }
  return first.code == kOk ? call.Return(kOk) : call.Fail(first.code, first.text);
}
SIMACL_EXPORT aclError aclrtSetStreamFailureMode(aclrtStream handle, uint64_t mode) {
  SIMACL_ENTER(aclrtSetStreamFailureMode);
  int code = kOk;
  auto stream = FindStream(&call, handle, &code);
  if (stream == nullptr) return code;
  stream->stop_on_failure = mode == 1;
  return call.Return(kOk);
}
SIMACL_EXPORT aclError aclrtStreamQuery(aclrtStream handle, aclrtStreamStatus* status) {
  SIMACL_ENTER(aclrtStreamQuery);
  SIMACL_NEED(status);
  int code = kOk;
  auto stream = FindStream(&call, handle, &code);
  if (stream == nullptr) return code;
  if (stream->error.code != kOk) return call.Fail(stream->error.code, stream->error.text);
  *status = stream->queue.empty() && !stream->running ? 0 : 1;
  return call.Return(kOk);
}
