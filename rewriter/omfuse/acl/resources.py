"""What an open session holds on the device, and the one order in which it is given back."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from omfuse.acl.codes import DEVICE_MEMORY, OTHER_CHIP, AclError
from omfuse.acl.library import AclLibrary
from omfuse.acl.memory import DeviceMemory, memory_left
from omfuse.acl.process import DeviceContext, process_of
from omfuse.errors import UsageError


class SharedWorkspace:
    """Work memory for several models that run one after another, as large as the largest needs.

    Args:
        paths: the models; static or with gears.
        device: number of the device.
        library: the opened library.

    Raises:
        AclError: a model cannot be asked for its sizes, or no memory.
    """

    def __init__(self, paths: Sequence[str], device: int, library: AclLibrary) -> None:
        self.lock = threading.RLock()
        self.device = device
        self._context = DeviceContext(process_of(library), device)
        try:
            with self._context.entered():
                needed = max(query_size(library, path)[0] for path in paths)
                self.memory = DeviceMemory(library, needed, "the shared workspace")
        except BaseException:
            self._context.close()
            raise
        self._open = True

    def close(self) -> None:
        """Free the memory, after the sessions that use it; safe to call twice."""
        if self._open and not self._context.foreign:
            self._open = False
            with self._context.leaving():
                self.memory.free()
            self._context.close()

    def __enter__(self) -> SharedWorkspace:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()


def query_size(library: AclLibrary, path: str) -> tuple[int, int]:
    """Return bytes of work and of weight memory that a model needs."""
    work, weight = ctypes.c_size_t(), ctypes.c_size_t()
    library.call(
        "aclmdlQuerySize", os.fsencode(path), ctypes.byref(work), ctypes.byref(weight), where=path
    )
    return work.value, weight.value


class Resources:
    """A context, a loaded model and everything made for it.

    Args:
        library: the opened library.
        device: number of the device.
    """

    def __init__(self, library: AclLibrary, device: int) -> None:
        self.library = library
        self.lock = threading.RLock()
        self.context = DeviceContext(process_of(library), device)
        self.model: int | None = None
        self.stream: int | None = None
        self.broken: AclError | None = None
        self.workspace: SharedWorkspace | None = None
        self._weights: DeviceMemory | None = None
        self._closers: list[Callable[[], None]] = []
        self._closed = False

    def load(self, path: str, how: str, workspace: SharedWorkspace | None) -> int:
        """Load a model.

        Raises:
            AclError: what the library said; for lack of memory with the sizes needed, for a
                model of another chip with the chip that this is.
            UsageError: ``unknown-load``.
        """
        if how not in ("file", "memory"):
            raise UsageError("unknown-load", f"no way {how!r} to load", hint="use file or memory")
        found = ctypes.c_uint32()
        try:
            if workspace is not None:
                self._load_shared(path, workspace, found)
            elif how == "memory":
                data = Path(path).read_bytes()
                self.library.call("aclmdlLoadFromMem", data, len(data), ctypes.byref(found))
            else:
                self.library.call("aclmdlLoadFromFile", os.fsencode(path), ctypes.byref(found))
        except AclError as error:
            if not error.function.startswith("aclmdlLoad"):
                raise
            more = self._why(error.number, path)
            raise AclError(error.number, error.function, error.said, path, more) from error
        self.model = found.value
        return found.value

    def _why(self, number: int, path: str) -> str:
        """Return what else is known about a model that cannot be loaded."""
        more = ""
        if number in DEVICE_MEMORY:
            with contextlib.suppress(AclError):
                work, weight = query_size(self.library, path)
                more = f"it needs {work} bytes of work memory and {weight} of weights"
            more += memory_left(self.library)
        elif number in OTHER_CHIP:
            soc = self.library.value("aclrtGetSocName")
            more = f"this chip is {soc.decode(errors='replace')}" if soc else ""
        return more.lstrip(", ")

    def _load_shared(self, path: str, workspace: SharedWorkspace, found: ctypes.c_uint32) -> None:
        if workspace.device != self.context.index:
            raise UsageError(
                "other-device",
                f"the workspace is on device {workspace.device}, the session on "
                f"{self.context.index}",
                hint="make a workspace for each device",
            )
        _, weight = query_size(self.library, path)
        self._weights = DeviceMemory(self.library, weight, "the weights")
        self.workspace = workspace
        self.library.call(
            "aclmdlLoadFromFileWithMem",
            os.fsencode(path),
            ctypes.byref(found),
            workspace.memory.address,
            workspace.memory.size,
            self._weights.address,
            self._weights.size,
        )

    def make_stream(self) -> int:
        """Create the stream of the session."""
        found = ctypes.c_void_p()
        self.library.call("aclrtCreateStream", ctypes.byref(found))
        self.stream = int(found.value or 0)
        return self.stream

    def on_close(self, closer: Callable[[], None]) -> None:
        """Call ``closer`` with the context entered when the session closes, last added first."""
        self._closers.append(closer)

    def destroy_stream(self, stream: int) -> None:
        """Destroy a stream; with the work on it when the device does not answer."""
        name = "aclrtDestroyStream"
        if self.broken is not None and self.library.has("aclrtDestroyStreamForce"):
            name = "aclrtDestroyStreamForce"
        self.library.status(name, stream)

    def close(self) -> None:
        """Give everything back; safe to call twice and in any state, never raises AclError."""
        if self.context.foreign:
            return
        with self.lock:
            if self._closed:
                return
            self._closed = True
            try:
                with self.context.leaving():
                    self._give_back()
            finally:
                self.context.close()

    def settle(self) -> None:
        """Wait for work on the stream, whatever becomes of it: nobody may touch its buffers yet."""
        if self.stream is not None:
            self.library.status("aclrtSynchronizeStream", self.stream)
            self.library.recent_message()

    def _give_back(self) -> None:
        if self.broken is None:
            self.settle()
        elif self.stream is not None:  # it may never finish: away with it before its buffers go
            stream, self.stream = self.stream, None
            self.destroy_stream(stream)
        while self._closers:
            self._closers.pop()()
        if self.model is not None:
            model, self.model = self.model, None
            self.library.status("aclmdlUnload", model)
        if self._weights is not None:
            self._weights.free()
        if self.stream is not None:
            stream, self.stream = self.stream, None
            self.destroy_stream(stream)
        self.library.recent_message()

    @property
    def closed(self) -> bool:
        """Closed already."""
        return self._closed
