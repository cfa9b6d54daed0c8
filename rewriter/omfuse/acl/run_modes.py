"""The calls around one execution: set the shape, run, wait, read the shapes of the outputs."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from omfuse.acl.codes import UNSUPPORTED, AclError
from omfuse.acl.constants import ACL_FORMAT_ND, ACL_MDL_STREAM_SYNC_TIMEOUT
from omfuse.acl.describe import Description, Dims
from omfuse.acl.library import AclLibrary
from omfuse.acl.memory import BufferSet, Slot
from omfuse.acl.prototypes import IODims
from omfuse.acl.shapes import Choice

_TOO_SMALL = "E13031"  # the message of graph-engine on an output buffer that is too small


def set_shape(library: AclLibrary, model: int, buffers: BufferSet, choice: Choice) -> None:
    """Tell the library the shape of the next run; it forgets it afterwards."""
    described = buffers.described
    if described.mode == "dynamic":
        for slot, dims in zip(buffers.inputs, choice.dims):
            if any(size < 0 for size in slot.tensor.dims):
                _set_tensor_shape(library, buffers.input_set, slot.tensor.index, dims, slot)
        return
    if choice.gear is None or described.shape_input is None:
        return
    place, gear = described.shape_input.index, choice.gear
    if described.mode == "batch":
        library.call("aclmdlSetDynamicBatchSize", model, buffers.input_set, place, gear[0])
    elif described.mode == "image":
        library.call("aclmdlSetDynamicHWSize", model, buffers.input_set, place, gear[0], gear[1])
    else:
        all_dims = IODims()
        all_dims.dimCount = len(gear)
        all_dims.dims[: len(gear)] = gear
        library.call(
            "aclmdlSetInputDynamicDims", model, buffers.input_set, place, ctypes.byref(all_dims)
        )


def _set_tensor_shape(
    library: AclLibrary, dataset: int, index: int, dims: Dims, slot: Slot
) -> None:
    shape = (ctypes.c_int64 * max(len(dims), 1))(*dims)
    desc = library.make("aclCreateTensorDesc", slot.tensor.code, len(dims), shape, ACL_FORMAT_ND)
    try:
        library.call("aclmdlSetDatasetTensorDesc", dataset, desc, index)
    finally:
        library.value("aclDestroyTensorDesc", desc)  # the dataset has copied it


def output_dims(library: AclLibrary, model: int, described: Description) -> list[Dims]:
    """Return the dims of the outputs of the next run; of a model whose sizes are bounded.

    Call it after :func:`set_shape`.
    """
    if described.mode == "static":
        return [tensor.dims for tensor in described.outputs]
    desc = library.make("aclmdlCreateDesc")
    try:
        library.call("aclmdlGetDesc", desc, model)
        found = []
        for tensor in described.outputs:
            dims = IODims()
            library.call("aclmdlGetCurOutputDims", desc, tensor.index, ctypes.byref(dims))
            found.append(tuple(dims.dims[: dims.dimCount]))
        return found
    finally:
        library.status("aclmdlDestroyDesc", desc)


def wait(library: AclLibrary, stream: int, timeout: float | None, where: str) -> None:
    """Wait for a stream.

    Raises:
        AclError: what went wrong on the stream, or 507046 when it takes too long.
    """
    if timeout is None:
        library.call("aclrtSynchronizeStream", stream, where=where)
    else:
        library.call(
            "aclrtSynchronizeStreamWithTimeout", stream, milliseconds(timeout), where=where
        )


def milliseconds(timeout: float) -> int:
    """Return a timeout as the library wants it: at least 1."""
    return max(1, min(int(timeout * 1000), 2**31 - 1))


def execute_dynamic(
    library: AclLibrary,
    model: int,
    buffers: BufferSet,
    known: Sequence[int] | None,
    timeout: float | None,
    where: str,
) -> list[Dims]:
    """Run a model whose output sizes follow from the run.

    The first run of a shape leaves the outputs to the library, which allocates them; later ones
    of the same shape reuse the memory.  Where the size depends on the values, a buffer that
    turns out too small is left to the library once more. ``known``
    are the bytes of the outputs in an earlier run of this shape.
    """
    for slot, size in zip(buffers.outputs, known or [0] * len(buffers.outputs)):
        if known is None:
            slot.release()
        else:
            slot.ensure(size)
    try:
        _execute(library, model, buffers, timeout, where)
    except AclError as error:
        buffers.drop_outputs()
        if known is None or _TOO_SMALL not in error.said:
            raise
        try:
            _execute(library, model, buffers, timeout, where)
        except AclError:
            buffers.drop_outputs()
            raise
    found = []
    for slot in buffers.outputs:
        slot.adopt()
        dims, told = _run_dims(library, buffers.output_set, slot.tensor.index)
        held = slot.memory.size if slot.memory is not None else 0
        size = -1 if any(size < 0 for size in dims) else slot.tensor.bytes_of(dims)
        if not 0 <= size <= held or size != told:
            raise AclError(
                UNSUPPORTED,
                "aclmdlGetDatasetTensorDesc",
                more=f"output {slot.tensor.name} is said to be {list(dims)} with {told} bytes, its "
                f"buffer has {held}",
            )
        found.append(dims)
    return found


def _execute(
    library: AclLibrary, model: int, buffers: BufferSet, timeout: float | None, where: str
) -> None:
    sets = (buffers.input_set, buffers.output_set)
    if timeout is None:
        library.call("aclmdlExecute", model, *sets, where=where)
        return
    config = library.make("aclmdlCreateExecConfigHandle")
    try:
        limit = ctypes.c_int32(milliseconds(timeout))
        library.call(
            "aclmdlSetExecConfigOpt", config, ACL_MDL_STREAM_SYNC_TIMEOUT, ctypes.byref(limit), 4
        )
        library.call("aclmdlExecuteV2", model, *sets, None, config, where=where)
    finally:
        library.status("aclmdlDestroyExecConfigHandle", config)


def _run_dims(library: AclLibrary, dataset: int, index: int) -> tuple[Dims, int]:
    # The library makes a new description in every run: read it now, keep nothing.
    desc = library.value("aclmdlGetDatasetTensorDesc", dataset, index)
    if not desc:
        raise AclError(
            UNSUPPORTED,
            "aclmdlGetDatasetTensorDesc",
            library.recent_message(),
            more=f"the shape of output {index} is not told",
        )
    sizes = []
    for axis in range(int(library.value("aclGetTensorDescNumDims", desc))):
        size = ctypes.c_int64()
        library.call("aclGetTensorDescDimV2", desc, axis, ctypes.byref(size))
        sizes.append(size.value)
    return tuple(sizes), int(library.value("aclGetTensorDescSize", desc))
