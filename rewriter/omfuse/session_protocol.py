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
