// Device memory that the host cannot read, pinned memory, copies.
//
// A device address lies in a reserved PROT_NONE range and is never mapped: a host access ends the
// process with SIGSEGV, as on a board. The bytes live in a separate host block, its shadow.
// Addresses are not used twice, so that use after free is always seen.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "acl_prototypes.h"
#include "state.h"

namespace simacl {

namespace {

constexpr size_t kGuard = 64 << 10;
constexpr size_t kArena = size_t{8} << 40;
constexpr size_t kPoisonLimit = 256 << 20;
uintptr_t arena_begin = 0;
uintptr_t arena_next = 0;

bool Reserve() {
  if (arena_begin != 0) return true;
  // Above 32 TiB, so that an address cut to 32 bits cannot be valid by luck.
  void* wish = reinterpret_cast<void*>(uintptr_t{0x200000000000});
  for (size_t size = kArena; size >= (size_t{1} << 36); size >>= 1) {
    void* got = mmap(wish, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (got != MAP_FAILED) {
      arena_begin = arena_next = reinterpret_cast<uintptr_t>(got);
      return true;
    }
  }
  return false;
}

uint8_t* NewShadow(size_t size) {
  void* memory = nullptr;
  if (posix_memalign(&memory, 64, size + 64) != 0) return nullptr;
  if (size <= kPoisonLimit) memset(memory, 0xA5, size);
  return static_cast<uint8_t*>(memory);
}

std::map<uintptr_t, Block>::iterator Owner(std::map<uintptr_t, Block>* blocks, uintptr_t address) {
  auto found = blocks->upper_bound(address);
  if (found == blocks->begin()) return blocks->end();
  --found;
  return address < found->first + found->second.size ? found : blocks->end();
}

size_t Capacity() { return static_cast<size_t>(Get().Get("memory_bytes")); }

}  // namespace

bool HasRoom(int device, size_t size) {
  const size_t used = Get().used_on[device];
  return used <= Capacity() && size <= Capacity() - used;
}

void Charge(int device, size_t size) {
  World& world = Get();
  world.used_on[device] += size;
  world.used += size;
  world.peak = std::max(world.peak, world.used);
}

void Refund(int device, size_t size) {
  Get().used_on[device] -= size;
  Get().used -= size;
}

bool IsDevice(uintptr_t address) {
  return arena_begin != 0 && address >= arena_begin && address < arena_begin + kArena;
}

uintptr_t AllocateDevice(size_t size, int device, bool auto_output) {
  World& world = Get();
  // The real allocator rounds up to 32 bytes and adds 32.
  const size_t charged = (size + 31) / 32 * 32 + 32;
  if (charged < size || !HasRoom(device, charged) || !Reserve()) return 0;
  const size_t span = (charged + 2 * kGuard - 1) / kGuard * kGuard;
  if (arena_next + span > arena_begin + kArena) return 0;
  Block block;
  block.size = charged;
  block.shadow = NewShadow(charged);
  if (block.shadow == nullptr) return 0;
  block.device = device;
  block.born = world.seq;
  block.thread = ThreadNumber();
  block.auto_output = auto_output;
  const uintptr_t address = arena_next;
  arena_next += span;
  world.blocks[address] = block;
  Charge(device, charged);
  return address;
}

int FreeDevice(uintptr_t address) {
  World& world = Get();
  auto found = world.blocks.find(address);
  if (found == world.blocks.end()) return kRtParam;
  Refund(found->second.device, found->second.size);
  memset(found->second.shadow, 0xDD, std::min(found->second.size, kPoisonLimit));
  free(found->second.shadow);
  world.blocks.erase(found);
  return kOk;
}

uint8_t* ResolveDevice(uintptr_t address, size_t size) {
  World& world = Get();
  auto found = Owner(&world.blocks, address);
  if (found == world.blocks.end()) return nullptr;
  const size_t offset = address - found->first;
  return size <= found->second.size - offset ? found->second.shadow + offset : nullptr;
}

bool IsPinned(uintptr_t address, size_t size) {
  World& world = Get();
  auto found = Owner(&world.pinned, address);
  return found != world.pinned.end() && size <= found->second.size - (address - found->first);
}

namespace {

// Host bytes are used as they are; device bytes through their shadow.
uint8_t* Bytes(const void* pointer, size_t size) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(pointer);
  if (IsDevice(address)) return ResolveDevice(address, size);
  return static_cast<uint8_t*>(const_cast<void*>(pointer));
}

void CheckDirection(const void* dst, const void* src, int kind) {
  if (kind > 3) return;
  const bool to_device = kind == 1 || kind == 3, from_device = kind == 2 || kind == 3;
  if (to_device != IsDevice(AsHandle(dst)) || from_device != IsDevice(AsHandle(src))) {
    Violation("memcpy kind " + std::to_string(kind) + " does not fit its pointers");
  }
}

int CheckCopy(Call* call, const void* dst, size_t max, const void* src, size_t count) {
  if (const int code = CheckContext(call)) return code;
  if (dst == nullptr || src == nullptr) {
    return call->Fail(kInvalidParam, "EH0002: Argument dst or src must not be null.");
  }
  if (count > max || max == 0) {
    return call->Fail(kRtParam, "EE1003: Value " + std::to_string(count) +
                                    " for count is invalid. Reason: destMax is " +
                                    std::to_string(max) + ".");
  }
  return kOk;
}

Status Copy(void* dst, const void* src, size_t count) {
  uint8_t* to = Bytes(dst, count);
  const uint8_t* from = Bytes(src, count);
  if (to == nullptr || from == nullptr) {
    return {kCopyError, "EZ9999: Inner Error! SDMA copy outside a live block"};
  }
  memmove(to, from, count);
  return {};
}

}  // namespace
}  // namespace simacl

