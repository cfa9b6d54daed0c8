// How queued work gets done. Work is only queued when it is submitted. By default it happens when
// somebody synchronises ("deferred"), which shows wrong order and lifetime; with the setting
// "threads" every stream has a thread of its own, which shows overlap and time-outs.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>

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

void StartStream(const std::shared_ptr<Stream>& stream) {
  if (!Threads()) return;
  sigset_t all, before;  // signals stay with the threads of the caller
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  stream->worker = std::thread(Work, stream);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
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

}  // namespace simacl
