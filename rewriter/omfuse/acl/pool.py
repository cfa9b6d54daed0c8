"""One session on each of several devices, fed from one queue."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omfuse.acl.opening import open_om
from omfuse.errors import UsageError

if TYPE_CHECKING:
    from omfuse.session_protocol import Session

_ENDED, _FAILED = -1, -2  # instead of a position


class DevicePool:
    """The same model on several devices; each device works on its own thread.

    Args:
        path: the .om file.
        device: ``sim`` or ``ascend``.
        indexes: numbers of the devices; a number may come twice for two sessions on it.
        options: for each session, see :func:`omfuse.acl.opening.open_om`.

    Raises:
        OmfuseError: a session cannot be opened; those opened before are closed.
    """

    def __init__(
        self, path: str | Path, device: str, indexes: Sequence[int], **options: Any
    ) -> None:
        if not indexes:
            raise UsageError("no-devices", "no device is named", hint="for example --devices 0-3")
        self.sessions: list[Session] = []
        try:
            for index in indexes:
                self.sessions.append(open_om(path, device, index=index, **options))
        except BaseException:
            self.close()
            raise

    def map(self, many: Iterable[Mapping[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Run for each set of feeds; see :func:`map_sessions`."""
        return map_sessions([session.run for session in self.sessions], many)

    def close(self) -> None:
        """Close all sessions; safe to call twice."""
        for session in self.sessions:
            session.close()

    def __enter__(self) -> DevicePool:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()


def map_sessions(
    runners: Sequence[Callable[[Any], Any]], many: Iterable[Any]
) -> Iterator[tuple[int, Any]]:
    """Call the runners, each on a thread of its own, with the items of one queue.

    Yields position and result, as they become ready.  The first failure ends the iteration: no new
    run starts, the running ones finish.

    Raises:
        Exception: what a runner, or the iteration over the items, raised.
    """
    source, lock = enumerate(many), threading.Lock()
    done: queue.Queue[tuple[int, Any]] = queue.Queue(2 * len(runners))
    stop = threading.Event()

    def work(runner: Callable[[Any], Any]) -> None:
        try:
            while not stop.is_set():
                with lock:  # generators are not safe to share
                    item = next(source, None)
                if item is None:
                    break
                done.put((item[0], runner(item[1])))
        except BaseException as error:
            stop.set()
            done.put((_FAILED, error))
        finally:
            done.put((_ENDED, None))

    threads = [threading.Thread(target=work, args=(r,), daemon=True) for r in runners]
    for thread in threads:
        thread.start()
    running, problem = len(threads), None
    try:
        while running:
            position, value = done.get()
            if position == _ENDED:
                running -= 1
            elif position == _FAILED:
                problem = problem or value
            elif problem is None:
                yield position, value
    finally:
        stop.set()
        while running:  # let workers that wait for room go on and end
            running -= done.get()[0] == _ENDED
        for thread in threads:
            thread.join()
    if problem is not None:
        raise problem
