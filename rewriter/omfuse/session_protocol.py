"""What every device's session offers: its inputs and outputs, and running once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class TensorInfo:
    """Name, dtype and shape of one model input or output; a dim is an int or a symbol."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str, ...]


def from_bits(array: Array, dtype: np.dtype[Any]) -> Array:
    """Return an array under the dtype of an input when it holds no more than the bits of it.

    ``.npy`` files cannot name bfloat16 and fp8: what was saved comes back as ``|V2``, and where
    ml_dtypes is missing the bits are unsigned integers.  Any other array is returned as it is.
    """
    held = array.dtype
    if held == dtype or held.itemsize != dtype.itemsize:
        return array
    if held.kind == "V" and held.names is None and held.name.startswith("void"):
        bits = dtype.kind in "Vu"
    else:
        bits = held.kind == "u" and dtype.kind == "V"
    return array.view(dtype) if bits else array


class Session(Protocol):
    """A loaded model on one device."""

    device: str
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]
    kernels: dict[str, str]  # FlashAttention node -> what computes it

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; arrays by name in, arrays by name out."""
        ...

    def close(self) -> None:
        """Free the model; safe to call twice."""
        ...

    def __enter__(self) -> Session: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
