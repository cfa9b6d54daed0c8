"""The process behind an isolated session: read frames from stdin, answer on stdout."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from omfuse.errors import OmfuseError
from omfuse.host import frames
from omfuse.session_protocol import Array, TensorInfo


def _private_streams() -> tuple[BinaryIO, BinaryIO]:
    """Take stdin and stdout for frames; what native code prints goes to stderr instead."""
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return source, sink


def _describe(infos: list[TensorInfo]) -> list[dict[str, Any]]:
    return [{"name": i.name, "dtype": i.dtype.name, "shape": list(i.shape)} for i in infos]


def _problem(error: OmfuseError) -> Mapping[str, Any]:
    return {"error": {"class": type(error).__name__, **error.as_dict()}}


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Open the model of the first frame, then run it once for each further frame."""
    from omfuse.host.engine import Engine, EngineOptions

    request, _ = frames.receive(source)
    try:
        options = dict(request["options"])
        for name in ("extra_outputs", "custom_ops"):
            options[name] = tuple(options[name])
        engine = Engine(Path(request["model"]), EngineOptions(**options))
    except OmfuseError as error:
        frames.send(sink, _problem(error), {})
        return
    described = {"inputs": _describe(engine.inputs), "outputs": _describe(engine.outputs)}
    frames.send(sink, {**described, "kernels": engine.kernels}, {})
    while True:
        _, feeds = frames.receive(source)
        results: dict[str, Array] = {}
        header: Mapping[str, Any] = {}
        try:
            results = engine.run(feeds)
        except OmfuseError as error:
            header = _problem(error)
        frames.send(sink, header, results)


if __name__ == "__main__":
    streams = _private_streams()
    try:
        serve(*streams)
    except (EOFError, BrokenPipeError):
        sys.exit(0)  # the session closed
