"""Several runs at once: copies in, computation and copies out overlap.

Three streams, and events between them; two or three sets of buffers go round.  One thread is
enough: submitting is short, and only waiting for a result blocks.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from omfuse.acl import run_modes
from omfuse.acl.codes import TIMEOUTS, AclError
from omfuse.acl.constants import (
    ACL_EVENT_SYNC,
    ACL_MEMCPY_DEVICE_TO_HOST,
    ACL_MEMCPY_HOST_TO_DEVICE,
)
from omfuse.acl.describe import Dims
from omfuse.acl.library import AclLibrary
from omfuse.acl.memory import BufferSet, PinnedMemory, Slot, pinned_or_none, to_device, to_host
from omfuse.errors import UsageError

if TYPE_CHECKING:
    from omfuse.acl.device_session import DeviceSession

_STAGES = 3  # copy in, compute, copy out


class Ticket:
    """A run that was submitted; :meth:`Pipeline.result` waits for it."""

    def __init__(self, lane: Lane, dims: list[Dims]) -> None:
        self.lane = lane
        self.dims = dims
        self.results: dict[str, Any] | None = None


class Lane:
    """One set of buffers with its staging memory and events.

    Where no pinned memory is left, copies wait instead of overlapping.
    """

    def __init__(self, library: AclLibrary, session: DeviceSession) -> None:
        self._library = library
        self.ticket: Ticket | None = None
        self.events: list[int] = []
        self.staging: dict[Slot, PinnedMemory] = {}
        self.buffers = BufferSet(library, session.description)
        try:
            for _ in range(_STAGES):
                event = ctypes.c_void_p()
                library.call("aclrtCreateEventExWithFlag", ctypes.byref(event), ACL_EVENT_SYNC)
                self.events.append(int(event.value or 0))
            for slot in (*self.buffers.inputs, *self.buffers.outputs):
                pinned = pinned_or_none(library, slot.tensor.size)
                if pinned is not None:
                    self.staging[slot] = pinned
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give everything back; never raises."""
        events, self.events = self.events, []
        for event in events:
            self._library.status("aclrtDestroyEvent", event)
        self.buffers.close()
        for pinned in self.staging.values():
            pinned.free()
        self.staging.clear()


