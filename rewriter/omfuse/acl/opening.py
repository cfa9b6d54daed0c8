"""Open an .om on a device: the real one, or the simulated one."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omfuse.acl.device_session import DeviceSession
from omfuse.acl.library import AclLibrary, open_library
from omfuse.acl.memory import memory_info
from omfuse.acl.process import DeviceContext, process_of
from omfuse.errors import ModelError, UsageError

if TYPE_CHECKING:
    from omfuse.session_protocol import Session


def open_om(
    path: str | Path,
    device: str = "ascend",
    *,
    index: int = 0,
    isolated: bool = False,
    **options: Any,
) -> Session:
    """Open a compiled model.

    Args:
        path: the .om file.
        device: ``ascend`` or ``sim``.
        index: number of the device.
        isolated: run in a process of its own, so that a crash of the device library is an error
            and not the end of this process.
        options: see :class:`omfuse.acl.device_session.DeviceSession`.

    Raises:
        UsageError: ``isolated-workspace``, and what the session raises.
        ModelError: ``model-not-found``, ``not-om``, ``simulated-om`` or ``not-simulated``, and
            what the session raises.
        NotAvailableError: no ACL library, or no compiler for the simulated one.
    """
    check_kind(path, device)
    if isolated and options.get("workspace") is not None:
        raise UsageError(
            "isolated-workspace",
            "the memory of a workspace is this process's, the session would be in another one",
            hint="leave out isolated=True, or the workspace",
        )
    if isolated:
        from omfuse.acl.isolated import IsolatedSession

        return IsolatedSession(path, device, index, **options)
    if device == "ascend":
        return DeviceSession(path, real_library(), device, index, **options)
    from omfuse.sim.device import simulated_device

    simulated = simulated_device()
    session = DeviceSession(path, library_of(str(simulated.path)), device, index, **options)
    session.kernels = simulated.kernels(session.model_id)
    return session


def open_session(path: str | Path, device: int = 0, **options: Any) -> Session:
    """Open a compiled model on a real device by its number; numpy is all that is needed.

    See :func:`open_om` for the options and errors.
    """
    return open_om(path, "ascend", index=device, **options)


@contextlib.contextmanager
def watch_memory(device: str, index: int) -> Iterator[Callable[[], int | None]]:
    """Hold a context of a device, and give a function that tells the bytes in use on it.

    Raises:
        AclError: the device cannot be opened.
        NotAvailableError: no ACL library, or no compiler for the simulated one.
    """
    library = library_for(device)
    context = DeviceContext(process_of(library), index)

    def used() -> int | None:
        with context.entered():
            free, total = memory_info(library)
        return total - free if total else None

    try:
        yield used
    finally:
        context.close()


def library_for(device: str) -> AclLibrary:
    """Return the library of a device, ``sim`` or ``ascend``."""
    if device == "ascend":
        return real_library()
    from omfuse.sim.device import simulated_device

    return library_of(str(simulated_device().path))


@functools.lru_cache(maxsize=None)
def real_library() -> AclLibrary:
    """Return the ACL library of this machine.

    Raises:
        NotAvailableError: see :func:`omfuse.acl.library.open_library`.
    """
    return open_library()


@functools.lru_cache(maxsize=None)
def library_of(path: str) -> AclLibrary:
    """Return a simulated library; its symbols stay apart from a real one in the same process."""
    return AclLibrary(Path(path), share_symbols=False)


def check_kind(path: str | Path, device: str) -> None:
    """Refuse what is no .om, a simulated .om on a real device, and the other way round.

    Raises:
        UsageError: ``unknown-device``.
        ModelError: ``model-not-found``, ``model-unreadable``, ``not-om``, ``simulated-om``,
            ``not-simulated``.
    """
    from omfuse.sim.payload import is_simulated

    if device not in ("sim", "ascend"):
        raise UsageError("unknown-device", f"no device {device!r}", hint="use sim or ascend")
    where = str(path)
    try:
        with Path(path).open("rb") as stream:
            head = stream.read(256)
    except FileNotFoundError as error:
        raise ModelError("model-not-found", "no such file", where, "check the path") from error
    except OSError as error:
        raise ModelError("model-unreadable", f"cannot read: {error.strerror}", where) from error
    if len(head) < 256 or head[:4] != b"IMOD":
        raise ModelError(
            "not-om",
            "the file has no .om header",
            where,
            "`omfuse compile` makes an .om; check that the copy is complete",
        )
    if is_simulated(head) and device == "ascend":
        raise ModelError(
            "simulated-om",
            "this .om was made by the simulated toolchain and runs on no chip",
            where,
            "run it with --device sim, or compile with the real ATC",
        )
    if not is_simulated(head) and device == "sim":
        raise ModelError(
            "not-simulated",
            "this .om is for a real chip, the simulated device runs simulated ones only",
            where,
            "run it on a board with --device ascend, or compile with --device sim",
        )
