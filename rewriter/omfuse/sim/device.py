"""The simulated device of this process: our libascendcl with onnxruntime behind it.

The library checks every call as strictly as the real one documents it; this module gives it the
models and the arithmetic, and drives settings and injected faults.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np

from omfuse.acl.constants import numpy_dtype
from omfuse.errors import OmfuseError
from omfuse.session_protocol import Array
from omfuse.sim.build import build_library
from omfuse.sim.execute import LoadedModel, Mutate, Transform
from omfuse.sim.model_text import describe, encode, plain
from omfuse.sim.payload import load_payload, payload_of_bytes

_LOADER = ctypes.CFUNCTYPE(None, ctypes.c_uint64, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_uint64)
_BAD_DATA, _LOAD_FAILED, _EXECUTE_FAILED = 145006, 545001, 507011


class _HostTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("bytes", ctypes.c_size_t),
        ("dtype", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("dims", ctypes.POINTER(ctypes.c_int64)),
    )


_KERNEL = ctypes.CFUNCTYPE(
    None, ctypes.c_uint64, ctypes.c_int, ctypes.POINTER(_HostTensor), ctypes.c_void_p
)
_FORGET = ctypes.CFUNCTYPE(None, ctypes.c_uint64)


class SimulatedDevice:
    """One simulated library with its callbacks, settings and ledger.

    Args:
        path: the library, see :func:`omfuse.sim.build.build_library`.

    Attributes:
        path: the library.
        transform: changes models as they are loaded; None to load them as they are.
        mutate: changes the outputs of models loaded from now on.
        kernel: what computes FlashAttention of models loaded from now on, see
            :class:`omfuse.sim.execute.LoadedModel`; ``OMFUSE_SIM_KERNEL`` sets it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.transform: Transform | None = None
        self.mutate: Mutate | None = None
        self.kernel = _default_kernel()
        self._models: dict[int, LoadedModel] = {}
        self._lock = threading.Lock()
        self._library = ctypes.CDLL(str(path))
        self._declare()
        # The library keeps these pointers: they must live as long as it does.
        self._callbacks = (_LOADER(self._load), _KERNEL(self._execute), _FORGET(self._forget))
        self._library.simacl_set_callbacks(*self._callbacks)

    def _declare(self) -> None:
        text, long, number = ctypes.c_char_p, ctypes.c_int64, ctypes.c_int
        pointer, size = ctypes.c_void_p, ctypes.c_uint64
        shapes: dict[str, tuple[Any, ...]] = {
            "simacl_set_callbacks": (_LOADER, _KERNEL, _FORGET),
            "simacl_answer": (text, size),
            "simacl_output": (
                pointer, number, number, number, ctypes.POINTER(long), pointer, size,
            ),
            "simacl_kernel_error": (pointer, number, text),
            "simacl_reset": (),
            "simacl_config": (text, long),
            "simacl_config_text": (text, text),
            "simacl_fault": (text, long, number, text, number, long, ctypes.c_double),
            "simacl_clear_faults": (),
        }  # fmt: skip
        for name, types in shapes.items():
            function = getattr(self._library, name)
            function.argtypes, function.restype = types, None
        self._library.simacl_report.argtypes = (text, size)
        self._library.simacl_report.restype = size
        self._library.simacl_api_version.restype = number

    # ---- callbacks: nothing may escape into C
    def _load(self, key: int, path: bytes | None, data: int | None, size: int) -> None:
        try:
            if path is not None:
                payload = load_payload(path.decode("utf-8", errors="surrogateescape"))
            else:
                raw = (ctypes.c_char * size).from_address(data or 0)
                payload = payload_of_bytes(memoryview(raw).cast("B"))
            answer = describe(payload)
            if key:
                model = LoadedModel(payload, self.transform, self.mutate, self.kernel)
                with self._lock:
                    self._models[key] = model
        except OmfuseError as error:
            code = _BAD_DATA if error.code in ("not-om", "bad-payload") else _LOAD_FAILED
            answer = f"error\t{code}\tE19999: {plain(error.message)}"
        except BaseException as error:
            answer = f"error\t{_LOAD_FAILED}\tE19999: {plain(repr(error))}"
        raw_answer = encode(answer)
        self._library.simacl_answer(raw_answer, len(raw_answer))

    def _execute(self, key: int, count: int, inputs: Any, call: int) -> None:
        try:
            with self._lock:
                model = self._models[key]
            arrays = [_array(inputs[index]) for index in range(count)]
            for index, array in enumerate(model.run(arrays)):
                dims = (ctypes.c_int64 * max(array.ndim, 1))(*array.shape)
                whole = np.ascontiguousarray(array)
                self._library.simacl_output(
                    call, index, 0, array.ndim, dims, whole.ctypes.data, whole.nbytes
                )
        except OmfuseError as error:
            self._fail(call, error.message)
        except BaseException as error:
            self._fail(call, repr(error))

    def _fail(self, call: int, text: str) -> None:
        said = f"EZ9999: the simulated model failed: {plain(text)}"
        self._library.simacl_kernel_error(call, _EXECUTE_FAILED, said.encode(errors="replace"))

    def _forget(self, key: int) -> None:
        with self._lock:
            model = self._models.pop(key, None)
        if model is not None:
            model.close()

    # ---- what the owner of the device may ask
    def kernels(self, model_id: int) -> dict[str, str]:
        """Return FlashAttention node -> what computes it, for a loaded model.

        The mapping is the model's own: a run in which the kernel refuses the sizes changes it.
        """
        with self._lock:
            return self._models[model_id].kernels

    def configure(self, **settings: int | str) -> None:
        """Change settings of the device, such as ``device_count``, ``memory_bytes``, ``soc``."""
        for name, value in settings.items():
            if isinstance(value, str):
                self._library.simacl_config_text(name.encode(), value.encode())
            else:
                self._library.simacl_config(name.encode(), int(value))

    def fault(
        self,
        site: str,
        nth: int = 1,
        code: int = 0,
        text: str | bytes | None = None,
        *,
        sticky: bool = False,
        delay_us: int = 0,
        probability: float = 0.0,
    ) -> None:
        """Make the nth call of a C function fail.

        Args:
            site: the function; ``*`` is any that can fail, ``exec`` the run on the device.
            nth: counted from now.
            code: what it returns; getters of values give their null.
            text: what ``aclGetRecentErrMsg`` says afterwards; a fault at that function replaces
                what it returns.
            sticky: all later calls fail as well.
            delay_us: microseconds that the call takes before it fails.
            probability: when positive, each call fails by this chance, whatever ``nth``; the
                setting ``seed`` makes it repeatable.
        """
        said = text.encode() if isinstance(text, str) else text
        self._library.simacl_fault(
            site.encode(), nth, code, said, int(sticky), delay_us, probability
        )

    def clear_faults(self) -> None:
        """Remove all injected faults and revive a dead device."""
        self._library.simacl_clear_faults()

    def report(self) -> dict[str, Any]:
        """Return what the ledger holds.

        ``leaks`` (what was not given back, with the call that made it), ``violations`` (what a
        board forgives), ``threads`` (those with a current context, and whether that is alive),
        ``calls``, bytes ``used`` and ``peak`` of all devices, and the ``trace`` of calls.
        """
        size = self._library.simacl_report(None, 0)
        while True:
            buffer = ctypes.create_string_buffer(size + 4096)
            needed = self._library.simacl_report(buffer, len(buffer))
            if needed < len(buffer):
                found: dict[str, Any] = json.loads(buffer.value)
                return found
            size = needed

    def reset(self) -> None:
        """Forget everything, as after the end of the process."""
        self._library.simacl_reset()
        self.transform = self.mutate = None
        self.kernel = _default_kernel()

    @property
    def flavour(self) -> int:
        """81 or 90, see :data:`omfuse.sim.build.FLAVOURS`."""
        return int(self._library.simacl_api_version())


def _default_kernel() -> str:
    return os.environ.get("OMFUSE_SIM_KERNEL", "auto")


@functools.cache
def simulated_device(flavour: int = 90, sanitize: bool = False) -> SimulatedDevice:
    """Return the simulated device of this process, building its library when needed.

    Raises:
        NotAvailableError: ``no-compiler``, ``not-linux``.
        ToolchainError: ``sim-build-failed``.
    """
    return SimulatedDevice(build_library(flavour, sanitize))


def _array(tensor: _HostTensor) -> Array:
    dtype = numpy_dtype(tensor.dtype)
    shape = tuple(tensor.dims[axis] for axis in range(tensor.ndim))
    if tensor.bytes == 0:
        return np.empty(shape, dtype)
    raw = (ctypes.c_uint8 * tensor.bytes).from_address(tensor.data)
    return np.frombuffer(raw, np.uint8).view(dtype).reshape(shape).copy()
