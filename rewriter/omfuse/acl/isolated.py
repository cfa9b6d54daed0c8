"""A session in a worker process: a crash of the device library is an error, not the end.

The worker notes each ACL call in a small shared file before it makes it, so that the error can
name the last one.  It ends when its pipe closes: no orphan stays behind.
"""

from __future__ import annotations

import contextlib
import mmap
import select
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from omfuse import errors
from omfuse.acl.codes import AclError
from omfuse.acl.shapes import check_target
from omfuse.errors import DeviceError, OmfuseError, UsageError
from omfuse.host import frames
from omfuse.host.tensors import named_dtype
from omfuse.session_protocol import TensorInfo

JOURNAL_BYTES = 128
_ENTRY = struct.Struct("<QH")
_CLOSE_SECONDS = 10.0


class Journal:
    """The last call of a process, in memory that survives it.

    Args:
        descriptor: of an open file of ``JOURNAL_BYTES`` bytes; the map does not need it later.
    """

    def __init__(self, descriptor: int) -> None:
        self._map = mmap.mmap(descriptor, JOURNAL_BYTES)

    def write(self, number: int, name: str) -> None:
        """Note a call; cheap enough for every call."""
        data = name.encode()[: JOURNAL_BYTES - _ENTRY.size]
        self._map[: _ENTRY.size + len(data)] = _ENTRY.pack(number, len(data)) + data

    def read(self) -> tuple[int, str]:
        """Return number and name of the last call; 0 when there was none."""
        number, length = _ENTRY.unpack(self._map[: _ENTRY.size])
        name = self._map[_ENTRY.size : _ENTRY.size + length].decode("ascii", errors="replace")
        return number, name

    def close(self) -> None:
        """Unmap the file."""
        self._map.close()


