// The leak ledger and the trace, as JSON.
#include <cstdio>

#include "control.h"

namespace simacl {

namespace {

std::string Quote(const std::string& text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      quoted += '\\';
      quoted += c;
    } else if (static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) > 0x7e) {
      char escaped[8];
      snprintf(escaped, sizeof(escaped), "\\u%04x", static_cast<unsigned char>(c));
      quoted += escaped;
    } else {
      quoted += c;
    }
  }
  return quoted + "\"";
}

class List {
 public:
  explicit List(char open) : text_(1, open), close_(open == '[' ? ']' : '}') {}
  void Add(const std::string& item) {
    if (text_.size() > 1) text_ += ",";
    text_ += item;
  }
  std::string Done() const { return text_ + close_; }

 private:
  std::string text_;
  char close_;
};

std::string Leak(const std::string& kind, uint64_t born, int thread, const std::string& detail) {
  return "{\"kind\":" + Quote(kind) + ",\"call\":" + std::to_string(born) +
         ",\"thread\":" + std::to_string(thread) + ",\"detail\":" + Quote(detail) + "}";
}

std::string Bytes(size_t size) { return std::to_string(size) + " bytes"; }

std::string Leaks() {
  World& world = Get();
  List leaks('[');
  for (const auto& [handle, object] : world.objects) {
    std::string kind = KindName(object->kind), detail;
    if (object->kind == Kind::kContext && static_cast<Context*>(object.get())->primary) continue;
    if (object->kind == Kind::kTensorDesc) {
      if (static_cast<TensorDesc*>(object.get())->owner != 0) detail = "owned by a dataset";
    }
    leaks.Add(Leak(kind, object->born, object->thread, detail));
    if (object->kind == Kind::kStream) {
      const auto* stream = static_cast<Stream*>(object.get());
      if (!stream->queue.empty()) {
        leaks.Add(Leak("pending", stream->born, stream->thread,
                       std::to_string(stream->queue.size()) + " operations"));
      }
    }
  }
  for (const auto& [address, block] : world.blocks) {
    leaks.Add(Leak(block.auto_output ? "auto_output" : "device_memory", block.born, block.thread,
                   Bytes(block.size)));
  }
  for (const auto& [address, block] : world.pinned) {
    leaks.Add(Leak("pinned_memory", block.born, block.thread, Bytes(block.size)));
  }
  for (const auto& [id, model] : world.models) {
    leaks.Add(Leak("model", model.born, model.thread, "id " + std::to_string(id)));
  }
  for (const auto& [device, count] : world.device_refs) {
    if (count > 0) leaks.Add(Leak("set_device", 0, 0, "device " + std::to_string(device)));
  }
  if (world.init_count > world.Get("foreign_init"))
    leaks.Add(Leak("init", 0, 0, std::to_string(world.init_count)));
  if (world.dump_sessions > 0) leaks.Add(Leak("dump", 0, 0, ""));
  return leaks.Done();
}

// Living threads whose current context is still set; no leak where it is destroyed, since nothing
// in the interface takes a context away from another thread, yet what they call next will fail.
std::string Threads() {
  const World& world = Get();
  List threads('[');
  for (const auto& [thread, handle] : world.held) {
    const bool alive = world.objects.count(handle) != 0;
    threads.Add("{\"thread\":" + std::to_string(thread) +
                ",\"alive\":" + (alive ? "true" : "false") + "}");
  }
  return threads.Done();
}

}  // namespace

std::string Report() {
  const World& world = Get();
  List violations('['), trace('[');
  for (const std::string& text : world.violations) violations.Add(Quote(text));
  for (const TraceEntry& entry : world.trace) {
    trace.Add("[" + std::to_string(entry.seq) + "," + std::to_string(entry.thread) + "," +
              Quote(entry.name) + "," + std::to_string(entry.code) + "]");
  }
  List report('{');
  report.Add("\"leaks\":" + Leaks());
  report.Add("\"violations\":" + violations.Done());
  report.Add("\"threads\":" + Threads());
  report.Add("\"calls\":" + std::to_string(world.seq));
  report.Add("\"used\":" + std::to_string(world.used));
  report.Add("\"peak\":" + std::to_string(world.peak));
  report.Add("\"trace\":" + trace.Done());
  return report.Done();
}

}  // namespace simacl
