"""A child process that answers calls one by one; a crash or a hang costs only the call.

Some fp16 models crash onnxruntime natively, and exporters run out of memory or never return, so
whatever touches a model runs here and not in the process that keeps the results.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any


def _serve(function: Callable[..., Any], connection: Connection, quiet: bool) -> None:
    if quiet:
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
    while True:
        try:
            arguments = connection.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            connection.send(("ok", function(*arguments)))
        except KeyboardInterrupt:
            return
        except BaseException as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(frame.filename).name}:{frame.lineno}"
            text = f"{type(error).__name__}: {error} ({place})"
            connection.send(("error", text))


class Worker:
    """Runs `function(*arguments)` in one child that lives until it crashes or hangs."""

    def __init__(self, function: Callable[..., Any], quiet: bool = True) -> None:
        self._function, self._quiet = function, quiet
        self._context = multiprocessing.get_context("spawn")
        self._process: Any = None
        self._connection: Connection | None = None

    def call(self, *arguments: Any, timeout: float) -> tuple[str, Any]:
        """("ok", value), ("error", text), ("crash", text) or ("timeout", text)."""
        if self._process is None or not self._process.is_alive():
            self._start()
        assert self._connection is not None
        try:
            self._connection.send(arguments)
            if not self._connection.poll(timeout):
                self.close()
                return "timeout", f"no answer within {timeout:.0f} s"
            answer: tuple[str, Any] = self._connection.recv()
            return answer
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._process.join(5)
            code = self._process.exitcode
            self.close()
            return "crash", f"the process ended with code {code}"

    def close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.close()
        if self._process is not None and self._process.is_alive():
            self._process.kill()
            self._process.join(5)
        self._process, self._connection = None, None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        self.close()
        here, there = self._context.Pipe()
        self._process = self._context.Process(
            target=_serve, args=(self._function, there, self._quiet), daemon=True
        )
        self._process.start()
        there.close()
        self._connection = here
