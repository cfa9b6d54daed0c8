// State of the simulated device: every handle, block, stream and model, one lock over all.
#ifndef OMFUSE_SIM_ACL_STATE_H_
#define OMFUSE_SIM_ACL_STATE_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "acl_types.h"

namespace simacl {

using Lock = std::unique_lock<std::mutex>;
using Dims = std::vector<int64_t>;

// Codes of the real library that the simulation returns.
enum Code : int {
  kOk = 0,
  kInvalidParam = 100000,
  kUninitialized = 100001,
  kRepeatInit = 100002,
  kInvalidFile = 100003,
  kRepeatFinalize = 100037,
  kStubMode = 100039,
  kDumpRunning = 100044,
  kUnsupported = 200001,
  kRtParam = 107000,
  kDeviceId = 107001,
  kContextNull = 107002,
  kStreamContext = 107003,
  kGeParam = 145000,
  kGeNotInit = 145001,
  kModelPath = 145002,
  kModelId = 145003,
  kModelData = 145006,
  kDynLength = 145012,
  kDynGear = 145013,
  kDeviceMemory = 207001,
  kStreamResource = 207008,
  kGeFailure = 500002,
  kRtInternal = 507000,
  kContextRelease = 507007,
  kCopyError = 507013,
  kCoreException = 507015,
  kStreamTimeout = 507046,
  kEventTimeout = 507047,
  kLoadFailed = 545001,
};

enum class Kind : uint8_t {
  kContext = 1,
  kStream,
  kEvent,
  kDataBuffer,
  kDataset,
  kTensorDesc,
  kModelDesc,
  kConfig,
  kExecConfig
};
const char* KindName(Kind kind);

struct Object {
  Kind kind;
  uint64_t handle = 0;
  uint64_t born = 0;  // sequence number of the call that made it
  int thread = 0;
  virtual ~Object() = default;
};

struct Context : Object {
  int device = 0;
  bool primary = false;
};

struct Status {
  int code = kOk;
  std::string text;
};

struct Op {
  std::string what;
  std::function<Status(Lock*)> run;  // may drop the lock while it computes
  std::function<void()> dropped;     // called instead when the stream is destroyed by force
  uint64_t waits_for = 0;            // event handle of a StreamWaitEvent
  uint64_t wait_ticket = 0;
  uint64_t records = 0;  // event handle of a RecordEvent
  uint64_t record_ticket = 0;
  int64_t delay_us = 0;
};

struct Stream : Object {
  uint64_t context = 0;
  bool stop_on_failure = false;
  std::deque<Op> queue;
  bool running = false;
  bool quit = false;
  Status error;
  std::thread worker;
};

struct Event : Object {
  uint64_t context = 0;
  uint64_t issued = 0;     // records enqueued so far
  uint64_t completed = 0;  // last record that has happened
  uint64_t stream = 0;     // stream of the last record
  double time_us = 0;
  Status error;
};

struct DataBuffer : Object {
  void* data = nullptr;
  size_t size = 0;
};

struct TensorDesc : Object {
  int dtype = 0, format = 2;
  Dims dims;
  uint64_t owner = 0;  // dataset that made it, 0 for the user's own
};

struct ShapeValue {
  int dtype = -1;
  Dims dims;
};

struct Dataset : Object {
  std::vector<uint64_t> buffers;
  std::map<size_t, ShapeValue> shapes;  // SetDatasetTensorDesc copies into here
  std::map<size_t, uint64_t> descs;     // handles given out by GetDatasetTensorDesc
  Dims gear;
  uint32_t gear_model = 0;
};

struct Tensor {
  std::string name;
  int dtype = 0, format = 2;
  Dims dims;
  std::vector<std::pair<int64_t, int64_t>> range;  // of dynamic tensors; -1 as upper = unbounded
  size_t size = 0;
};

enum class Mode { kStatic, kBatch, kImage, kDims, kDynamic };

struct ModelInfo {
  Mode mode = Mode::kStatic;
  std::string soc;
  size_t work = 0, weight = 0;
  std::vector<Tensor> inputs, outputs;          // without the hidden shape input
  std::vector<Dims> gears;                      // as the session names them
  std::vector<std::vector<Dims>> gear_inputs;   // per gear, dims of each input
  std::vector<std::vector<Dims>> gear_outputs;  // per gear, dims of each output
  size_t gear_numbers = 1;                      // numbers in the hidden shape input
  // Position of a gear in the lists, or their length when it was not compiled.
  size_t GearIndex(const Dims& gear) const;
  bool HasShapeInput() const { return mode != Mode::kStatic && mode != Mode::kDynamic; }
};

struct ModelDesc : Object {
  std::shared_ptr<const ModelInfo> info;
  uint32_t model = 0;  // 0: described from a file
};

struct Config : Object {
  std::map<int, std::string> values;
};

struct Model {
  uint32_t id = 0;
  uint64_t context = 0;
  int device = 0;
  std::shared_ptr<const ModelInfo> info;
  uintptr_t work = 0, weight = 0;  // user memory, 0 when the library made its own
  size_t own_bytes = 0;
  Dims last_gear;
  uint64_t born = 0;
  int thread = 0;
  int in_flight = 0;
  uint64_t flight_stream = 0;
};

struct Block {
  size_t size = 0;
  uint8_t* shadow = nullptr;  // where the bytes really are; the device address is never readable
  int device = 0;
  uint64_t born = 0;
  int thread = 0;
  bool auto_output = false;
};

struct Fault {
  std::string site;
  int64_t nth = 1;  // fires at the nth call that matches, counted from when the fault was set
  int code = 0;
  bool has_text = false;
  std::string text;
  bool sticky = false;
  int64_t delay_us = 0;
  double probability = 0;  // when positive, each matching call fires by chance, whatever `nth`
  int64_t seen = 0;
};

struct TraceEntry {
  uint64_t seq;
  int thread;
  const char* name;
  int code;
};

struct World {
  std::mutex mu;
  std::condition_variable changed;
  uint64_t seq = 0;
  uint64_t next_handle = 1;
  int init_count = 0;
  bool finalized = false;
  std::string init_json;
  int dump_sessions = 0;
  int pid = 0;
  std::unordered_map<uint64_t, std::shared_ptr<Object>> objects;
  std::map<int, int> device_refs;
  std::map<int, uint64_t> primary;
  std::map<uintptr_t, Block> blocks;
  std::map<uintptr_t, Block> pinned;
  size_t used = 0, peak = 0;      // of all devices
  std::map<int, size_t> used_on;  // of each device
  std::map<int, uint64_t> held;   // living thread -> its current context
  std::map<uint32_t, Model> models;
  uint32_t next_model = 1;
  std::vector<std::string> violations;
  std::deque<TraceEntry> trace;
  std::vector<Fault> faults;
  std::map<int, int> dead;  // device -> fatal error that sticks until it is reset
  std::map<std::string, int64_t> config = {
      {"device_count", 4},                  // devices that can be set
      {"memory_bytes", int64_t{32} << 30},  // of each device
      {"max_streams", 1024},                // of each device
      {"short_input_code", 145000},  // what an input that is too short gives; some say 500002
      {"trace_limit", 4096},
  };
  std::map<std::string, std::string> text_config;
  std::mt19937_64 random{1};