using namespace simacl;

SIMACL_EXPORT aclError aclrtMalloc(void** pointer, size_t size, aclrtMemMallocPolicy) {
  SIMACL_ENTER(aclrtMalloc);
  if (pointer == nullptr || size == 0) {
    return call.Fail(kInvalidParam, "EH0001: Value 0 for size is invalid.");
  }
  if (const int code = CheckContext(&call)) return code;
  const uintptr_t address = AllocateDevice(size, CurrentContext()->device, false);
  if (address == 0) {
    return call.Fail(kDeviceMemory, "EL0004: Failed to allocate memory. Possible Cause: " +
                                        std::to_string(size) + " bytes are not free.");
  }
  *pointer = reinterpret_cast<void*>(address);
  return call.Return(kOk);
}

SIMACL_EXPORT aclError aclrtFree(void* pointer) {
  SIMACL_RELEASE(aclrtFree);
  if (pointer == nullptr) return call.Fail(kInvalidParam, "EH0002: devPtr must not be null.");
  if (const int code = CheckContext(&call)) return code;
  const uintptr_t address = AsHandle(pointer);
  auto block = Get().blocks.find(address);
  if (block != Get().blocks.end() && block->second.device != CurrentContext()->device) {
    Violation("device memory freed under another device");
  }
  for (auto& [id, model] : Get().models) {
    if (model.work == address || model.weight == address) {
      Violation("memory of loaded model " + std::to_string(id) + " freed before unload");
    }
  }
  if (FreeDevice(address) != kOk) return call.Fail(kRtParam, "EE1003: not a live device address");
  return call.Return(kOk);
}

SIMACL_EXPORT aclError aclrtMallocHost(void** pointer, size_t size) {
  SIMACL_ENTER(aclrtMallocHost);
  if (pointer == nullptr || size == 0) return call.Fail(kInvalidParam, "EH0001: size is 0");
  if (const int code = CheckContext(&call)) return code;
  Block block;
  block.size = size;
  block.shadow = NewShadow(size);
  if (block.shadow == nullptr) return call.Return(kDeviceMemory);
  block.born = Get().seq;
  block.thread = ThreadNumber();
  Get().pinned[reinterpret_cast<uintptr_t>(block.shadow)] = block;
  *pointer = block.shadow;
  return call.Return(kOk);
}

