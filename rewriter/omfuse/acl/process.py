"""What a process owns: aclInit and aclFinalize, and the devices it has set.

Another library of the process (torch_npu, the CANN provider of onnxruntime, MindX) may have
initialised ACL already; then it stays theirs and is never finalised here.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Iterator

from omfuse.acl import codes
from omfuse.acl.codes import AclError
from omfuse.acl.library import AclLibrary
from omfuse.errors import NotAvailableError, UsageError


class AclProcess:
    """The use that this process makes of one library; sessions share it.

    Args:
        library: the opened library.
    """

    def __init__(self, library: AclLibrary) -> None:
        self.library = library
        self._lock = threading.Lock()
        self._users = 0
        self._ours = False
        self._pid = os.getpid()

    def acquire(self) -> None:
        """Initialise ACL unless that is done.

        Raises:
            AclError: what aclInit returned.
            NotAvailableError: ``acl-stub`` for the library that is only for compiling.
            UsageError: ``forked`` in a child of the process that initialised ACL.
        """
        with self._lock:
            if self._users and self._pid != os.getpid():
                raise forked()
            if self._users == 0:
                self._initialise()
            self._users += 1

    def _initialise(self) -> None:
        number = self.library.status("aclInit", None)
        if number not in (0, codes.REPEAT_INIT):
            error = AclError(number, "aclInit", self.library.recent_message())
            if number == codes.STUB_MODE:
                raise NotAvailableError(
                    "acl-stub", error.message, str(self.library.path), error.hint
                ) from error
            raise error
        self._ours = number == 0
        # A newer runtime counts users, and counted us although it said "initialised already".
        self._counted = self.library.has("aclFinalizeReference")
        self._pid = os.getpid()

    def release(self) -> None:
        """Undo one :meth:`acquire`; ends ACL after the last one when we started it."""
        with self._lock:
            self._users -= 1
            if self._users or self._pid != os.getpid():
                return
            if self._counted:
                self.library.status("aclFinalizeReference", ctypes.byref(ctypes.c_uint64()))
            elif self._ours:
                self.library.status("aclFinalize")
            self.library.recent_message()

    @property
    def users(self) -> int:
        """Sessions that hold it."""
        return self._users


def forked() -> UsageError:
    """Return the error of a session that is used in a child of its process."""
    return UsageError(
        "forked",
        "this process was forked after ACL was initialised, which ACL does not support",
        hint="start workers with the spawn method, or open sessions after the fork",
    )


_processes: dict[str, AclProcess] = {}
_guard = threading.Lock()


def process_of(library: AclLibrary) -> AclProcess:
    """Return the one object for a library in this process."""
    with _guard:
        return _processes.setdefault(str(library.path), AclProcess(library))


class DeviceContext:
    """A device that is set, with a context of its own; use it from any thread.

    Args:
        process: see :func:`process_of`.
        index: number of the device.

    Raises:
        AclError: the device cannot be opened; nothing stays behind.
    """

    def __init__(self, process: AclProcess, index: int) -> None:
        self.library = process.library
        self.index = index
        self._process = process
        self._handle: int | None = None
        self._pid = os.getpid()
        process.acquire()
        try:
            self._open()
        except BaseException:
            process.release()
            raise

    def _open(self) -> None:
        before = self._current()
        self.library.call("aclrtSetDevice", self.index, where=f"device {self.index}")
        try:
            handle = ctypes.c_void_p()
            self.library.call("aclrtCreateContext", ctypes.byref(handle), self.index)
            self._handle = handle.value
        except BaseException:
            self.library.status("aclrtResetDevice", self.index)
            self.library.recent_message()
            raise
        finally:
            self._restore(before)

    @property
    def foreign(self) -> bool:
        """This is a forked child: everything belongs to its parent, and ACL does not work."""
        return self._pid != os.getpid()

    def _current(self) -> int | None:
        """Return the context of this thread: that of another library, perhaps."""
        handle = ctypes.c_void_p()
        if self.library.status("aclrtGetCurrentContext", ctypes.byref(handle)):
            self.library.recent_message()
            return None
        return handle.value

    def _restore(self, handle: int | None) -> None:
        if handle is not None and handle != self._handle:
            self.library.status("aclrtSetCurrentContext", handle)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Make this the context of the current thread for a while.

        Raises:
            AclError: the context is gone.
        """
        before = self._current()
        if before != self._handle:
            self.library.call("aclrtSetCurrentContext", self._handle)
        try:
            yield
        finally:
            self._restore(before)

    @contextlib.contextmanager
    def leaving(self) -> Iterator[None]:
        """As :meth:`entered`, to give things back: a failure that passes must not keep them."""
        with contextlib.ExitStack() as stack:
            for _ in range(2):
                with contextlib.suppress(AclError):
                    stack.enter_context(self.entered())
                    break
            yield

    def close(self) -> None:
        """Destroy the context and reset the device; safe to call twice, never raises."""
        if self.foreign:
            return
        handle, self._handle = self._handle, None
        if handle is None:
            return
        before = self._current()
        self.library.status("aclrtDestroyContext", handle)
        self.library.status("aclrtResetDevice", self.index)
        if before is not None and before != handle:
            self.library.status("aclrtSetCurrentContext", before)
        self.library.recent_message()
        self._process.release()
