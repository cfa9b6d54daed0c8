"""Numbers of the ACL interface and the table between ACL data types and numpy.

Checked against the enumerations of the public headers by ``tests/acl/test_real_headers.py``.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from omfuse.errors import ModelError

ACL_SUCCESS = 0

ACL_DEVICE, ACL_HOST = 0, 1

ACL_MEM_MALLOC_HUGE_FIRST = 0
ACL_MEM_MALLOC_NORMAL_ONLY = 2

ACL_MEMCPY_HOST_TO_HOST = 0
ACL_MEMCPY_HOST_TO_DEVICE = 1
ACL_MEMCPY_DEVICE_TO_HOST = 2
ACL_MEMCPY_DEVICE_TO_DEVICE = 3

ACL_DDR_MEM, ACL_HBM_MEM = 0, 1

ACL_EVENT_SYNC = 0x1
ACL_EVENT_TIME_LINE = 0x8
ACL_EVENT_RECORDED_STATUS_COMPLETE = 1
ACL_STREAM_STATUS_COMPLETE = 0
ACL_STOP_ON_FAILURE = 1

ACL_OPT_DETERMINISTIC = 0

ACL_FORMAT_ND = 2

ACL_MDL_LOAD_TYPE_SIZET = 1
ACL_MDL_PATH_PTR = 2
ACL_MDL_LOAD_FROM_FILE = 1
ACL_MDL_STREAM_SYNC_TIMEOUT = 0

# The hidden input of every model with gears, and of dynamic AIPP.
SHAPE_INPUT = "ascend_mbatch_shape_data"
AIPP_INPUT = "ascend_dynamic_aipp_data"

# aclDataType -> name; the numbering is GE's, not ONNX's and not that of dump files.
DTYPE_NAMES: dict[int, str] = {
    0: "float32",
    1: "float16",
    2: "int8",
    3: "int32",
    4: "uint8",
    6: "int16",
    7: "uint16",
    8: "uint32",
    9: "int64",
    10: "uint64",
    11: "float64",
    12: "bool",
    16: "complex64",
    17: "complex128",
    27: "bfloat16",
    35: "float8_e5m2",
    36: "float8_e4m3fn",
}
_CODES = {name: code for code, name in DTYPE_NAMES.items()}
_ML_DTYPES = {"bfloat16": "uint16", "float8_e5m2": "uint8", "float8_e4m3fn": "uint8"}


def numpy_dtype(code: int, where: str | None = None) -> np.dtype[Any]:
    """Return the numpy dtype of an ``aclDataType``.

    bf16 and fp8 are dtypes of the package ml_dtypes; where it is not installed their bits are
    shown as uint16 and uint8.

    Raises:
        ModelError: ``acl-dtype`` for a type with no array form (string, packed int4).
    """
    name = DTYPE_NAMES.get(code)
    if name is None:
        raise ModelError(
            "acl-dtype",
            f"ACL data type {code} has no numpy form",
            where=where,
            hint="compile the model with another type at this input or output",
        )
    if name not in _ML_DTYPES:
        return np.dtype(name)
    try:
        import ml_dtypes
    except ImportError:
        return np.dtype(_ML_DTYPES[name])
    dtype: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
    return dtype


def acl_dtype(dtype: Any) -> int:
    """Return the ``aclDataType`` of a numpy dtype, the inverse of :func:`numpy_dtype`.

    Raises:
        ModelError: ``acl-dtype`` for a dtype that ACL does not know.
    """
    name = np.dtype(dtype).name
    if name not in _CODES:
        raise ModelError("acl-dtype", f"ACL has no data type for numpy {name}")
    return _CODES[name]


def enumerators() -> list[tuple[str, int]]:
    """Return name and value of every ACL enumerator used here, for the check of the headers."""
    module = vars(sys.modules[__name__])
    return [(n, v) for n, v in module.items() if n.startswith("ACL_") and isinstance(v, int)]