  int64_t Get(const char* key) { return config[key]; }
};

World& Get();
void ResetWorld(Lock* lock);
int ThreadNumber();
double NowUs();
std::vector<std::string> SplitText(const std::string& text, char separator);

// One API call: numbers it, records it in the trace, applies injected faults.
class Call {
 public:
  // A call that releases something still releases it when a fault makes it report an error.
  enum class Releases : bool { kNo, kYes };
  explicit Call(const char* name, Releases releases = Releases::kNo);
  ~Call();
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  int injected() const { return releases_ ? kOk : fault_; }
  // For plain getters, which never fail: only a fault that names them fires.
  bool named() const { return named_; }
  // Ends the call: keeps `code` for the trace, puts an injected fault in its place.
  int Return(int code);
  int Fail(int code, const std::string& text);
  Lock& lock() { return lock_; }

 private:
  const char* name_;
  bool releases_;
  bool named_ = false;
  int fault_ = kOk;
  int code_ = kOk;
  uint64_t seq_ = 0;
  Lock lock_;
};

void SetMessage(const std::string& text);
const char* TakeMessage();
void Violation(const std::string& text);
// Counts a device-side event such as "exec" against the injected faults.
Status DeviceFault(const char* site, int64_t* delay_us);
// The fault at a site that is no counted call, null when none fires.
const Fault* NamedFault(const char* site);

// ---- handles
template <typename T>
T* Add(std::shared_ptr<T> object, Kind kind);
template <typename T>
std::shared_ptr<T> Find(const void* handle, Kind kind);
bool Remove(uint64_t handle);
template <typename T = void>
T* AsPointer(uint64_t handle) {
  return reinterpret_cast<T*>(static_cast<uintptr_t>(handle));
}
inline uint64_t AsHandle(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer); }

