"""Run one outside program: private folder, own process group, live output, timeout, clean end.

Never through a shell.  When the caller is interrupted or the time is over, the whole process group
is ended, first with SIGTERM and then with SIGKILL, because ATC starts a tree of compilers.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from omfuse.errors import ToolchainError

_GRACE_SECONDS = 5.0
_TICK_SECONDS = 0.25
_KEEP_BYTES = 4 * 1024 * 1024  # of the output, for the messages; the log file has all of it

_live: set[subprocess.Popen[bytes]] = set()
_lock = threading.Lock()
_stopping = threading.Event()


@dataclass(frozen=True)
class Outcome:
    """How a program ended; ``code`` is negative when a signal ended it."""

    code: int
    seconds: float
    output: str
    timed_out: bool = False


@dataclass(frozen=True)
class Tick:
    """Progress of a running program: seconds since its start and its last whole line."""

    seconds: float
    last_line: str


def run_program(
    argv: Sequence[str],
    cwd: Path,
    env: Mapping[str, str],
    log: Path,
    timeout: float | None = None,
    on_tick: Callable[[Tick], None] | None = None,
) -> Outcome:
    """Run a program to its end, its output both in ``log`` and in the outcome.

    Raises:
        ToolchainError: ``cannot-start`` when the program cannot be started.
        KeyboardInterrupt: passed on after the process group has ended.
    """
    begin = time.monotonic()
    try:
        process = subprocess.Popen(
            list(argv),
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise ToolchainError(
            "cannot-start", f"cannot start {argv[0]}: {error.strerror}", where=str(argv[0])
        ) from None
    with _lock:
        _live.add(process)
    timed_out = False
    try:
        with termination_is_interrupt(), log.open("wb") as sink:
            output = bytearray()
            for chunk in _chunks(process):
                if chunk:
                    sink.write(chunk)
                    sink.flush()
                    output += chunk
                    del output[:-_KEEP_BYTES]
                seconds = time.monotonic() - begin
                if on_tick is not None:
                    on_tick(Tick(seconds, _last_line(output)))
                if timeout is not None and seconds > timeout:
                    timed_out = True
                    break
                if _stopping.is_set():
                    raise KeyboardInterrupt
    finally:
        # Also after a good end: a compiler that was left behind must not outlive the run.
        end_group(process)
        with _lock:
            _live.discard(process)
        if process.stdout is not None:
            process.stdout.close()
    text = output.decode("utf-8", errors="replace")
    return Outcome(process.returncode, time.monotonic() - begin, text, timed_out)


def _chunks(process: subprocess.Popen[bytes]) -> Iterator[bytes]:
    """Yield output as it comes, and an empty chunk at least every tick, until the program ends."""
    assert process.stdout is not None
    fd = process.stdout.fileno()
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        while True:
            if selector.select(_TICK_SECONDS):
                chunk = os.read(fd, 65536)
                if not chunk:
                    break
                yield chunk
            else:
                # A grandchild may hold the pipe open after the program itself has ended.
                if process.poll() is not None:
                    break
                yield b""
    while process.poll() is None:
        time.sleep(0.01)
        yield b""


def _last_line(output: bytearray) -> str:
    tail = bytes(output[-2000:]).decode("utf-8", errors="replace")
    lines = [line.strip() for line in tail.splitlines() if line.strip(" .\t")]
    return lines[-1] if lines else ""


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process group and collect its leader; safe when it has ended already."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
        except (ProcessLookupError, PermissionError):
            break
        if sign is signal.SIGTERM and _group_ends(process):
            break
    process.wait()


def _group_ends(process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + _GRACE_SECONDS
    while time.monotonic() < deadline:
        process.poll()
        try:
            os.killpg(process.pid, 0)
        except (ProcessLookupError, PermissionError):
            return True
        time.sleep(0.02)
    return False


def stop_all() -> None:
    """Make every running program end; used when one of several threads is interrupted."""
    _stopping.set()
    with _lock:
        running = list(_live)
    for process in running:
        try:
            os.killpg(process.pid, signal.SIGTERM)
        except (ProcessLookupError, PermissionError):
            continue


def reset_stop() -> None:
    """Allow programs to run again after :func:`stop_all`."""
    _stopping.clear()


@contextmanager
def termination_is_interrupt() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into KeyboardInterrupt, so that the group is ended on the way out."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    old = {sign: signal.signal(sign, interrupt) for sign in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for sign, handler in old.items():
            signal.signal(sign, handler)
