"""The C functions that omfuse uses from ``libascendcl``, as one table of prototypes.

Everything is derived from this text: the ctypes signatures (every symbol has ``argtypes`` and
``restype``, since a missing one truncates pointers to 32 bits), the header that the simulated
library is compiled against, and the C file with which a test compares the table to the real
headers.  The functions exist with these signatures in CANN 8.1.RC1 and in all later releases
read; those in :data:`SINCE_9` are newer.
"""

from __future__ import annotations

import ctypes
import re
from typing import Any, NamedTuple

MAX_DIM_COUNT = 128
MAX_TENSOR_NAME = 128
MAX_GEARS = 128


class IODims(ctypes.Structure):
    """``aclmdlIODims``: a tensor's name and dims, passed by the caller (1160 bytes)."""

    _fields_ = [
        ("name", ctypes.c_char * MAX_TENSOR_NAME),
        ("dimCount", ctypes.c_size_t),
        ("dims", ctypes.c_int64 * MAX_DIM_COUNT),
    ]


class IODimsRange(ctypes.Structure):
    """``aclmdlIODimsRange``: lower and upper bound of each dim, -1 for none."""

    _fields_ = [("rangeCount", ctypes.c_size_t), ("range", (ctypes.c_int64 * 2) * MAX_DIM_COUNT)]


class BatchGears(ctypes.Structure):
    """``aclmdlBatch``: the batch sizes that were compiled."""

    _fields_ = [("batchCount", ctypes.c_size_t), ("batch", ctypes.c_uint64 * MAX_GEARS)]


class ImageGears(ctypes.Structure):
    """``aclmdlHW``: the height and width pairs that were compiled."""

    _fields_ = [("hwCount", ctypes.c_size_t), ("hw", (ctypes.c_uint64 * 2) * MAX_GEARS)]


