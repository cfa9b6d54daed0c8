// The few entries of onnxruntime's C interface that the operator uses, declared by ourselves.
//
// The table of functions only ever grows: onnxruntime asserts at its own compile time that entries
// of released versions keep their places (entry 101 closes version 1, entry 275 version 17).  So an
// index is as stable as a name.  Version 17 (onnxruntime 1.17) is the newest one needed here.
#pragma once

#include <cstddef>
#include <cstdint>

namespace omfuse::ort {

constexpr uint32_t kApiVersion = 17;

struct Status;
struct ApiBase {
  const void* const* (*get_api)(uint32_t version);
  const char* (*version)();
};

enum Slot : int {
  kCreateStatus = 0,
  kGetErrorMessage = 2,
  kCreateCustomOpDomain = 26,
  kCustomOpDomainAdd = 27,
  kAddCustomOpDomain = 28,
  kGetTensorMutableData = 51,
  kGetDimensionsCount = 61,
  kGetDimensions = 62,
  kGetTensorTypeAndShape = 65,
  kAttributeFloat = 85,
  kAttributeInt64 = 86,
  kAttributeString = 87,
  kInputCount = 88,
  kOutputCount = 89,
  kGetInput = 90,
  kGetOutput = 91,
  kReleaseStatus = 93,
  kReleaseTensorTypeAndShapeInfo = 99,
  kParallelFor = 274,
};

class Api {
 public:
  explicit Api(const void* const* table) : table_(table) {}
  template <class Result = Status*, class... Args>
  Result Call(Slot slot, Args... args) const {
    return reinterpret_cast<Result (*)(Args...)>(const_cast<void*>(table_[slot]))(args...);
  }
  // True when the call went well; the status of a failed call is released.
  template <class... Args>
  bool Try(Slot slot, Args... args) const {
    Status* status = Call<Status*>(slot, args...);
    if (status) Call<void>(kReleaseStatus, status);
    return !status;
  }
  Status* Error(const char* message) const { return Call<Status*>(kCreateStatus, int{1}, message); }

 private:
  const void* const* table_;
};

// A custom operator as onnxruntime sees it, up to the members of version 17.
struct CustomOp {
  uint32_t version;
  void* (*create_kernel)(const CustomOp*, const void* const*, const void*);
  const char* (*name)(const CustomOp*);
  const char* (*provider)(const CustomOp*);
  int (*input_type)(const CustomOp*, size_t);
  size_t (*input_count)(const CustomOp*);
  int (*output_type)(const CustomOp*, size_t);
  size_t (*output_count)(const CustomOp*);
  void (*compute)(void*, void*);
  void (*destroy)(void*);
  int (*input_characteristic)(const CustomOp*, size_t);
  int (*output_characteristic)(const CustomOp*, size_t);
  int (*input_memory)(const CustomOp*, size_t);
  int (*variadic_input_min)(const CustomOp*);
  int (*variadic_input_homogeneous)(const CustomOp*);
  int (*variadic_output_min)(const CustomOp*);
  int (*variadic_output_homogeneous)(const CustomOp*);
  Status* (*create_kernel_v2)(const CustomOp*, const void* const*, const void*, void**);
  Status* (*compute_v2)(void*, void*);
  Status* (*infer_shape)(const CustomOp*, void*);
  int (*start_version)(const CustomOp*);
  int (*end_version)(const CustomOp*);
  size_t (*may_inplace)(int**, int**);
  void (*release_may_inplace)(int*, int*);
  size_t (*alias)(int**, int**);
  void (*release_alias)(int*, int*);
};

}  // namespace omfuse::ort
