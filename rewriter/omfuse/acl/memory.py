"""Device memory, pinned host memory, and the datasets that a run reads and writes."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from omfuse.acl import codes
from omfuse.acl.codes import AclError
from omfuse.acl.constants import (
    ACL_DDR_MEM,
    ACL_HBM_MEM,
    ACL_MEM_MALLOC_HUGE_FIRST,
    ACL_MEMCPY_DEVICE_TO_HOST,
    ACL_MEMCPY_HOST_TO_DEVICE,
)
from omfuse.acl.describe import Description, Tensor
from omfuse.acl.library import AclLibrary

_SMALLEST = 32  # bytes: a tensor without elements still gets an address


class DeviceMemory:
    """A block on the device.

    Raises:
        AclError: no memory; the message says how much is free.
    """

    def __init__(self, library: AclLibrary, size: int, what: str) -> None:
        self._library = library
        self.size = max(size, _SMALLEST)
        found = ctypes.c_void_p()
        number = library.status(
            "aclrtMalloc", ctypes.byref(found), self.size, ACL_MEM_MALLOC_HUGE_FIRST
        )
        if number or not found.value:
            said = library.recent_message()
            more = f"{what} needs {self.size} bytes"
            if number in codes.DEVICE_MEMORY:
                more += memory_left(library)
            raise AclError(number, "aclrtMalloc", said, more=more)
        self.address: int | None = found.value

    @classmethod
    def adopt(cls, library: AclLibrary, address: int, size: int) -> DeviceMemory:
        """Take over a block that the library allocated for us."""
        block = cls.__new__(cls)
        block._library, block.size, block.address = library, size, address
        return block

    def free(self) -> None:
        """Free it; safe to call twice, never raises."""
        address, self.address = self.address, None
        if address is not None:
            self._library.status("aclrtFree", address)


def memory_left(library: AclLibrary) -> str:
    """Return a clause on free and total device memory, empty when the runtime does not tell."""
    free, total = memory_info(library)
    return f", {free} of {total} bytes are free" if total else ""


def memory_info(library: AclLibrary) -> tuple[int, int]:
    """Return free and total bytes of the device; HBM, or DDR on chips without; zeros if unknown."""
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    for attribute in (ACL_HBM_MEM, ACL_DDR_MEM):
        number = library.status(
            "aclrtGetMemInfo", attribute, ctypes.byref(free), ctypes.byref(total)
        )
        if number == 0 and total.value:
            return free.value, total.value
    return 0, 0


class PinnedMemory:
    """Host memory that the device copies without the processor; ``array`` are its bytes.

    Raises:
        AclError: no such memory is left.
    """

    def __init__(self, library: AclLibrary, size: int) -> None:
        self._library = library
        found = ctypes.c_void_p()
        library.call("aclrtMallocHost", ctypes.byref(found), max(size, _SMALLEST))
        self.address: int | None = found.value
        raw = (ctypes.c_uint8 * max(size, _SMALLEST)).from_address(found.value or 0)
        self.array: np.ndarray[Any, Any] = np.ctypeslib.as_array(raw)

    def free(self) -> None:
        """Free it; safe to call twice, never raises."""
        address, self.address = self.address, None
        if address is not None:
            self.array = np.empty(0, np.uint8)
            self._library.status("aclrtFreeHost", address)


class Slot:
    """One input or output of a buffer set: a data buffer and the memory behind it."""

    def __init__(self, library: AclLibrary, tensor: Tensor) -> None:
        self._library = library
        self.tensor = tensor
        self.memory: DeviceMemory | None = None
        self.handle = library.make("aclCreateDataBuffer", None, 0)

    def _point(self, memory: DeviceMemory | None) -> None:
        address, size = (None, 0) if memory is None else (memory.address, memory.size)
        self._library.call("aclUpdateDataBuffer", self.handle, address, size)

    def ensure(self, size: int) -> None:
        """Have memory of at least ``size`` bytes; what it held may be lost."""
        if self.memory is not None and self.memory.size >= size:
            return
        self.release()
        memory = DeviceMemory(self._library, size, f"tensor {self.tensor.name!r}")
        try:
            self._point(memory)
        except BaseException:
            memory.free()
            raise
        self.memory = memory

    def release(self) -> None:
        """Free the memory and point nowhere, so that the library may allocate."""
        if self.memory is not None:
            # First the buffer, then the memory: it must never name memory that is gone.
            self._point(None)
            memory, self.memory = self.memory, None
            memory.free()

    def adopt(self) -> None:
        """Take over what the library allocated during a run."""
        if self.memory is None:
            address = self._library.value("aclGetDataBufferAddr", self.handle)
            if address:
                size = int(self._library.value("aclGetDataBufferSizeV2", self.handle))
                self.memory = DeviceMemory.adopt(self._library, int(address), size)

    def swap(self, other: Slot) -> None:
        """Exchange the memory with another slot, without a copy."""
        try:
            self._point(other.memory)
            other._point(self.memory)
        except AclError:
            with contextlib.suppress(AclError):
                self._point(self.memory)
            raise
        self.memory, other.memory = other.memory, self.memory

    @property
    def address(self) -> int:
        """The device address; there must be memory."""
        assert self.memory is not None
        assert self.memory.address is not None
        return self.memory.address

    def close(self) -> None:
        """Free everything; never raises."""
        self.adopt()
        memory, self.memory = self.memory, None
        self._library.status("aclDestroyDataBuffer", self.handle)
        if memory is not None:
            memory.free()


class BufferSet:
    """Datasets of one run: inputs, the hidden shape input, outputs.

    Buffers of bounded size are allocated at once and reused by every run.

    Raises:
        AclError: memory or handles ran out; nothing stays behind.
    """

    def __init__(self, library: AclLibrary, described: Description) -> None:
        self._library = library
        self.described = described
        self.inputs: list[Slot] = []
        self.outputs: list[Slot] = []
        self._hidden: list[Slot] = []
        self._datasets: list[int] = []
        try:
            self.input_set = self._dataset()
            hidden = described.shape_input
            for tensor in sorted(
                (*described.inputs, *([hidden] if hidden else [])), key=lambda t: t.index
            ):
                slots = self._hidden if tensor is hidden else self.inputs
                self._add(tensor, slots, self.input_set)
            self.output_set = self._dataset()
            for tensor in described.outputs:
                self._add(tensor, self.outputs, self.output_set)
        except BaseException:
            self.close()
            raise

    def _dataset(self) -> int:
        made = self._library.make("aclmdlCreateDataset")
        self._datasets.append(made)
        return made

    def _add(self, tensor: Tensor, slots: list[Slot], dataset: int) -> None:
        slot = Slot(self._library, tensor)
        slots.append(slot)
        # Without a bound, inputs grow with what is fed and outputs come from the library.
        if self.described.mode != "dynamic":
            slot.ensure(tensor.size)
        self._library.call("aclmdlAddDatasetBuffer", dataset, slot.handle)

    def drop_outputs(self) -> None:
        """Free what a failed run may have allocated, and point the outputs nowhere."""
        for slot in self.outputs:
            slot.adopt()
            with contextlib.suppress(AclError):  # then it keeps its memory
                slot.release()

    def close(self) -> None:
        """Free everything; safe to call twice, never raises."""
        slots = [*self.inputs, *self._hidden, *self.outputs]
        datasets, self._datasets = self._datasets, []
        self.inputs, self._hidden, self.outputs = [], [], []
        for dataset in datasets:
            self._library.status("aclmdlDestroyDataset", dataset)
        for slot in slots:
            slot.close()


def to_device(library: AclLibrary, slot: Slot, array: np.ndarray[Any, Any]) -> None:
    """Copy an array into a slot, and wait for it."""
    if array.nbytes:
        library.call(
            "aclrtMemcpy",
            slot.address,
            slot.memory.size if slot.memory else 0,
            array.ctypes.data,
            array.nbytes,
            ACL_MEMCPY_HOST_TO_DEVICE,
            where=f"input {slot.tensor.name}",
        )


def to_host(
    library: AclLibrary, slot: Slot, dims: Sequence[int], out: np.ndarray[Any, Any] | None = None
) -> np.ndarray[Any, Any]:
    """Copy a slot into an array, and wait for it."""
    array = np.empty(tuple(dims), slot.tensor.dtype) if out is None else out
    if array.nbytes:
        library.call(
            "aclrtMemcpy",
            array.ctypes.data,
            array.nbytes,
            slot.address,
            array.nbytes,
            ACL_MEMCPY_DEVICE_TO_HOST,
            where=f"output {slot.tensor.name}",
        )
    return array


def pinned_or_none(library: AclLibrary, size: int) -> PinnedMemory | None:
    """Return pinned memory, or None when there is none left."""
    with contextlib.suppress(AclError):
        return PinnedMemory(library, size)
    return None
