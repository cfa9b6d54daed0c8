"""Which stages are done: a key over everything a stage reads, and hashes of what it wrote."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omfuse.atc.cache import file_digest
from omfuse.errors import OutputError

_SCHEMA = "omfuse.pipeline-state/1"
_FILE = "state.json"


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        OutputError: ``cannot-write``.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(text)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OutputError(
            "cannot-write", error.strerror or str(error), str(path), "choose another -o"
        ) from error


class State:
    """Finished stages of one output folder; every change is on disk at once."""

    def __init__(self, folder: Path, resume: bool) -> None:
        self._path = folder / _FILE
        self._folder = folder
        self._stages: dict[str, Any] = {}
        if resume and self._path.is_file():
            try:
                data = json.loads(self._path.read_text("utf-8"))
                if data.get("schema") == _SCHEMA and isinstance(data.get("stages"), dict):
                    self._stages = data["stages"]
            except (OSError, ValueError, AttributeError):
                self._stages = {}  # a damaged record only means that stages run again

    def finished(self, stage: str, key: str) -> Any | None:
        """Return what the stage answered, when it ran on this key and its files are untouched."""
        record = self._stages.get(stage)
        if not isinstance(record, dict) or record.get("key") != key:
            return None
        for name, digest in record.get("files", {}).items():
            path = self._folder / name
            if not path.is_file() or file_digest(path) != digest:
                return None
        return record.get("answer")

    def finish(self, stage: str, key: str, files: Sequence[Path], answer: Any) -> None:
        """Remember a stage."""
        hashes = {str(path.relative_to(self._folder)): file_digest(path) for path in files}
        self._stages[stage] = {"key": key, "files": hashes, "answer": answer}
        document = {"schema": _SCHEMA, "stages": self._stages}
        write_text(self._path, json.dumps(document, indent=1) + "\n")
