"""Private working folders with plain paths, and the runs kept in them."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from omfuse.atc.options.io_rules import PLAIN_PATH
from omfuse.errors import OutputError

_KEEP_RUNS = 20
_PARTIAL = ".omfuse-part-"  # short: a name of the full length must still fit
_BULK = ("kernel_meta", "weight", "out", "opp")


def make_run_folder(stem: str, base: Path | None = None) -> Path:
    """Make a folder for one run; ATC accepts its real path.

    Args:
        stem: name of the model, for people.
        base: where to make it; by default the user's state folder, else the temporary one.

    Raises:
        OutputError: ``no-work-folder`` when no place is writable and has a plain path.
    """
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", stem)[:60] or "model"
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{plain}-"
    tried = []
    for place in [base] if base else _bases():
        try:
            place.mkdir(parents=True, exist_ok=True)
            if not PLAIN_PATH.match(str(place.resolve())):
                tried.append(f"{place} has characters that ATC refuses")
                continue
            _drop_old(place)
            return Path(tempfile.mkdtemp(prefix=name, dir=place.resolve()))
        except OSError as error:
            tried.append(f"{place}: {error.strerror}")
    raise OutputError(
        "no-work-folder",
        f"no working folder for ATC: {'; '.join(tried)}",
        hint="name one with --log-dir, letters, digits and -._/ only",
    )


def _bases() -> Iterator[Path]:
    if os.environ.get("OMFUSE_RUN_DIR"):
        yield Path(os.environ["OMFUSE_RUN_DIR"])
    state = os.environ.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser()
    yield Path(state) / "omfuse" / "runs"
    yield Path(tempfile.gettempdir()) / f"omfuse-{os.getuid()}" / "runs"


def _drop_old(base: Path) -> None:
    runs = sorted(p for p in base.iterdir() if re.match(r"\d{8}-\d{6}-", p.name) and p.is_dir())
    for folder in runs[:-_KEEP_RUNS]:
        # A run still going on is younger than a day.
        if time.time() - folder.stat().st_mtime > 86400 or len(runs) > 4 * _KEEP_RUNS:
            shutil.rmtree(folder, ignore_errors=True)


def drop_bulk(folder: Path) -> None:
    """Remove the model copies of a good run; logs, command and reports stay."""
    for path in folder.iterdir():
        if path.suffix in (".onnx", ".bin", ".om") or path.name in _BULK:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def make_plain(stem: str) -> str:
    """Return a file name that ATC accepts for a stem."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", stem) or "model"


def check_writable(target: Path) -> None:
    """Try whether a file can be made at ``target``, before hours of compiling; leaves nothing.

    Raises:
        OutputError: ``cannot-write``.
    """
    missing = [folder for folder in target.parents if not folder.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=_PARTIAL, dir=target.parent)
        os.close(handle)
        Path(name).unlink()
    except OSError as error:
        raise _unwritable(error, target) from None
    finally:
        for folder in missing:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _unwritable(error: OSError, target: Path) -> OutputError:
    return OutputError(
        "cannot-write",
        f"cannot write the file: {error.strerror}",
        where=str(target),
        hint="free space there, or choose another -o",
    )


def place(source: Path, target: Path) -> None:
    """Put a file at its final name in one step: copy beside it, then rename.

    Raises:
        OutputError: ``cannot-write``.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=_PARTIAL, dir=target.parent)
        os.close(handle)
        try:
            shutil.copyfile(source, name)
            mask = os.umask(0)
            os.umask(mask)
            Path(name).chmod(0o666 & ~mask)
            Path(name).replace(target)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(error, target) from None


def place_any(source: Path, target: Path) -> None:
    """Put a file or a folder of files at its final place."""
    if source.is_dir():
        for path in sorted(source.rglob("*")):
            if path.is_file():
                place(path, target / path.relative_to(source))
    else:
        place(source, target)
