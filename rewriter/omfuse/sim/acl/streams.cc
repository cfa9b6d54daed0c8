// Streams and events. Work is only queued when it is submitted. By default it happens when
// somebody synchronises ("deferred"), which shows wrong order and lifetime; with the setting
// "threads" every stream has a thread of its own, which shows overlap and time-outs.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "acl_prototypes.h"
#include "state.h"

namespace simacl {

// Sleeps without the lock; false when the deadline comes first. The setting "release_hangs" ends
// all sleeps, so that a test can let go of what it made hang.
bool Spend(int64_t delay_us, double deadline, Lock* lock) {
  const double end = NowUs() + static_cast<double>(delay_us);
  while (delay_us > 0 && NowUs() < end && Get().Get("release_hangs") == 0) {
    if (NowUs() >= deadline) return false;
    const double left = std::min(std::min(end, deadline) - NowUs(), 2000.0);
    lock->unlock();
    usleep(static_cast<useconds_t>(std::max(left, 1.0)));
    lock->lock();
  }
  return true;
}

namespace {

bool Threads() { return Get().Get("threads") != 0; }

double Deadline(int64_t timeout_us) { return timeout_us < 0 ? INFINITY : NowUs() + timeout_us; }

std::shared_ptr<Event> FindEvent(uint64_t handle) {
  return Find<Event>(AsPointer(handle), Kind::kEvent);
}

// Runs the operation at the head. The queue is left as it is when the deadline comes first.
bool Step(Stream* stream, double deadline, Lock* lock) {
  World& world = Get();
  stream->running = true;
  Op& op = stream->queue.front();  // a deque keeps references while others push at the back
  if (!Spend(op.delay_us, deadline, lock)) {
    stream->running = false;
    world.changed.notify_all();
    return false;
  }
  op.delay_us = 0;
  const bool skip = stream->stop_on_failure && stream->error.code != kOk && op.records == 0;
  if (op.run && !skip) {
    Status status = op.run(lock);
    if (status.code != kOk && stream->error.code == kOk) stream->error = status;
  }
  if (op.records != 0) {
    if (auto event = FindEvent(op.records)) {
      event->completed = std::max(event->completed, op.record_ticket);
      event->time_us = NowUs();
      event->error = stream->error;
    } else {
      Violation("event destroyed before its record happened");
    }
  }
  stream->queue.pop_front();
  stream->running = false;
  world.changed.notify_all();
  return true;
}

void Work(std::shared_ptr<Stream> stream) {
  Lock lock(Get().mu);
  while (true) {
    Get().changed.wait(lock, [&] { return stream->quit || !stream->queue.empty(); });
    if (stream->quit) return;
    const Op& op = stream->queue.front();
    if (op.waits_for != 0) {
      const uint64_t handle = op.waits_for, ticket = op.wait_ticket;
      Get().changed.wait(lock, [&] {
        auto event = FindEvent(handle);
        return stream->quit || event == nullptr || event->completed >= ticket;
      });
      if (stream->quit) return;
    }
    Step(stream.get(), INFINITY, &lock);
  }
}

// Lets other streams advance by a random number of operations: all orders that the device may
// choose are legal, so a session must not depend on one.
void Shuffle(const Stream* current, Lock* lock, int depth);

Status DrainDeferred(Stream* stream, Lock* lock, double deadline, size_t limit, int depth) {
  World& world = Get();
  for (size_t done = 0; done < limit;) {
    if (stream->running) {  // another thread is inside this stream
      const double now = NowUs();
      if (now >= deadline) return {kStreamTimeout, "EE1002: Stream synchronize timeout."};
      world.changed.wait_for(*lock, std::chrono::milliseconds(2));
      continue;
    }
    if (stream->queue.empty()) break;
    const uint64_t waits_for = stream->queue.front().waits_for;
    const uint64_t wait_ticket = stream->queue.front().wait_ticket;
    if (waits_for != 0) {
      auto event = FindEvent(waits_for);
      if (event == nullptr) {
        Violation("event destroyed while a stream waits for it");
      } else if (event->completed < wait_ticket) {
        auto other = Find<Stream>(AsPointer(event->stream), Kind::kStream);
        if (other == nullptr || other.get() == stream || depth > 8) {
          // Nobody will ever record it: the device hangs here.
          while (NowUs() < deadline && event->completed < wait_ticket) {
            if (world.Get("release_hangs")) break;
            world.changed.wait_for(*lock, std::chrono::milliseconds(2));
          }
          if (event->completed < wait_ticket && !world.Get("release_hangs")) {
            return {kStreamTimeout, "EE1002: Stream synchronize timeout."};
          }
        } else {
          const Status status = DrainDeferred(other.get(), lock, deadline, 1, depth + 1);
          if (status.code == kStreamTimeout) return status;
          if (other->queue.empty() && event->completed < wait_ticket) {
            world.changed.wait_for(*lock, std::chrono::milliseconds(1));
            if (NowUs() >= deadline) return {kStreamTimeout, "EE1002: Stream synchronize timeout."};
          }
          continue;
        }
      }
    }
    Shuffle(stream, lock, depth);
    if (stream->running || stream->queue.empty()) continue;
    // Also when the work ended, but later than that: it was still running then.
    if (!Step(stream, deadline, lock) || NowUs() >= deadline) {
      return {kStreamTimeout, "EE1002: Stream synchronize timeout."};
    }
    ++done;
  }
  return {};
}

void Shuffle(const Stream* current, Lock* lock, int depth) {
  World& world = Get();
  if (!world.Get("reorder") || depth > 0) return;
  std::vector<std::shared_ptr<Stream>> others;
  for (auto& [handle, object] : world.objects) {
    if (object->kind == Kind::kStream && object.get() != current) {
      others.push_back(std::static_pointer_cast<Stream>(object));
    }
  }
  if (others.empty()) return;
  auto& other = others[world.random() % others.size()];
  const size_t steps = world.random() % 3;
  for (size_t i = 0; i < steps && !other->queue.empty() && !other->running; ++i) {
    const Op& op = other->queue.front();
    auto event = FindEvent(op.waits_for);
    if (op.waits_for != 0 && event != nullptr && event->completed < op.wait_ticket) return;
    DrainDeferred(other.get(), lock, INFINITY, 1, depth + 1);
  }
}

Status TakeError(Stream* stream) {
  const Status status = stream->error;
  if (!stream->stop_on_failure) stream->error = {};
  return status;
}

}  // namespace

// Waits until the first `limit` operations are done; returns the stream's deferred error.
Status Drain(Stream* stream, Lock* lock, int64_t timeout_us, size_t limit) {
  const double deadline = Deadline(timeout_us);
  if (Threads()) {
    auto idle = [&] { return stream->queue.empty() && !stream->running; };
    if (timeout_us < 0) {
      Get().changed.wait(*lock, idle);
    } else if (!Get().changed.wait_for(*lock, std::chrono::microseconds(timeout_us), idle)) {
      return {kStreamTimeout, "EE1002: Stream synchronize timeout."};
    }
  } else {
    const Status status = DrainDeferred(stream, lock, deadline, limit, 0);
    if (status.code != kOk) return status;
  }
  return TakeError(stream);
}

Status DrainEvent(Event* event, Lock* lock, int64_t timeout_us) {
  const double deadline = Deadline(timeout_us);
  const uint64_t ticket = event->issued;
  const uint64_t handle = event->handle;
  while (event->completed < ticket) {
    auto stream = Find<Stream>(AsPointer(event->stream), Kind::kStream);
    if (NowUs() >= deadline) return {kEventTimeout, "EE1002: Event synchronize timeout."};
    if (Threads() || stream == nullptr) {
      Get().changed.wait_for(*lock, std::chrono::milliseconds(2));
    } else {
      const Status status = DrainDeferred(stream.get(), lock, deadline, 1, 0);
      if (status.code == kStreamTimeout) return {kEventTimeout, "EE1002: Event timeout."};
    }
    if (FindEvent(handle) == nullptr) return {kRtParam, "event destroyed during the wait"};
  }
  return event->error;
}

void Enqueue(Stream* stream, Op op) {
  stream->queue.push_back(std::move(op));
  Get().changed.notify_all();
}

void StopStream(const std::shared_ptr<Stream>& stream, Lock* lock) {
  stream->quit = true;
  Get().changed.notify_all();
  if (stream->worker.joinable()) {
    lock->unlock();
    stream->worker.join();
    lock->lock();
  }
}

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
  if (Threads()) {
    sigset_t all, before;  // signals stay with the threads of the caller
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    stream->worker = std::thread(Work, stream);
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }
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
SIMACL_EXPORT aclError aclrtRecordEvent(aclrtEvent handle, aclrtStream stream_handle) {
  SIMACL_ENTER(aclrtRecordEvent);
  int code = kOk;
  auto stream = FindStream(&call, stream_handle, &code);
  if (stream == nullptr) return code;
  auto event = EventOf(&call, handle, &code);
  if (event == nullptr) return code;
  event->stream = stream->handle;
  Op op;
  op.what = "record";
  op.records = event->handle;
  op.record_ticket = ++event->issued;
  Enqueue(stream.get(), std::move(op));
  return call.Return(kOk);
}
SIMACL_EXPORT aclError aclrtStreamWaitEvent(aclrtStream stream_handle, aclrtEvent handle) {
  SIMACL_ENTER(aclrtStreamWaitEvent);
  int code = kOk;
  auto stream = FindStream(&call, stream_handle, &code);
  if (stream == nullptr) return code;
  auto event = EventOf(&call, handle, &code);
  if (event == nullptr) return code;
  if (event->issued == 0) Violation("stream waits for an event that was never recorded");
  Op op;
  op.what = "wait";
  op.waits_for = event->handle;
  op.wait_ticket = event->issued;
  Enqueue(stream.get(), std::move(op));
  return call.Return(kOk);
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
