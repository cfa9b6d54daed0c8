// GlobalTensor and LocalTensor.
#ifndef OMFUSE_EMULATION_API_TENSOR_H_
#define OMFUSE_EMULATION_API_TENSOR_H_

#include "api_types.h"

namespace AscendC {

template <typename T>
class GlobalTensor {
 public:
  void SetGlobalBuffer(T* address, uint64_t = 0) { address_ = address; }
  GlobalTensor operator[](uint64_t offset) const {
    GlobalTensor moved;
    moved.address_ = address_ + offset;
    return moved;
  }
  const T* GetPhyAddr() const { return address_; }
  // A scalar read; only of inputs, whose value no pipe changes.
  T GetValue(uint64_t index) const {
    omfuse_emu::Core& core = omfuse_emu::Machine::Current();
    omfuse_emu::Storage* storage = Region();
    const uint64_t at = Offset(*storage) + index * sizeof(T);
    if (at + sizeof(T) > storage->size) {
      core.Fail("a scalar read at byte " + std::to_string(at) + " of " + storage->name +
                " is beyond its end");
    }
    core.Scalar(20);
    return *reinterpret_cast<const T*>(storage->data + at);
  }
  omfuse_emu::Storage* Region() const {
    omfuse_emu::Core& core = omfuse_emu::Machine::Current();
    omfuse_emu::Storage* found = core.machine().global().Find(address_);
    if (!found) core.Fail("an address outside every tensor of the kernel");
    return found;
  }
  uint64_t Offset(const omfuse_emu::Storage& region) const {
    return static_cast<uint64_t>(reinterpret_cast<const uint8_t*>(address_) - region.data);
  }

 private:
  T* address_ = nullptr;
};

template <typename T>
class LocalTensor {
 public:
  LocalTensor() = default;
  LocalTensor(omfuse_emu::Space where, omfuse_emu::Storage* bank, uint64_t at, uint32_t elements)
      : space_(where), storage_(bank), offset_(at), elements_(elements) {}
  LocalTensor operator[](uint32_t offset) const {
    LocalTensor moved = *this;
    moved.offset_ += static_cast<uint64_t>(offset) * sizeof(T);
    moved.elements_ = offset < elements_ ? elements_ - offset : 0;
    return moved;
  }
  template <typename U>
  LocalTensor<U> ReinterpretCast() const {
    return LocalTensor<U>(space_, storage_, offset_,
                          static_cast<uint32_t>(uint64_t{elements_} * sizeof(T) / sizeof(U)));
  }
  // Accesses of the scalar unit to UB.
  T GetValue(uint32_t index) const {
    Scalar(index, false);
    return reinterpret_cast<const T*>(storage_->data + offset_)[index];
  }
  void SetValue(uint32_t index, T value) const {
    Scalar(index, true);
    reinterpret_cast<T*>(storage_->data + offset_)[index] = value;
  }
  uint32_t GetSize() const { return elements_; }
  omfuse_emu::Space space() const { return space_; }
  omfuse_emu::Storage* storage() const { return storage_; }
  uint64_t offset() const { return offset_; }

 private:
  void Scalar(uint32_t index, bool writes) const {
    omfuse_emu::Core& core = omfuse_emu::Machine::Current();
    if (!storage_ || space_ != omfuse_emu::Space::kUb) core.Fail("the scalar unit reads UB only");
    omfuse_emu::Instruction access;
    access.name = writes ? "SetValue" : "GetValue";
    omfuse_emu::Append(writes ? &access.writes : &access.reads, storage_,
                       offset_ + uint64_t{index} * sizeof(T), sizeof(T));
    core.ScalarAccess(std::move(access));
  }

  omfuse_emu::Space space_ = omfuse_emu::Space::kUb;
  omfuse_emu::Storage* storage_ = nullptr;
  uint64_t offset_ = 0;
  uint32_t elements_ = 0;
};

// Fails unless the tensor lies where the instruction can reach it, aligned as it needs.
template <typename T>
inline void Require(const char* name, const LocalTensor<T>& tensor, omfuse_emu::Space space,
                    uint32_t alignment = 32) {
  omfuse_emu::Core& core = omfuse_emu::Machine::Current();
  if (!tensor.storage()) core.Fail(std::string(name) + " got a tensor without memory");
  if (tensor.space() != space) {
    core.Fail(std::string(name) + " needs " + omfuse_emu::kSpaceNames[static_cast<int>(space)] +
              " and got " + omfuse_emu::kSpaceNames[static_cast<int>(tensor.space())]);
  }
  if (tensor.offset() % alignment) {
    core.Fail(std::string(name) + " got an address that is not aligned to " +
              std::to_string(alignment) + " bytes");
  }
}

// Fails unless a parameter is in its documented range.
inline void InRange(const char* name, const char* parameter, uint64_t value, uint64_t low,
                    uint64_t high) {
  if (value >= low && value <= high) return;
  omfuse_emu::Machine::Current().Fail(std::string(name) + ": " + parameter + " " +
                                      std::to_string(value) + " is outside " + std::to_string(low) +
                                      ".." + std::to_string(high));
}

}  // namespace AscendC

#endif  // OMFUSE_EMULATION_API_TENSOR_H_