PROTOTYPES = """
aclError aclInit(const char *configPath);
aclError aclFinalize();
aclError aclFinalizeReference(uint64_t *refCount);
aclError aclrtGetVersion(int32_t *majorVersion, int32_t *minorVersion, int32_t *patchVersion);
const char *aclrtGetSocName();
const char *aclGetRecentErrMsg();
aclError aclrtSetDevice(int32_t deviceId);
aclError aclrtResetDevice(int32_t deviceId);
aclError aclrtResetDeviceForce(int32_t deviceId);
aclError aclrtGetDevice(int32_t *deviceId);
aclError aclrtGetDeviceCount(uint32_t *count);
aclError aclrtGetRunMode(aclrtRunMode *runMode);
aclError aclrtSetSysParamOpt(aclSysParamOpt opt, int64_t value);
aclError aclrtSynchronizeDevice();
aclError aclrtCreateContext(aclrtContext *context, int32_t deviceId);
aclError aclrtDestroyContext(aclrtContext context);
aclError aclrtSetCurrentContext(aclrtContext context);
aclError aclrtGetCurrentContext(aclrtContext *context);
aclError aclrtCreateStream(aclrtStream *stream);
aclError aclrtCreateStreamWithConfig(aclrtStream *stream, uint32_t priority, uint32_t flag);
aclError aclrtDestroyStream(aclrtStream stream);
aclError aclrtDestroyStreamForce(aclrtStream stream);
aclError aclrtSynchronizeStream(aclrtStream stream);
aclError aclrtSynchronizeStreamWithTimeout(aclrtStream stream, int32_t timeout);
aclError aclrtSetStreamFailureMode(aclrtStream stream, uint64_t mode);
aclError aclrtStreamQuery(aclrtStream stream, aclrtStreamStatus *status);
aclError aclrtCreateEvent(aclrtEvent *event);
aclError aclrtCreateEventExWithFlag(aclrtEvent *event, uint32_t flag);
aclError aclrtDestroyEvent(aclrtEvent event);
aclError aclrtRecordEvent(aclrtEvent event, aclrtStream stream);
aclError aclrtStreamWaitEvent(aclrtStream stream, aclrtEvent event);
aclError aclrtSynchronizeEvent(aclrtEvent event);
aclError aclrtSynchronizeEventWithTimeout(aclrtEvent event, int32_t timeout);
aclError aclrtQueryEventStatus(aclrtEvent event, aclrtEventRecordedStatus *status);
aclError aclrtEventElapsedTime(float *ms, aclrtEvent startEvent, aclrtEvent endEvent);
aclError aclrtMalloc(void **devPtr, size_t size, aclrtMemMallocPolicy policy);
aclError aclrtFree(void *devPtr);
aclError aclrtMallocHost(void **hostPtr, size_t size);
aclError aclrtFreeHost(void *hostPtr);
aclError aclrtMemcpy(void *dst, size_t destMax, const void *src, size_t count,
                     aclrtMemcpyKind kind);
aclError aclrtMemcpyAsync(void *dst, size_t destMax, const void *src, size_t count,
                          aclrtMemcpyKind kind, aclrtStream stream);
aclError aclrtMemset(void *devPtr, size_t maxCount, int32_t value, size_t count);
aclError aclrtGetMemInfo(aclrtMemAttr attr, size_t *free, size_t *total);
aclDataBuffer *aclCreateDataBuffer(void *data, size_t size);
aclError aclDestroyDataBuffer(const aclDataBuffer *dataBuffer);
aclError aclUpdateDataBuffer(aclDataBuffer *dataBuffer, void *data, size_t size);
void *aclGetDataBufferAddr(const aclDataBuffer *dataBuffer);
size_t aclGetDataBufferSizeV2(const aclDataBuffer *dataBuffer);
aclTensorDesc *aclCreateTensorDesc(aclDataType dataType, int numDims, const int64_t *dims,
                                   aclFormat format);
void aclDestroyTensorDesc(const aclTensorDesc *desc);
aclDataType aclGetTensorDescType(const aclTensorDesc *desc);
aclFormat aclGetTensorDescFormat(const aclTensorDesc *desc);
size_t aclGetTensorDescSize(const aclTensorDesc *desc);
size_t aclGetTensorDescNumDims(const aclTensorDesc *desc);
aclError aclGetTensorDescDimV2(const aclTensorDesc *desc, size_t index, int64_t *dimSize);
aclmdlDesc *aclmdlCreateDesc();
aclError aclmdlDestroyDesc(aclmdlDesc *modelDesc);
aclError aclmdlGetDesc(aclmdlDesc *modelDesc, uint32_t modelId);
aclError aclmdlGetDescFromFile(aclmdlDesc *modelDesc, const char *modelPath);
size_t aclmdlGetNumInputs(aclmdlDesc *modelDesc);
size_t aclmdlGetNumOutputs(aclmdlDesc *modelDesc);
size_t aclmdlGetInputSizeByIndex(aclmdlDesc *modelDesc, size_t index);
size_t aclmdlGetOutputSizeByIndex(aclmdlDesc *modelDesc, size_t index);
aclError aclmdlGetInputDims(const aclmdlDesc *modelDesc, size_t index, aclmdlIODims *dims);
aclError aclmdlGetInputDimsV2(const aclmdlDesc *modelDesc, size_t index, aclmdlIODims *dims);
aclError aclmdlGetInputDimsRange(const aclmdlDesc *modelDesc, size_t index,
                                 aclmdlIODimsRange *dimsRange);
aclError aclmdlGetOutputDims(const aclmdlDesc *modelDesc, size_t index, aclmdlIODims *dims);
aclError aclmdlGetCurOutputDims(const aclmdlDesc *modelDesc, size_t index, aclmdlIODims *dims);
const char *aclmdlGetInputNameByIndex(const aclmdlDesc *modelDesc, size_t index);
const char *aclmdlGetOutputNameByIndex(const aclmdlDesc *modelDesc, size_t index);
const char *aclmdlGetTensorRealName(const aclmdlDesc *modelDesc, const char *name);
aclError aclmdlGetInputIndexByName(const aclmdlDesc *modelDesc, const char *name, size_t *index);
aclError aclmdlGetOutputIndexByName(const aclmdlDesc *modelDesc, const char *name, size_t *index);
aclFormat aclmdlGetInputFormat(const aclmdlDesc *modelDesc, size_t index);
aclFormat aclmdlGetOutputFormat(const aclmdlDesc *modelDesc, size_t index);
aclDataType aclmdlGetInputDataType(const aclmdlDesc *modelDesc, size_t index);
aclDataType aclmdlGetOutputDataType(const aclmdlDesc *modelDesc, size_t index);
aclError aclmdlGetDynamicBatch(const aclmdlDesc *modelDesc, aclmdlBatch *batch);
aclError aclmdlGetDynamicHW(const aclmdlDesc *modelDesc, size_t index, aclmdlHW *hw);
aclError aclmdlGetInputDynamicGearCount(const aclmdlDesc *modelDesc, size_t index,
                                        size_t *gearCount);
aclError aclmdlGetInputDynamicDims(const aclmdlDesc *modelDesc, size_t index, aclmdlIODims *dims,
                                   size_t gearCount);
aclError aclmdlLoadFromFile(const char *modelPath, uint32_t *modelId);
aclError aclmdlLoadFromMem(const void *model, size_t modelSize, uint32_t *modelId);
aclError aclmdlLoadFromFileWithMem(const char *modelPath, uint32_t *modelId, void *workPtr,
                                   size_t workSize, void *weightPtr, size_t weightSize);
aclError aclmdlLoadFromMemWithMem(const void *model, size_t modelSize, uint32_t *modelId,
                                  void *workPtr, size_t workSize, void *weightPtr,
                                  size_t weightSize);
aclError aclmdlQuerySize(const char *fileName, size_t *workSize, size_t *weightSize);
aclError aclmdlQuerySizeFromMem(const void *model, size_t modelSize, size_t *workSize,
                                size_t *weightSize);
aclError aclmdlUnload(uint32_t modelId);
aclmdlConfigHandle *aclmdlCreateConfigHandle();
aclError aclmdlDestroyConfigHandle(aclmdlConfigHandle *handle);
aclError aclmdlSetConfigOpt(aclmdlConfigHandle *handle, aclmdlConfigAttr attr,
                            const void *attrValue, size_t valueSize);
aclError aclmdlLoadWithConfig(const aclmdlConfigHandle *handle, uint32_t *modelId);
aclmdlExecConfigHandle *aclmdlCreateExecConfigHandle();
aclError aclmdlDestroyExecConfigHandle(const aclmdlExecConfigHandle *handle);
aclError aclmdlSetExecConfigOpt(aclmdlExecConfigHandle *handle, aclmdlExecConfigAttr attr,
                                const void *attrValue, size_t valueSize);
aclmdlDataset *aclmdlCreateDataset();
aclError aclmdlDestroyDataset(const aclmdlDataset *dataset);
aclError aclmdlAddDatasetBuffer(aclmdlDataset *dataset, aclDataBuffer *dataBuffer);
aclDataBuffer *aclmdlGetDatasetBuffer(const aclmdlDataset *dataset, size_t index);
size_t aclmdlGetDatasetNumBuffers(const aclmdlDataset *dataset);
aclError aclmdlSetDatasetTensorDesc(aclmdlDataset *dataset, aclTensorDesc *tensorDesc,
                                    size_t index);
aclTensorDesc *aclmdlGetDatasetTensorDesc(const aclmdlDataset *dataset, size_t index);
aclError aclmdlSetDynamicBatchSize(uint32_t modelId, aclmdlDataset *dataset, size_t index,
                                   uint64_t batchSize);
aclError aclmdlSetDynamicHWSize(uint32_t modelId, aclmdlDataset *dataset, size_t index,
                                uint64_t height, uint64_t width);
aclError aclmdlSetInputDynamicDims(uint32_t modelId, aclmdlDataset *dataset, size_t index,
                                   const aclmdlIODims *dims);
aclError aclmdlExecute(uint32_t modelId, const aclmdlDataset *input, aclmdlDataset *output);
aclError aclmdlExecuteAsync(uint32_t modelId, const aclmdlDataset *input, aclmdlDataset *output,
                            aclrtStream stream);
aclError aclmdlExecuteV2(uint32_t modelId, const aclmdlDataset *input, aclmdlDataset *output,
                         aclrtStream stream, const aclmdlExecConfigHandle *handle);
aclError aclmdlExecuteAsyncV2(uint32_t modelId, const aclmdlDataset *input, aclmdlDataset *output,
                              aclrtStream stream, const aclmdlExecConfigHandle *handle);
aclError aclmdlInitDump();
aclError aclmdlSetDump(const char *dumpCfgPath);
aclError aclmdlFinalizeDump();
"""