SIMACL_EXPORT aclError aclrtFreeHost(void* pointer) {
  SIMACL_RELEASE(aclrtFreeHost);
  if (pointer == nullptr) return call.Fail(kInvalidParam, "EH0002: hostPtr must not be null.");
  if (const int code = CheckContext(&call)) return code;
  auto found = Get().pinned.find(AsHandle(pointer));
  if (found == Get().pinned.end()) return call.Fail(kRtParam, "EE1003: not pinned memory");
  free(found->second.shadow);
  Get().pinned.erase(found);
  return call.Return(kOk);
}

SIMACL_EXPORT aclError aclrtMemcpy(void* dst, size_t max, const void* src, size_t count,
                                   aclrtMemcpyKind kind) {
  SIMACL_ENTER(aclrtMemcpy);
  if (count == 0 && dst != nullptr && src != nullptr) return call.Return(kOk);
  if (const int code = CheckCopy(&call, dst, max, src, count)) return code;
  CheckDirection(dst, src, kind);
  const Status status = Copy(dst, src, count);
  if (status.code != kOk) return call.Fail(status.code, status.text);
  return call.Return(kOk);
}

SIMACL_EXPORT aclError aclrtMemcpyAsync(void* dst, size_t max, const void* src, size_t count,
                                        aclrtMemcpyKind kind, aclrtStream handle) {
  SIMACL_ENTER(aclrtMemcpyAsync);
  if (const int code = CheckCopy(&call, dst, max, src, count)) return code;
  int code = kOk;
  auto stream = FindStream(&call, handle, &code);
  if (stream == nullptr) return code;
  CheckDirection(dst, src, kind);
  const void* host = IsDevice(AsHandle(dst)) ? src : dst;
  if (!IsDevice(AsHandle(host)) && !IsPinned(AsHandle(host), count)) {
    // Pageable memory cannot be copied behind the caller's back: the copy becomes synchronous.
    Violation("asynchronous copy with pageable host memory");
    Status status = Drain(stream.get(), &call.lock(), -1, SIZE_MAX);
    if (status.code == kOk) status = Copy(dst, src, count);
    if (status.code != kOk) return call.Fail(status.code, status.text);
    return call.Return(kOk);
  }
  Op op;
  op.what = "memcpy";
  op.delay_us = Get().Get("copy_us");
  op.run = [dst, src, host, count](Lock*) {
    if (!IsDevice(AsHandle(host)) && !IsPinned(AsHandle(host), count)) {
      return Status{kCopyError, "EZ9999: Inner Error! the pinned memory of a copy was freed"};
    }
    return Copy(dst, src, count);
  };
  Enqueue(stream.get(), std::move(op));
  return call.Return(kOk);
}

SIMACL_EXPORT aclError aclrtMemset(void* pointer, size_t max, int32_t value, size_t count) {
  SIMACL_ENTER(aclrtMemset);
  if (const int code = CheckCopy(&call, pointer, max, pointer, count)) return code;
  uint8_t* bytes = Bytes(pointer, count);
  if (bytes == nullptr) return call.Fail(kCopyError, "EZ9999: memset outside a live block");
  memset(bytes, value, count);
  return call.Return(kOk);
}

SIMACL_EXPORT aclError aclrtGetMemInfo(aclrtMemAttr attribute, size_t* free, size_t* total) {
  SIMACL_ENTER(aclrtGetMemInfo);
  SIMACL_NEED(free);
  SIMACL_NEED(total);
  if (const int code = CheckContext(&call)) return code;
  // One kind of memory only, as on the boards: HBM (1) here unless configured as DDR (0).
  if (attribute != (Get().Get("ddr") ? 0 : 1)) {
    *free = *total = 0;
    return call.Return(kOk);
  }
  const size_t used = Get().used_on[CurrentContext()->device];
  *total = Capacity();
  *free = Capacity() - std::min(used, Capacity());
  return call.Return(kOk);
}
