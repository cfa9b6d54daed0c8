// Types of the ACL interface as far as the simulated library needs them. Enumerations are plain
// int: the ABI is the same. A test compiles this file's struct sizes against the public headers.
#ifndef OMFUSE_SIM_ACL_ACL_TYPES_H_
#define OMFUSE_SIM_ACL_ACL_TYPES_H_

#include <cstddef>
#include <cstdint>

typedef int aclError;
typedef int aclrtRunMode, aclSysParamOpt, aclrtStreamStatus, aclrtEventRecordedStatus;
typedef int aclrtMemMallocPolicy, aclrtMemcpyKind, aclrtMemAttr, aclDataType, aclFormat;
typedef int aclmdlConfigAttr, aclmdlExecConfigAttr;
typedef void *aclrtContext, *aclrtStream, *aclrtEvent;
typedef struct aclDataBuffer aclDataBuffer;
typedef struct aclTensorDesc aclTensorDesc;
typedef struct aclmdlDesc aclmdlDesc;
typedef struct aclmdlDataset aclmdlDataset;
typedef struct aclmdlConfigHandle aclmdlConfigHandle;
typedef struct aclmdlExecConfigHandle aclmdlExecConfigHandle;

struct aclmdlIODims {
  char name[128];
  size_t dimCount;
  int64_t dims[128];
};
struct aclmdlIODimsRange {
  size_t rangeCount;
  int64_t range[128][2];
};
struct aclmdlBatch {
  size_t batchCount;
  uint64_t batch[128];
};
struct aclmdlHW {
  size_t hwCount;
  uint64_t hw[128][2];
};

#endif  // OMFUSE_SIM_ACL_ACL_TYPES_H_