# Missing in CANN 8.1.RC1: resolved on first use, so that an old runtime lacks only the feature.
SINCE_9 = frozenset({"aclFinalizeReference", "aclmdlGetInputDimsRange"})

_SCALARS: dict[str, Any] = {
    "void": None,
    "int": ctypes.c_int,
    "int32_t": ctypes.c_int32,
    "int64_t": ctypes.c_int64,
    "uint32_t": ctypes.c_uint32,
    "uint64_t": ctypes.c_uint64,
    "size_t": ctypes.c_size_t,
    "float": ctypes.c_float,
    "char": ctypes.c_char,
    # Enumerations are int in C; these three are pointers behind a typedef.
    "aclrtContext": ctypes.c_void_p,
    "aclrtStream": ctypes.c_void_p,
    "aclrtEvent": ctypes.c_void_p,
    "aclmdlIODims": IODims,
    "aclmdlIODimsRange": IODimsRange,
    "aclmdlBatch": BatchGears,
    "aclmdlHW": ImageGears,
}
ENUMS = (
    "aclError",
    "aclrtRunMode",
    "aclSysParamOpt",
    "aclrtStreamStatus",
    "aclrtEventRecordedStatus",
    "aclrtMemMallocPolicy",
    "aclrtMemcpyKind",
    "aclrtMemAttr",
    "aclDataType",
    "aclFormat",
    "aclmdlConfigAttr",
    "aclmdlExecConfigAttr",
)
OPAQUE = (
    "aclDataBuffer",
    "aclTensorDesc",
    "aclmdlDesc",
    "aclmdlDataset",
    "aclmdlConfigHandle",
    "aclmdlExecConfigHandle",
)


