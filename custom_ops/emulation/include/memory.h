// Memories of the emulated device, with shadows: which bytes were written, and by whom last.
#ifndef OMFUSE_EMULATION_MEMORY_H_
#define OMFUSE_EMULATION_MEMORY_H_

#include <cstdint>
#include <string>
#include <vector>

namespace omfuse_emu {

enum class Space { kUb = 0, kL1 = 1, kL0a = 2, kL0b = 3, kL0c = 4, kGlobal = 5 };
constexpr int kSpaces = 5;  // on a core
extern const char* const kSpaceNames[6];

struct Epoch {  // one instruction of one pipe
  uint32_t slot = 0;
  uint32_t sequence = 0;  // 0 = none
  bool adds = false;      // an addition in memory, which others of its kind may overtake
};

struct Cell {  // the last accesses to one granule of memory
  Epoch write;
  Epoch reads[3];
};

// A piece of memory with shadows (kept only when checks are on).
struct Storage {
  uint8_t* data = nullptr;
  uint64_t size = 0;
  std::vector<uint8_t> written;  // a byte each
  std::vector<Cell> cells;
  uint32_t granule = 32;
  bool races = true;  // false: read-only for the kernel
  bool writable = true;
  bool workspace = false;
  std::string name;
  uint64_t spare = 0;  // readable bytes behind the end, as a device allocation has

  void Shadow(bool initialised);
  bool AllWritten(uint64_t begin, uint64_t length) const;
  void MarkWritten(uint64_t begin, uint64_t length);
};

struct Range {
  Storage* storage;
  uint64_t begin, end;  // bytes
};

// Appends, merging with the range before where they touch.
void Append(std::vector<Range>* ranges, Storage* storage, uint64_t begin, uint64_t length);

// Copies bytes and their shadow.
void CopyBytes(Storage* to, uint64_t to_offset, const Storage& from, uint64_t from_offset,
               uint64_t length);

struct LocalMemory {
  std::vector<uint8_t> bytes;
  Storage storage;
  uint64_t used = 0;  // handed out by the pipe's allocator
  uint64_t most = 0;  // of that, ever
  void Reset(const char* name, uint64_t size, bool checks);
};

class GlobalMemory {
 public:
  // Copies `size` bytes of `data` (or none when null) into a buffer of its own.
  Storage* Add(const std::string& name, const void* data, uint64_t size, bool writable,
               bool workspace, bool checks);
  Storage* Find(const void* address);
  ~GlobalMemory();

 private:
  std::vector<Storage*> regions_;
};

}  // namespace omfuse_emu

#endif  // OMFUSE_EMULATION_MEMORY_H_