class Pipeline:
    """Runs of one session that overlap.

    Args:
        session: of a model whose output sizes are bounded.
        depth: sets of buffers.

    Raises:
        UsageError: ``pipeline-dynamic``, ``pipeline-workspace``, ``bad-depth``.
        AclError: memory, streams or events ran out; nothing stays behind.
    """

    def __init__(self, session: DeviceSession, depth: int = 2) -> None:
        if session.mode == "dynamic":
            raise UsageError(
                "pipeline-dynamic",
                "the sizes of this model's outputs are known only after a run",
                where=session.path,
                hint="use run(), with several sessions to overlap; or compile with gears",
            )
        if session._resources.workspace is not None:
            raise UsageError(
                "pipeline-workspace",
                "this model shares its work memory, which belongs to one run at a time",
                where=session.path,
                hint="use run(), or open the session without a workspace",
            )
        if not 1 <= depth <= 16:
            raise UsageError("bad-depth", f"{depth} sets of buffers", hint="2 or 3 are enough")
        self._session = session
        self._lanes: list[Lane] = []
        self._streams: list[int] = []
        self._waiting: deque[Ticket] = deque()
        self._failed: AclError | None = None
        self._next = 0
        session._resources.on_close(self._give_back)
        try:
            with session.ready() as library:
                for _ in range(_STAGES):
                    stream = ctypes.c_void_p()
                    library.call("aclrtCreateStream", ctypes.byref(stream))
                    self._streams.append(int(stream.value or 0))
                for _ in range(depth):
                    self._lanes.append(Lane(library, session))
        except BaseException:
            self.close()
            raise

    def submit(self, feeds: Mapping[str, Any]) -> Ticket:
        """Start a run; waits only for a free set of buffers.

        Raises:
            UsageError: ``bad-feed``, ``bad-shape``, ``pipeline-bound``, ``session-closed``.
            AclError: a run failed; the runs still under way are lost with it.
        """
        with self._guarded() as library:
            if self._session._feedback:
                raise UsageError(
                    "pipeline-bound",
                    "outputs of this session are bound to inputs: its runs follow one another",
                    where=self._session.path,
                    hint="use run() or map() of the session",
                )
            arrays, choice = self._session.check(feeds)
            lane = self._lanes[self._next]
            if lane.ticket is not None:
                self._finish(library, lane.ticket)
            self._next = (self._next + 1) % len(self._lanes)
            model = self._session.model_id
            copying, computing, leaving = self._streams
            copied, computed, left = lane.events
            for slot, array in zip(lane.buffers.inputs, arrays):
                self._copy_in(library, lane, slot, array, copying)
            library.call("aclrtRecordEvent", copied, copying)
            library.call("aclrtStreamWaitEvent", computing, copied)
            run_modes.set_shape(library, model, lane.buffers, choice)
            dims = run_modes.output_dims(library, model, self._session.description)
            sets = (lane.buffers.input_set, lane.buffers.output_set)
            library.call("aclmdlExecuteAsync", model, *sets, computing, where=self._session.path)
            library.call("aclrtRecordEvent", computed, computing)
            library.call("aclrtStreamWaitEvent", leaving, computed)
            for slot, shape in zip(lane.buffers.outputs, dims):
                self._copy_out(library, lane, slot, slot.tensor.bytes_of(shape), leaving)
            library.call("aclrtRecordEvent", left, leaving)
            ticket = lane.ticket = Ticket(lane, dims)
            self._waiting.append(ticket)
            return ticket

    @staticmethod
    def _copy_in(
        library: AclLibrary, lane: Lane, slot: Slot, array: np.ndarray[Any, Any], stream: int
    ) -> None:
        pinned = lane.staging.get(slot)
        if pinned is None:
            to_device(library, slot, array)
            return
        if not array.nbytes:
            return
        pinned.array[: array.nbytes] = array.reshape(-1).view(np.uint8)
        size = slot.memory.size if slot.memory else 0
        library.call(
            "aclrtMemcpyAsync",
            slot.address,
            size,
            pinned.address,
            array.nbytes,
            ACL_MEMCPY_HOST_TO_DEVICE,
            stream,
        )

    @staticmethod
    def _copy_out(library: AclLibrary, lane: Lane, slot: Slot, size: int, stream: int) -> None:
        pinned = lane.staging.get(slot)
        if pinned is not None and size:
            library.call(
                "aclrtMemcpyAsync",
                pinned.address,
                len(pinned.array),
                slot.address,
                size,
                ACL_MEMCPY_DEVICE_TO_HOST,
                stream,
            )

    def result(self, ticket: Ticket) -> dict[str, Any]:
        """Wait for a run and return its outputs, as arrays of the caller's own.

        Raises:
            AclError: the run, or one before it, failed.
        """
        with self._guarded() as library:
            return self._finish(library, ticket)

    def _finish(self, library: AclLibrary, ticket: Ticket) -> dict[str, Any]:
        if ticket.results is not None:
            return ticket.results
        for event in ticket.lane.events:  # each also tells what failed on its stream
            self._wait(library, event)
        results = {}
        for slot, dims in zip(ticket.lane.buffers.outputs, ticket.dims):
            pinned = ticket.lane.staging.get(slot)
            if pinned is None:
                results[slot.tensor.name] = to_host(library, slot, dims)
                continue
            array = np.empty(dims, slot.tensor.dtype)
            array.reshape(-1).view(np.uint8)[:] = pinned.array[: array.nbytes]
            results[slot.tensor.name] = array
        ticket.results, ticket.lane.ticket = results, None
        if ticket in self._waiting:
            self._waiting.remove(ticket)
        return results

    def _wait(self, library: AclLibrary, event: int) -> None:
        timeout = self._session.timeout
        if timeout is None:
            library.call("aclrtSynchronizeEvent", event, where=self._session.path)
        else:
            limit = run_modes.milliseconds(timeout)
            library.call("aclrtSynchronizeEventWithTimeout", event, limit, where=self._session.path)

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[AclLibrary]:
        if self._failed is not None:
            raise self._failed
        with self._session.ready() as library:
            try:
                yield library
            except AclError as error:
                self._failed = error
                raise

    def map(self, many: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """Run for each set of feeds; results in order."""
        for feeds in many:
            if len(self._waiting) == len(self._lanes):
                yield self.result(self._waiting[0])
            self.submit(feeds)
        while self._waiting:
            yield self.result(self._waiting[0])

    def close(self) -> None:
        """Wait for what is under way and give everything back; safe to call twice."""
        resources = self._session._resources
        with resources.lock:
            if resources.closed:
                return
            with resources.context.leaving():
                self._give_back()
            with contextlib.suppress(ValueError):
                resources._closers.remove(self._give_back)

    def _give_back(self) -> None:
        library = self._session._resources.library
        streams, self._streams = self._streams, []
        lanes, self._lanes = self._lanes, []
        hung = self._failed is not None and self._failed.number in TIMEOUTS
        for stream in streams if not hung else ():
            library.status("aclrtSynchronizeStream", stream)
        for stream in streams:
            self._session._resources.destroy_stream(stream)
        for lane in lanes:
            lane.close()
        self._waiting.clear()
        library.recent_message()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()