class Signature(NamedTuple):
    """One function: its ctypes result and arguments, and the C text it came from."""

    restype: Any
    argtypes: tuple[Any, ...]
    text: str


def _ctype(words: str) -> Any:
    """Translate a C type such as ``const aclmdlDesc *`` to ctypes."""
    stars = words.count("*")
    base = re.sub(r"\bconst\b|\*", " ", words).strip()
    if base in OPAQUE or (base == "void" and stars):
        kind: Any = ctypes.c_void_p
        stars -= 1
    elif base == "char" and stars:
        kind = ctypes.c_char_p
        stars -= 1
    elif base in ENUMS:
        kind = ctypes.c_int
    else:
        kind = _SCALARS[base]
    for _ in range(stars):
        kind = ctypes.POINTER(kind)
    return kind


def declarations() -> list[str]:
    """Return the prototypes, one string each, without line breaks."""
    return [re.sub(r"\s+", " ", part).strip() for part in PROTOTYPES.split(";") if part.strip()]


def _parse(text: str) -> tuple[str, Signature]:
    match = re.match(r"(.*?)(\w+)\((.*)\)$", text)
    if match is None:
        raise ValueError(f"not a prototype: {text}")
    result, name, arguments = match.groups()
    types = [re.sub(r"\w+$", "", part.strip()) for part in arguments.split(",") if part.strip()]
    return name, Signature(_ctype(result), tuple(_ctype(part) for part in types), text)


SIGNATURES: dict[str, Signature] = dict(_parse(text) for text in declarations())
