#include "../include/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>

#include "../include/numeric.h"

namespace omfuse_emu {

const HalfTable kHalfTable;
const char* const kSpaceNames[6] = {"UB", "L1", "L0A", "L0B", "L0C", "GM"};

namespace {
constexpr uint8_t kPoison = 0xFF;     // a NaN in half, bfloat16 and float
constexpr uint64_t kSpareBytes = 32;  // aclrtMalloc adds them after rounding up to 32
}  // namespace

void Storage::Shadow(bool initialised) {
  written.assign(size + spare, initialised ? 1 : 0);
  if (races) cells.assign((size + spare + granule - 1) / granule, Cell());
}

bool Storage::AllWritten(uint64_t begin, uint64_t length) const {
  if (written.empty()) return true;
  return std::memchr(written.data() + begin, 0, length) == nullptr;
}

void Storage::MarkWritten(uint64_t begin, uint64_t length) {
  if (!written.empty()) std::memset(written.data() + begin, 1, length);
}

void Append(std::vector<Range>* ranges, Storage* storage, uint64_t begin, uint64_t length) {
  if (!length) return;
  if (!ranges->empty()) {
    Range& last = ranges->back();
    if (last.storage == storage && begin >= last.begin && begin <= last.end) {
      last.end = std::max(last.end, begin + length);
      return;
    }
  }
  ranges->push_back({storage, begin, begin + length});
}

void CopyBytes(Storage* to, uint64_t to_offset, const Storage& from, uint64_t from_offset,
               uint64_t length) {
  std::memcpy(to->data + to_offset, from.data + from_offset, length);
  if (!to->written.empty() && !from.written.empty()) {
    std::memcpy(to->written.data() + to_offset, from.written.data() + from_offset, length);
  }
}

void LocalMemory::Reset(const char* name, uint64_t size, bool checks) {
  if (bytes.size() != size) bytes.resize(size);
  storage.name = name;
  storage.data = bytes.data();
  storage.size = size;
  used = 0;
  if (checks) {
    std::fill(bytes.begin(), bytes.end(), kPoison);
    storage.Shadow(false);
  }
}

Storage* GlobalMemory::Add(const std::string& name, const void* data, uint64_t size, bool writable,
                           bool workspace, bool checks) {
  // Mapped and not touched: costs of large problems are counted without their memory.
  const uint64_t rounded = (size + 31) / 32 * 32 + kSpareBytes;
  void* base = mmap(nullptr, rounded, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) throw std::bad_alloc();
  auto* region = new Storage;
  regions_.push_back(region);
  region->name = name;
  region->data = static_cast<uint8_t*>(base);
  region->size = size;
  region->spare = rounded - size;
  region->writable = writable;
  region->workspace = workspace;
  region->races = writable;
  region->granule = workspace ? 32 : 2;
  if (data) std::memcpy(region->data, data, size);
  if (checks || data) std::memset(region->data + size, kPoison, rounded - size);
  if (checks) {
    if (!data) std::memset(region->data, kPoison, size);
    region->Shadow(data != nullptr);
    region->MarkWritten(size, region->spare);  // readable, of no known value
  }
  return region;
}

Storage* GlobalMemory::Find(const void* address) {
  const auto* at = static_cast<const uint8_t*>(address);
  for (Storage* region : regions_) {
    if (at >= region->data && at <= region->data + region->size) return region;
  }
  return nullptr;
}

GlobalMemory::~GlobalMemory() {
  for (auto* region : regions_) {
    munmap(region->data, region->size + region->spare);
    delete region;
  }
}

}  // namespace omfuse_emu