// ---- contexts
uint64_t CurrentContextHandle();
void SetCurrentContextHandle(uint64_t handle);
std::shared_ptr<Context> CurrentContext();
int CheckContext(Call* call);

// ---- memory
bool HasRoom(int device, size_t size);
void Charge(int device, size_t size);
void Refund(int device, size_t size);
uintptr_t AllocateDevice(size_t size, int device, bool auto_output);
int FreeDevice(uintptr_t address);
bool IsDevice(uintptr_t address);
// Bytes behind [address, address + size) of one live block; null when it leaves the block.
uint8_t* ResolveDevice(uintptr_t address, size_t size);
bool IsPinned(uintptr_t address, size_t size);

// ---- streams
bool Spend(int64_t delay_us, double deadline, Lock* lock);
Status Drain(Stream* stream, Lock* lock, int64_t timeout_us, size_t limit);
Status DrainEvent(Event* event, Lock* lock, int64_t timeout_us);
void Enqueue(Stream* stream, Op op);
void StartStream(const std::shared_ptr<Stream>& stream);
void StopStream(const std::shared_ptr<Stream>& stream, Lock* lock);
std::shared_ptr<Stream> FindStream(Call* call, aclrtStream handle, int* code);

// ---- models
size_t ElementSize(int dtype);
size_t DimsBytes(int dtype, const Dims& dims);
std::string DimsText(const Dims& dims);
bool InRange(const Tensor& tensor, const Dims& dims);
std::shared_ptr<const ModelInfo> Describe(const char* path, const void* data, size_t size,
                                          uint64_t key, Status* status, Lock* lock);
// Tells Python to drop a model; the lock is not held meanwhile.
void ForgetModel(uint64_t key, Lock* lock);

struct HostTensor {
  void* data;
  size_t bytes;
  int dtype;
  int ndim;
  const int64_t* dims;
};
struct Produced {
  std::vector<uint8_t> bytes;
  Dims dims;
  int dtype = 0;
  bool set = false;
};
struct KernelCall {
  std::vector<Produced> outputs;
  Status status;
};
// Computes the model on the host copy of its inputs, without the lock.
void RunKernel(uint64_t key, const std::vector<HostTensor>& inputs, KernelCall* call);

template <typename T>
T* Add(std::shared_ptr<T> object, Kind kind) {
  World& world = Get();
  object->kind = kind;
  // Not a canonical address: reading a handle as a pointer ends the process at once.
  object->handle =
      (uint64_t{0x5AC1} << 48) | (static_cast<uint64_t>(kind) << 40) | world.next_handle++;
  object->born = world.seq;
  object->thread = ThreadNumber();
  world.objects[object->handle] = object;
  return object.get();
}

template <typename T>
std::shared_ptr<T> Find(const void* handle, Kind kind) {
  auto found = Get().objects.find(AsHandle(handle));
  if (found == Get().objects.end() || found->second->kind != kind) return nullptr;
  return std::static_pointer_cast<T>(found->second);
}

}  // namespace simacl

#define SIMACL_EXPORT extern "C" __attribute__((visibility("default")))
#define SIMACL_ENTER(name)  \
  simacl::Call call(#name); \
  if (call.injected() != simacl::kOk) return call.Return(call.injected())

// Refuses a null pointer, as the interface does.
#define SIMACL_NEED(pointer) \
  if ((pointer) == nullptr)  \
  return call.Fail(simacl::kInvalidParam, "EH0002: Argument " #pointer " must not be null.")

#define SIMACL_RELEASE(name) simacl::Call call(#name, simacl::Call::Releases::kYes)

#endif  // OMFUSE_SIM_ACL_STATE_H_
