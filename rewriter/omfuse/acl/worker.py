"""The process behind an isolated device session: frames in on stdin, answers on stdout.

It ends when stdin closes or when it is told to terminate, and gives the device back both ways.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any, BinaryIO

from omfuse.acl.codes import AclError
from omfuse.acl.device_session import DeviceSession
from omfuse.acl.isolated import Journal
from omfuse.acl.opening import library_of, open_om, real_library
from omfuse.errors import OmfuseError
from omfuse.host import frames


def _private_streams() -> tuple[BinaryIO, BinaryIO]:
    """Take stdin and stdout for frames; what native code prints goes to stderr instead."""
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return source, sink


def _problem(error: Exception) -> dict[str, Any]:
    if not isinstance(error, OmfuseError):  # a fault of ours: the session goes on
        said = f"the device worker failed: {type(error).__name__}: {error}"
        return {"error": {"class": "DeviceError", "code": "worker-failed", "message": said}}
    fields = {"class": type(error).__name__, **error.as_dict()}
    if isinstance(error, AclError):
        fields.update(number=error.number, function=error.function, said=error.said)
    return {"error": fields}


def _open(request: Mapping[str, Any], journal: Journal) -> DeviceSession:
    if request["device"] == "sim":
        from omfuse.sim.device import simulated_device

        library = library_of(str(simulated_device().path))
    else:
        library = real_library()
    library.journal = journal.write
    session = open_om(
        request["model"], request["device"], index=request["index"], **request["options"]
    )
    assert isinstance(session, DeviceSession)
    return session


def serve(source: BinaryIO, sink: BinaryIO, journal: Journal) -> None:
    """Open the model of the first frame, then answer each further one."""
    request, _ = frames.receive(source)
    try:
        session = _open(request, journal)
    except Exception as error:
        frames.send(sink, _problem(error), {})
        return
    with session:
        described = {
            kind: [{"name": i.name, "dtype": i.dtype.name, "shape": list(i.shape)} for i in infos]
            for kind, infos in (("inputs", session.inputs), ("outputs", session.outputs))
        }
        head = {**described, "mode": session.mode, "kernels": session.kernels}
        frames.send(sink, head, {})
        while True:
            request, feeds = frames.receive(source)
            try:
                header, results = _answer(session, request, feeds)
            except Exception as error:
                header, results = _problem(error), {}
            frames.send(sink, header, results)


def _answer(
    session: DeviceSession, request: Mapping[str, Any], feeds: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    if "bind" in request:
        session.bind(*request["bind"])
        return {}, {}
    if "forget" in request:
        session.forget()
        return {}, {}
    if "dims" in request:
        return {"dims": session.default_dims(request["dims"])}, {}
    if "memory" in request:
        return {"memory": list(session.memory())}, {}
    results = session.run(feeds, request["run"])
    return {"seconds": session.seconds, "kernels": session.kernels}, results


def main(journal_descriptor: int) -> int:
    """Serve until the session closes."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    source, sink = _private_streams()
    journal = Journal(journal_descriptor)
    os.close(journal_descriptor)
    with contextlib.suppress(EOFError, BrokenPipeError):  # the session closed
        serve(source, sink, journal)
    return 0


if __name__ == "__main__":
    # Allocators of the real library outlive its runtime and may crash at a normal exit.
    try:
        code = main(int(sys.argv[1]))
    except SystemExit as end:
        code = int(end.code or 0)
    os._exit(code)
