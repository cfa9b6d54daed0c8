// Events: recorded by one stream, waited for by another or by the host.
#include "acl_prototypes.h"
#include "state.h"

namespace simacl {
namespace {

std::shared_ptr<Event> EventOf(Call* call, aclrtEvent handle, int* code) {
  if ((*code = CheckContext(call))) return nullptr;
  auto event = Find<Event>(handle, Kind::kEvent);
  if (event == nullptr) {
    *code = call->Fail(kRtParam, "EE1003: not a live event");
  } else if (event->context != CurrentContextHandle()) {
    *code = call->Fail(kStreamContext, "EE1010: the event does not belong to the current context");
    return nullptr;
  }
  return event;
}

int SynchronizeEvent(Call* call, aclrtEvent handle, int64_t timeout_us) {
  int code = kOk;
  auto event = EventOf(call, handle, &code);
  if (event == nullptr) return code;
  const Status status = DrainEvent(event.get(), &call->lock(), timeout_us);
  if (status.code != kOk) return call->Fail(status.code, status.text);
  return call->Return(kOk);
}

int CreateEvent(Call* call, aclrtEvent* out) {
  if (const int code = CheckContext(call)) return code;
  auto event = std::make_shared<Event>();
  event->context = CurrentContextHandle();
  *out = AsPointer(Add(event, Kind::kEvent)->handle);
  return call->Return(kOk);
}

// Puts on a stream that it records an event or waits for it, as `fill` says.
template <typename Fill>
int EnqueueFor(Call* call, aclrtStream stream_handle, aclrtEvent handle, Fill fill) {
  int code = kOk;
  auto stream = FindStream(call, stream_handle, &code);
  if (stream == nullptr) return code;
  auto event = EventOf(call, handle, &code);
  if (event == nullptr) return code;
  Op op;
  fill(stream.get(), event.get(), &op);
  Enqueue(stream.get(), std::move(op));
  return call->Return(kOk);
}

}  // namespace
}  // namespace simacl

using namespace simacl;

SIMACL_EXPORT aclError aclrtCreateEvent(aclrtEvent* event) {
  SIMACL_ENTER(aclrtCreateEvent);
  SIMACL_NEED(event);
  return CreateEvent(&call, event);
}
SIMACL_EXPORT aclError aclrtCreateEventExWithFlag(aclrtEvent* event, uint32_t) {
  SIMACL_ENTER(aclrtCreateEventExWithFlag);
  SIMACL_NEED(event);
  return CreateEvent(&call, event);
}
SIMACL_EXPORT aclError aclrtDestroyEvent(aclrtEvent handle) {
  SIMACL_RELEASE(aclrtDestroyEvent);
  int code = kOk;
  auto event = EventOf(&call, handle, &code);
  if (event == nullptr) return code;
  Remove(event->handle);
  Get().changed.notify_all();
  return call.Return(kOk);
}
SIMACL_EXPORT aclError aclrtRecordEvent(aclrtEvent event, aclrtStream stream) {
  SIMACL_ENTER(aclrtRecordEvent);
  return EnqueueFor(&call, stream, event, [](Stream* on, Event* recorded, Op* op) {
    recorded->stream = on->handle;
    op->what = "record";
    op->records = recorded->handle;
    op->record_ticket = ++recorded->issued;
  });
}
SIMACL_EXPORT aclError aclrtStreamWaitEvent(aclrtStream stream, aclrtEvent event) {
  SIMACL_ENTER(aclrtStreamWaitEvent);
  return EnqueueFor(&call, stream, event, [](Stream*, Event* awaited, Op* op) {
    if (awaited->issued == 0) Violation("stream waits for an event that was never recorded");
    op->what = "wait";
    op->waits_for = awaited->handle;
    op->wait_ticket = awaited->issued;
  });
}
SIMACL_EXPORT aclError aclrtSynchronizeEvent(aclrtEvent event) {
  SIMACL_ENTER(aclrtSynchronizeEvent);
  return SynchronizeEvent(&call, event, -1);
}
SIMACL_EXPORT aclError aclrtSynchronizeEventWithTimeout(aclrtEvent event, int32_t ms) {
  SIMACL_ENTER(aclrtSynchronizeEventWithTimeout);
  return SynchronizeEvent(&call, event, ms < 0 ? -1 : int64_t{ms} * 1000);
}
SIMACL_EXPORT aclError aclrtQueryEventStatus(aclrtEvent handle, aclrtEventRecordedStatus* status) {
  SIMACL_ENTER(aclrtQueryEventStatus);
  SIMACL_NEED(status);
  int code = kOk;
  auto event = EventOf(&call, handle, &code);
  if (event == nullptr) return code;
  *status = event->completed >= event->issued ? 1 : 0;
  return call.Return(kOk);
}
SIMACL_EXPORT aclError aclrtEventElapsedTime(float* ms, aclrtEvent first, aclrtEvent last) {
  SIMACL_ENTER(aclrtEventElapsedTime);
  SIMACL_NEED(ms);
  int code = kOk;
  auto begin = EventOf(&call, first, &code);
  auto end = EventOf(&call, last, &code);
  if (begin == nullptr || end == nullptr) return code;
  if (begin->completed < begin->issued || end->completed < end->issued || end->issued == 0) {
    return call.Fail(kRtParam, "EE1003: event not recorded yet");
  }
  *ms = static_cast<float>((end->time_us - begin->time_us) / 1000.0);
  return call.Return(kOk);
}
