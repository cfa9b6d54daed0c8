"""What a loaded model says about itself: inputs, outputs, and how its shapes are chosen.

Five modes, told apart by the description alone: ``static``; gears of the batch (``batch``), of
height and width (``image``) or of any dims (``dims``), which add the hidden input
``ascend_mbatch_shape_data``; and ``dynamic`` for ranges and fully open shapes.
"""

from __future__ import annotations

import ctypes
import os
import re
from dataclasses import dataclass
from typing import Any, Tuple

import numpy as np

from omfuse.acl.constants import AIPP_INPUT, SHAPE_INPUT, numpy_dtype
from omfuse.acl.library import AclLibrary
from omfuse.acl.prototypes import BatchGears, ImageGears, IODims, IODimsRange
from omfuse.errors import ModelError

Dims = Tuple[int, ...]
_NO_INDEX = ctypes.c_size_t(-1).value  # what the calls on dims gears want as index
_OUTPUT_NAME = re.compile(r"(?P<node>.+?):(?P<index>\d+):(?P<tensor>.+)", re.DOTALL)


@dataclass(frozen=True)
class Tensor:
    """One input or output.

    Attributes:
        name: the ONNX name where it can be told.
        full_name: the name in the .om; outputs are called ``node:index:tensor`` there.
        index: position in the model.
        code: aclDataType.
        format: aclFormat.
        dims: -1 where the size is chosen at run time.
        size: bytes of the largest form, 0 when it has no bound.
        ranges: smallest and largest size of each dim, largest -1 without a bound; empty when the
            runtime does not tell.
    """

    name: str
    full_name: str
    index: int
    code: int
    format: int
    dims: Dims
    size: int
    ranges: tuple[tuple[int, int], ...] = ()

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of its arrays."""
        return numpy_dtype(self.code, self.name)

    def bytes_of(self, dims: Dims) -> int:
        """Return the bytes it takes with these dims."""
        count = self.dtype.itemsize
        for size in dims:
            count *= size
        return count


@dataclass(frozen=True)
class Description:
    """A model as it is loaded.

    Attributes:
        mode: see the module.
        inputs: without the hidden ones.
        outputs: in graph order.
        gears: of ``batch`` one number each, of ``image`` height and width, of ``dims`` the dims
            of all inputs one after another.
        shape_input: the hidden input of models with gears.
    """

    mode: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    gears: tuple[Dims, ...] = ()
    shape_input: Tensor | None = None


def read_description(library: AclLibrary, desc: int, where: str) -> Description:
    """Read the description behind an ``aclmdlDesc``.

    Raises:
        AclError: a call failed.
        ModelError: ``bad-description``, ``dynamic-aipp`` or ``acl-dtype``.
    """
    inputs = _tensors(library, desc, "Input", where)
    outputs = _tensors(library, desc, "Output", where)
    if any(tensor.full_name == AIPP_INPUT for tensor in inputs):
        raise ModelError(
            "dynamic-aipp",
            "the model takes its image preprocessing at run time (dynamic AIPP)",
            where=where,
            hint="compile it with a static AIPP configuration",
        )
    hidden = next((t for t in inputs if t.full_name == SHAPE_INPUT), None)
    shown = tuple(t for t in inputs if t is not hidden)
    for tensor in (*inputs, *outputs):
        numpy_dtype(tensor.code, tensor.name)
        _check_rank(tensor, where)
    if hidden is not None:
        mode, gears = _gears(library, desc, hidden.index, where)
    else:
        # Outputs may be open although every input is fixed: their sizes follow from values.
        open_dims = any(size < 0 for tensor in (*shown, *outputs) for size in tensor.dims)
        mode, gears = ("dynamic" if open_dims else "static"), ()
    described = Description(mode, shown, tuple(outputs), gears, hidden)
    _check_sizes(described, where)
    return described


def _tensors(library: AclLibrary, desc: int, kind: str, where: str) -> list[Tensor]:
    count = int(library.value(f"aclmdlGetNum{kind}s", desc))
    if count == 0:
        raise _unreadable(f"it lists no {kind.lower()}s", where)
    found: list[Tensor] = []
    names: set[str] = set()
    for index in range(count):
        dims = IODims()
        library.call(f"aclmdlGet{kind}Dims", desc, index, ctypes.byref(dims), where=where)
        full = _full_name(library, desc, kind, index, where)
        name = _unique(_short(full) if kind == "Output" else full, names)
        found.append(
            Tensor(
                name,
                full,
                index,
                int(library.value(f"aclmdlGet{kind}DataType", desc, index)),
                int(library.value(f"aclmdlGet{kind}Format", desc, index)),
                tuple(dims.dims[: dims.dimCount]),
                int(library.value(f"aclmdlGet{kind}SizeByIndex", desc, index)),
                _ranges(library, desc, index) if kind == "Input" else (),
            )
        )
    return found


def _full_name(library: AclLibrary, desc: int, kind: str, index: int, where: str) -> str:
    shown = library.value(f"aclmdlGet{kind}NameByIndex", desc, index)
    if not shown:
        raise _unreadable(f"{kind.lower()} {index} has no name", where)
    # Names of 128 characters and more come back as a placeholder for the real one.
    real = library.value("aclmdlGetTensorRealName", desc, shown) or shown
    text: str = real.decode("utf-8", errors="surrogateescape")
    return text


def _short(full: str) -> str:
    match = _OUTPUT_NAME.fullmatch(full)
    return match.group("tensor") if match else full


def _unique(name: str, taken: set[str]) -> str:
    unique, count = name, 1
    while unique in taken:
        count += 1
        unique = f"{name}#{count}"
    taken.add(unique)
    return unique


def _ranges(library: AclLibrary, desc: int, index: int) -> tuple[tuple[int, int], ...]:
    if not library.has("aclmdlGetInputDimsRange"):
        return ()
    found = IODimsRange()
    if library.status("aclmdlGetInputDimsRange", desc, index, ctypes.byref(found)):
        library.recent_message()  # only the sentences of later errors are poorer
        return ()
    return tuple((low, high) for low, high in found.range[: found.rangeCount])


def _gears(library: AclLibrary, desc: int, hidden: int, where: str) -> tuple[str, tuple[Dims, ...]]:
    batch = BatchGears()
    library.call("aclmdlGetDynamicBatch", desc, ctypes.byref(batch), where=where)
    if batch.batchCount:
        return "batch", tuple((int(n),) for n in batch.batch[: batch.batchCount])
    image = ImageGears()
    library.call("aclmdlGetDynamicHW", desc, hidden, ctypes.byref(image), where=where)
    if image.hwCount:
        return "image", tuple((int(h), int(w)) for h, w in image.hw[: image.hwCount])
    count = ctypes.c_size_t()
    library.call(
        "aclmdlGetInputDynamicGearCount", desc, _NO_INDEX, ctypes.byref(count), where=where
    )
    if not 1 <= count.value <= 4096:
        raise _unreadable("it has a shape input and no gears", where)
    dims = (IODims * count.value)()
    library.call("aclmdlGetInputDynamicDims", desc, _NO_INDEX, dims, count.value, where=where)
    return "dims", tuple(tuple(gear.dims[: gear.dimCount]) for gear in dims)


def _check_sizes(described: Description, where: str) -> None:
    """Refuse a description in which a bounded tensor takes less than its dims.

    In a model with open shapes no size is used, and 0 may stand for all of them.
    """
    for tensor in (*described.inputs, *described.outputs):
        if described.mode == "dynamic" and tensor.size == 0:
            continue
        bounded = all(size >= 0 for size in tensor.dims)
        needed = tensor.bytes_of(tensor.dims) if bounded else 1
        if (bounded or described.mode != "dynamic") and tensor.size < needed:
            raise _unreadable(
                f"{tensor.name} {list(tensor.dims)} is said to take {tensor.size} bytes", where
            )
    hidden = described.shape_input
    if hidden is not None and hidden.size == 0:
        raise _unreadable("its shape input takes no bytes", where)


def _check_rank(tensor: Tensor, where: str) -> None:
    try:
        np.empty((0,) * len(tensor.dims))
    except ValueError:
        raise _unreadable(
            f"{tensor.name} has {len(tensor.dims)} dims, more than an array can have", where
        ) from None


def _unreadable(why: str, where: str) -> ModelError:
    return ModelError(
        "bad-description",
        f"the model's description cannot be used: {why}",
        where=where,
        hint="compile the model again; if that does not help, the runtime is damaged",
    )


def load_description(library: AclLibrary, model_id: int, where: str) -> Description:
    """Describe a loaded model."""
    desc = library.make("aclmdlCreateDesc")
    try:
        library.call("aclmdlGetDesc", desc, model_id, where=where)
        return read_description(library, desc, where)
    finally:
        library.status("aclmdlDestroyDesc", desc)


def describe_file(library: AclLibrary, path: str) -> Description:
    """Describe a model file without loading it; a device must be set."""
    desc = library.make("aclmdlCreateDesc")
    try:
        library.call("aclmdlGetDescFromFile", desc, os.fsencode(path), where=path)
        return read_description(library, desc, path)
    finally:
        library.status("aclmdlDestroyDesc", desc)