class IsolatedSession:
    """The face of :class:`omfuse.acl.device_session.DeviceSession`, with the work elsewhere.

    Args:
        path: the .om file.
        device: ``sim`` or ``ascend``.
        index: number of the device.
        timeout: seconds for a run, None for no limit; a worker that does not answer in twice
            that time is ended.
        options: for the session in the worker.

    Raises:
        OmfuseError: what the session in the worker raises.
        DeviceError: ``worker-died``, naming signal or code and the last ACL call;
            ``worker-silent``.
    """

    def __init__(
        self,
        path: str | Path,
        device: str,
        index: int = 0,
        *,
        timeout: float | None = None,
        **options: Any,
    ) -> None:
        self.device, self.index, self.path = device, index, str(path)
        self._lock = threading.RLock()
        self._limit = None if timeout is None else 2 * timeout + 5
        self._error: OmfuseError | None = None
        self._closing = False
        with tempfile.TemporaryFile() as file:  # without a name no kill can leave it behind
            file.truncate(JOURNAL_BYTES)
            self._journal = Journal(file.fileno())
            self._process = subprocess.Popen(
                [sys.executable, "-m", "omfuse.acl.worker", str(file.fileno())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pass_fds=(file.fileno(),),
                start_new_session=True,  # a Ctrl-C on the terminal is for the caller alone
            )
        try:
            request = {"model": str(Path(path).resolve()), "device": device, "index": index}
            request["options"] = {**options, "timeout": timeout}
            head, _ = self._ask(request, {}, None)
        except BaseException:
            self.close()
            raise
        self.mode: str = head["mode"]
        self.kernels: dict[str, str] = head["kernels"]
        self.seconds: dict[str, float] = {}
        self.inputs = [_info(entry) for entry in head["inputs"]]
        self.outputs = [_info(entry) for entry in head["outputs"]]

    def run(
        self,
        feeds: Mapping[str, Any],
        outputs: Sequence[str] | None = None,
        out: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Run once; see :meth:`omfuse.acl.device_session.DeviceSession.run`.

        Raises:
            OmfuseError: what the session raises; ``worker-died``, ``worker-silent``.
        """
        wanted = [outputs] if isinstance(outputs, str) else outputs
        request = {"run": None if wanted is None else list(wanted)}
        arrays = {name: _portable(value) for name, value in feeds.items()}
        head, results = self._ask(request, arrays, self._limit)
        self.seconds, self.kernels = head["seconds"], head["kernels"]
        for name, array in (out or {}).items():
            if name in results:
                made = results[name]
                check_target(name, made.dtype, made.shape, array)[...] = made
                results[name] = array
        return results

    def map(self, many: Iterable[Mapping[str, Any]], depth: int = 2) -> Iterator[dict[str, Any]]:
        """Run for each set of feeds, results in order; one by one here, whatever ``depth``."""
        for feeds in many:
            yield self.run(feeds)

    def bind(self, output: str, input: str) -> None:  # noqa: A002
        """See :meth:`omfuse.acl.device_session.DeviceSession.bind`."""
        self._ask({"bind": [output, input]}, {}, self._limit)

    def forget(self) -> None:
        """See :meth:`omfuse.acl.device_session.DeviceSession.forget`."""
        self._ask({"forget": True}, {}, self._limit)

    def memory(self) -> tuple[int, int]:
        """Return free and total bytes of device memory."""
        head, _ = self._ask({"memory": True}, {}, self._limit)
        free, total = head["memory"]
        return free, total

    def default_dims(self, sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
        """Return legal dims of all inputs; see :func:`omfuse.acl.sizes.default_dims`."""
        head, _ = self._ask({"dims": dict(sizes)}, {}, self._limit)
        return {name: tuple(dims) for name, dims in head["dims"].items()}

    @property
    def pid(self) -> int:
        """The worker process."""
        return self._process.pid

    def _ask(
        self, header: Mapping[str, Any], arrays: Mapping[str, Any], limit: float | None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        with self._lock:
            if self._error is not None:
                raise self._error
            if self._closing:
                raise UsageError("session-closed", "this session is closed", hint="open a new one")
            try:
                frames.send(cast(BinaryIO, self._process.stdin), header, arrays)
                self._await(limit)
                head, results = frames.receive(cast(BinaryIO, self._process.stdout))
            except (EOFError, BrokenPipeError) as error:
                raise self._died() from error
            except KeyboardInterrupt:
                # The answer of this request would be taken for that of the next one.
                self._error = DeviceError(
                    "interrupted", "a run was interrupted", self.path, "open a new session"
                )
                self._kill()
                raise
        if "error" in head:
            raise _raised(head["error"])
        return head, results

    def _await(self, limit: float | None) -> None:
        if limit is None:
            return
        ready, _, _ = select.select([cast(BinaryIO, self._process.stdout)], [], [], limit)
        if not ready:
            number, name = self._journal.read()
            self._error = DeviceError(
                "worker-silent",
                f"the device did not answer within {limit:g} s; last ACL call #{number} {name}",
                where=self.path,
                hint="the worker was ended; give a larger timeout, or reset the device",
            )
            self._error.final = True
            self._kill()
            raise self._error

    def _died(self) -> DeviceError:
        code = self._process.wait()
        how = f"ended with code {code}"
        if code < 0:
            how = f"died with {signal.Signals(-code).name}"
        number, name = self._journal.read()
        last = f"last ACL call #{number} {name}" if number else "before any ACL call"
        self._error = DeviceError(
            "worker-died",
            f"the device worker {how}, {last}",
            where=self.path,
            hint="the device library crashed or was killed; memory (`dmesg`) and plog files say "
            "more. Open a new session to go on",
        )
        self._error.final = True
        return self._error

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End the worker; safe to call twice, in any state; a run of another thread ends first."""
        process = self._process
        self._closing = True  # no further run starts, so that the lock comes free
        if not self._lock.acquire(timeout=_CLOSE_SECONDS):
            self._kill()  # now that run fails
            self._lock.acquire()
        try:
            self._end(process)
        finally:
            self._lock.release()

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        for pipe in (process.stdin, process.stdout):
            if pipe is not None and not pipe.closed:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        try:
            process.wait(_CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._kill()
        if self._error is None:
            self._journal.close()

    def __enter__(self) -> IsolatedSession:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_process"):
            self.close()


def _info(entry: Mapping[str, Any]) -> TensorInfo:
    return TensorInfo(entry["name"], named_dtype(entry["dtype"]), tuple(entry["shape"]))


def _portable(value: Any) -> np.ndarray[Any, Any]:
    """Return an array that a frame can carry; the session in the worker judges it."""
    array: np.ndarray[Any, Any] = np.asarray(value)
    void = array.dtype.name.startswith("void")
    if void and array.dtype.names is None and array.dtype.itemsize in (1, 2):
        return array.view(f"u{array.dtype.itemsize}")  # bits, see ``from_bits``
    return array.astype(object) if void or array.dtype.kind in "SUMm" else array


def _raised(fields: dict[str, Any]) -> OmfuseError:
    kind = fields.pop("class")
    if kind == "AclError":
        error = AclError(fields["number"], fields["function"], fields["said"], fields["where"])
        error.message, error.hint = fields["message"], fields["hint"]
        error.args = (fields["message"],)
        return error
    made: OmfuseError = getattr(errors, kind)(**fields)
    return made
