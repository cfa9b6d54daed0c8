"""Compiled models by content: the same model, options, chip, CANN and operators compile once.

An entry is a folder named by the key; it appears whole (rename) and is checked by hash when used.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omfuse._version import __version__
from omfuse.atc.options.problem import is_whole
from omfuse.errors import UsageError

_OM, _ENTRY, _EXTRA = "model.om", "entry.json", "extra"
_LIMIT_BYTES = 8 * 1024**3


@dataclass(frozen=True)
class Hit:
    """A cached compile: its files and what was recorded with it."""

    om: Path
    extra: list[Path]
    record: dict[str, Any]


def cache_folder() -> Path:
    """Return the folder of the cache (``OMFUSE_CACHE_DIR``, else the user's cache folder)."""
    chosen = os.environ.get("OMFUSE_CACHE_DIR")
    base = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(chosen) if chosen else Path(base) / "omfuse" / "atc"


def cache_limit() -> int:
    """Return how many bytes the cache may take (``OMFUSE_CACHE_BYTES``, else 8 GiB).

    Raises:
        UsageError: ``bad-cache-bytes``.
    """
    text = os.environ.get("OMFUSE_CACHE_BYTES") or str(_LIMIT_BYTES)
    if not is_whole(text):
        raise UsageError(
            "bad-cache-bytes",
            f"{text!r} is no number of bytes",
            where="OMFUSE_CACHE_BYTES",
            hint="a whole number such as 8589934592, or unset it",
        )
    return int(text)


def file_digest(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as stream:
        return (
            hashlib.file_digest(stream, "sha256").hexdigest()
            if hasattr(hashlib, "file_digest")
            else _slow_digest(stream)
        )


def _slow_digest(stream: Any) -> str:
    digest = hashlib.sha256()
    for block in iter(lambda: stream.read(1 << 20), b""):
        digest.update(block)
    return digest.hexdigest()


def tree_digest(roots: Iterable[Path], suffixes: tuple[str, ...] = ()) -> str:
    """Return one hash over names and contents of every file below some folders."""
    digest = hashlib.sha256()
    for root in roots:
        files = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file())
        for path in files:
            if not suffixes or path.suffix in suffixes:
                digest.update(str(path.relative_to(root)).encode() + b"\0")
                digest.update(file_digest(path).encode())
    return digest.hexdigest()


def make_key(parts: Mapping[str, Any]) -> str:
    """Return the key of a compile from everything that decides its result."""
    own = tree_digest([Path(__file__).parent], (".py", ".toml"))
    text = json.dumps({"omfuse": __version__, "code": own, **parts}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def look_up(key: str) -> Hit | None:
    """Return a cached compile, None when absent or damaged (then it is removed)."""
    folder = cache_folder() / key
    try:
        record = json.loads((folder / _ENTRY).read_text("utf-8"))
        sound = file_digest(folder / _OM) == record["om_sha256"]
        sound &= tree_digest([folder / _EXTRA]) == record["extra_sha256"]
        sound &= isinstance(record["result"], dict)
    except (OSError, ValueError, KeyError, TypeError):
        sound, record = False, {}
    if not sound:
        if folder.exists():
            shutil.rmtree(folder, ignore_errors=True)
        return None
    os.utime(folder)
    extra = sorted((folder / _EXTRA).iterdir()) if (folder / _EXTRA).is_dir() else []
    return Hit(folder / _OM, extra, record)


def store(key: str, om: Path, extra: Iterable[Path], record: Mapping[str, Any]) -> None:
    """Keep a compile; a full or read-only disk only means that nothing is kept."""
    base = cache_folder()
    try:
        base.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".new-", dir=base))
    except OSError:
        return
    try:
        shutil.copyfile(om, work / _OM)
        for path in extra:
            copy_any(path, work / _EXTRA / path.name)
        digests = {"om_sha256": file_digest(work / _OM)}
        digests["extra_sha256"] = tree_digest([work / _EXTRA])
        entry = {**record, **digests, "stored": time.time()}
        (work / _ENTRY).write_text(json.dumps(entry, indent=1, default=str), "utf-8")
        if (base / key).exists():
            shutil.rmtree(base / key, ignore_errors=True)
        work.rename(base / key)
    except OSError:
        shutil.rmtree(work, ignore_errors=True)
        return
    with contextlib.suppress(OSError):  # another process may tidy up at the same time
        _prune(base, keep=key)


def copy_any(source: Path, target: Path) -> None:
    """Copy a file or a folder, making parents."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, target)


def _prune(base: Path, keep: str) -> None:
    """Drop the entries used longest ago until the cache is below its limit."""
    limit, entries = cache_limit(), []
    for folder in base.iterdir():
        if folder.is_dir() and not folder.name.startswith("."):
            size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
            entries.append((folder.stat().st_mtime, size, folder))
    total = sum(size for _, size, _ in entries)
    for _, size, folder in sorted(entries):
        if total <= limit:
            break
        if folder.name != keep:
            shutil.rmtree(folder, ignore_errors=True)
            total -= size
