"""dtypes of onnxruntime and checks of what is fed to a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from omfuse.errors import ModelError, UsageError
from omfuse.session_protocol import Array, TensorInfo

_PLAIN = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int8)": "int8",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(uint8)": "uint8",
    "tensor(uint16)": "uint16",
    "tensor(uint32)": "uint32",
    "tensor(uint64)": "uint64",
    "tensor(bool)": "bool",
    "tensor(string)": "object",
}
BFLOAT16 = "tensor(bfloat16)"


def named_dtype(name: str) -> np.dtype[Any]:
    """Return a dtype by name, bfloat16 included."""
    if name == "bfloat16":
        import ml_dtypes

        dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return dtype
    return np.dtype(name)


def dtype_of(ort_type: str, name: str) -> np.dtype[Any]:
    """Return the numpy dtype of an onnxruntime type string.

    Raises:
        ModelError: ``unsupported-type`` for sequences, maps, optionals and rare dtypes.
    """
    if ort_type in _PLAIN:
        return np.dtype(_PLAIN[ort_type])
    if ort_type == BFLOAT16:
        return named_dtype("bfloat16")
    raise ModelError(
        "unsupported-type",
        f"tensor {name} has type {ort_type}",
        hint="only dense tensors of floats, integers, bools and strings can be fed and read",
    )


def describe(args: Sequence[Any]) -> list[TensorInfo]:
    """Describe the inputs or outputs of an onnxruntime session."""
    return [
        TensorInfo(
            arg.name,
            dtype_of(arg.type, arg.name),
            tuple(dim if dim is not None else "?" for dim in arg.shape or ()),
        )
        for arg in args
    ]


def _is_exact(info: TensorInfo, array: Array | None) -> bool:
    return array is not None and array.shape == info.shape and array.dtype == info.dtype


def _conversion(dtype: np.dtype[Any]) -> str:
    if dtype.kind == "V":
        return f"convert it: array.astype(ml_dtypes.{dtype.name}), which np.save keeps as bits"
    return "convert it with numpy's astype or reshape"


def _wanted(info: TensorInfo) -> str:
    return f"{info.dtype}{list(info.shape)}"


def check_feeds(
    inputs: Sequence[TensorInfo], optional: frozenset[str], feeds: Mapping[str, Array]
) -> None:
    """Refuse feeds that do not fit the inputs.

    Raises:
        UsageError: ``bad-feed`` naming the input, what it needs and what it got.
    """
    if len(feeds) == len(inputs) and all(_is_exact(info, feeds.get(info.name)) for info in inputs):
        return  # what a loop over one shape feeds; the rest costs more than a small model
    known = {info.name: info for info in inputs}
    unknown = sorted(set(feeds) - set(known) - optional)
    if unknown:
        raise UsageError(
            "bad-feed",
            f"no input is called {unknown[0]!r}",
            hint=f"the model has: {', '.join(known)}",
        )
    missing = [name for name in known if name not in feeds]
    if missing:
        raise UsageError(
            "bad-feed",
            f"input {missing[0]!r} is missing",
            hint=f"the model needs: {', '.join(known)}",
        )
    sizes: dict[str, tuple[int, str]] = {}
    for name, info in known.items():
        array = feeds[name]
        if array.dtype != info.dtype or array.ndim != len(info.shape):
            raise UsageError(
                "bad-feed",
                f"input {name!r} needs {_wanted(info)}, got {array.dtype}{list(array.shape)}",
                hint=_conversion(info.dtype),
            )
        for size, dim in zip(array.shape, info.shape, strict=True):
            before = sizes.setdefault(dim, (size, name)) if isinstance(dim, str) else (dim, name)
            if dim != "?" and size != before[0]:
                raise UsageError(
                    "bad-feed",
                    f"input {name!r} needs {_wanted(info)}, got shape {list(array.shape)}",
                    hint=None
                    if isinstance(dim, int)
                    else f"dim {dim!r} is {before[0]} in input {before[1]!r}",
                )
