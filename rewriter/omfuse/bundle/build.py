"""Assemble a bundle; the folder appears whole or not at all."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from omfuse._version import __version__
from omfuse.atc.cache import file_digest
from omfuse.atc.job import Job
from omfuse.atc.messages import advice_table
from omfuse.bundle.answer import TABLE
from omfuse.bundle.board import DESCRIPTION, MANIFEST
from omfuse.errors import NotAvailableError, OutputError, ToolchainError, UsageError

Tell = Callable[[str], None]
PLATFORMS = ("manylinux2014_aarch64", "manylinux2014_x86_64")
PYTHONS = ("3.8", "3.9", "3.10", "3.11")
# What a board imports: numpy and the standard library are all that these need.
_LIBRARY = (
    "__init__.py", "_version.py", "errors.py", "session.py", "session_protocol.py", "acl",
    "sim/__init__.py", "sim/payload.py", "diff/__init__.py", "diff/metrics.py", "diff/verdict.py",
    "bundle/__init__.py", "bundle/answer.py", "bundle/board.py",
)  # fmt: skip
_PLACE = "{folder}"


@dataclass(frozen=True)
class Bundle:
    """What was made: the folder or archive, its size in bytes, chips, and fused blocks."""

    path: Path
    size: int
    socs: tuple[str, ...]
    attention: int
    samples: int
    wheels: int

    def as_dict(self) -> dict[str, Any]:
        """Return the fields of ``omfuse.bundle/1``."""
        return {
            "path": str(self.path),
            "size": self.size,
            "socs": list(self.socs),
            "attention": self.attention,
            "samples": self.samples,
            "wheels": self.wheels,
        }


def make_bundle(
    model: Path,
    output: Path,
    jobs: Sequence[Job],
    *,
    seeds: Sequence[int] = (0, 1, 2),
    pythons: Sequence[str] = PYTHONS,
    tell: Tell | None = None,
) -> Bundle:
    """Rewrite a model and pack all that a board without network needs.

    Args:
        model: the exported ``.onnx``.
        output: a folder that does not exist yet, or a ``.tar.gz`` or ``.tar.zst`` file.
        jobs: one compile a chip; their ``model`` and ``output`` are replaced.
        seeds: seeds of the samples.
        pythons: Python versions of the board for which to bring numpy; none brings no wheels.
        tell: told what is done.

    Raises:
        UsageError: ``output-exists``, and what compiling refuses.
        ModelError: the model cannot be read, or no inputs are found with which it runs.
        ToolchainError: ``no-wheels`` when numpy cannot be downloaded.
        NotAvailableError: ``no-zstd``.
    """
    say = tell or (lambda text: None)
    if output.exists() and (output.is_file() or any(output.iterdir())):
        raise UsageError("output-exists", "it is there already", str(output), "choose another -o")
    suffix = _archive_suffix(output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}."))
    except OSError as error:
        raise OutputError("cannot-write", str(error), str(output.parent)) from error
    try:
        folder = work / output.name.removesuffix(suffix)
        folder.mkdir()
        made = _fill(model, folder, jobs, seeds, pythons, say)
        if suffix:
            say("packing")
            packed = _pack(folder, work / output.name, suffix)
            packed.replace(output)
        else:
            if output.exists():
                output.rmdir()
            folder.rename(output)
        return replace(made, path=output, size=_size(output))
    except OSError as error:
        raise OutputError("cannot-write", error.strerror or str(error), str(output)) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _archive_suffix(output: Path) -> str:
    for suffix in (".tar.gz", ".tar.zst"):
        if output.name.endswith(suffix):
            if suffix == ".tar.zst" and shutil.which("zstd") is None:
                raise NotAvailableError(
                    "no-zstd", "the program zstd is not here", hint="apt install zstd, or .tar.gz"
                )
            return suffix
    return ""


def _fill(
    model: Path,
    folder: Path,
    jobs: Sequence[Job],
    seeds: Sequence[int],
    pythons: Sequence[str],
    say: Tell,
) -> Bundle:
    import omfuse
    from omfuse import api
    from omfuse.bundle.samples import write_samples

    say("rewriting")
    result = omfuse.rewrite(model)
    fused = folder / "model" / f"{model.stem}.fused.onnx"
    fused.parent.mkdir()
    api.save(result, model, fused)
    targets, attention = [], 0
    sizes: dict[str, tuple[int, ...]] = {}
    for job in jobs:
        say(f"preparing {job.soc}")
        target, count, sizes = _target(replace(job, model=fused), folder)
        targets.append(target)
        attention = max(attention, count)
    (folder / "samples").mkdir()
    say("running the original on samples")
    precision = "bf16" if all("bf16" in job.precision for job in jobs) else "fp16"
    samples = write_samples(model, folder / "samples", sizes, seeds, precision)
    description = {
        "schema": "omfuse.bundle-description/1",
        "omfuse": __version__,
        "model": model.name,
        "attention": attention,
        "precision": precision,
        "targets": targets,
        "samples": samples,
    }
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n", "utf-8")
    _sources(folder)
    count = 0
    if pythons:
        say("downloading numpy for the board")
        count = _wheels(folder / "wheels", pythons)
    _manifest(folder)
    socs = tuple(target["soc"] for target in targets)
    return Bundle(folder, 0, socs, attention, len(samples), count)


def _target(job: Job, folder: Path) -> tuple[dict[str, Any], int, dict[str, tuple[int, ...]]]:
    """Write the ATC form for one chip and compile it once with the simulated ATC."""
    from omfuse.atc.compile import run_job
    from omfuse.atc.environment import Toolchain
    from omfuse.atc.prepare import check_rules, final_options, form_of, prepare
    from omfuse.bundle.samples import fixed_sizes
    from omfuse.ops.package import preset_of
    from omfuse.sim.payload import load_payload

    place = folder / "atc" / job.soc
    place.mkdir(parents=True)
    ready = prepare(replace(job, output=place / f"{job.model.stem}.om"))
    form = form_of(ready)
    options = final_options(ready, form, place, carry=True)
    check_rules(ready, options, Toolchain("ascend", Path("atc"), None), form)
    (place / "out").rmdir()
    words = [word.replace(str(place), _PLACE) for word in options.to_argv()]
    with tempfile.TemporaryDirectory() as scratch:
        trial = replace(
            job, device="sim", output=Path(scratch) / "trial.om", log_dir=Path(scratch) / "log",
            use_cache=False,
        )  # fmt: skip
        run_job(trial)
        payload = load_payload(trial.output)
    target = {
        "soc": ready.soc.name,
        "preset": preset_of([ready.soc.name]) if form.attention else "",
        "folder": str(place.relative_to(folder)),
        "arguments": words,
    }
    return target, len(form.attention), fixed_sizes(payload)


def _sources(folder: Path) -> None:
    """Copy the operator's sources, the part of omfuse that a board imports, and the scripts."""
    package = resources.files("omfuse")
    with resources.as_file(package.joinpath("custom_ops")) as root:
        _copy(root / "flash_attention", folder / "op" / "flash_attention")
    with resources.as_file(package.joinpath("atc_configs")) as root:
        _copy(root, folder / "configs")
    table = json.dumps(advice_table(), indent=1, sort_keys=True)
    (folder / TABLE).write_text(table + "\n", "utf-8")
    with resources.as_file(package) as root:
        for name in _LIBRARY:
            _copy(root / name, folder / "lib" / "omfuse" / name)
        shutil.copyfile(root / "bundle" / "run.sh", folder / "run.sh")
    (folder / "run.sh").chmod(0o755)
    (folder / "README.txt").write_text(_README, "utf-8")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        skipped = shutil.ignore_patterns("__pycache__", "*.pyc", "build_out")
        shutil.copytree(source, target, ignore=skipped)
    else:
        shutil.copyfile(source, target)


def _wheels(folder: Path, pythons: Sequence[str]) -> int:
    """Download numpy for every platform and Python.

    Raises:
        ToolchainError: ``no-wheels``.
    """
    folder.mkdir()
    for version in pythons:
        for platform in PLATFORMS:
            command = [
                sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "numpy",
                "--only-binary=:all:", "--platform", platform, "--python-version", version,
                "--dest", str(folder),
            ]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                words = done.stderr.strip().splitlines()
                raise ToolchainError(
                    "no-wheels",
                    f"numpy for Python {version} on {platform} cannot be downloaded",
                    where=words[-1] if words else None,
                    hint="--no-wheels leaves them out; then the board needs numpy",
                )
    return len(list(folder.iterdir()))


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path


def _manifest(folder: Path) -> None:
    lines = [f"{file_digest(path)}  {path.relative_to(folder)}\n" for path in _files(folder)]
    (folder / MANIFEST).write_text("".join(lines), "utf-8")


def _pack(folder: Path, target: Path, suffix: str) -> Path:
    """Pack the folder; the same folder gives the same bytes."""
    plain = target.with_name(target.name.removesuffix(suffix) + ".tar")

    def settle(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid = info.gid = 0
        info.uname = info.gname = ""
        info.mtime = 0
        return info

    with tarfile.open(plain, "w") as archive:
        for path in _files(folder):
            archive.add(path, str(path.relative_to(folder.parent)), filter=settle)
    if suffix == ".tar.zst":
        subprocess.run(["zstd", "-q", "-T0", "-o", str(target), str(plain)], check=True)
    else:
        _gzip(plain, target)
    plain.unlink()
    return target


def _gzip(source: Path, target: Path) -> None:
    with (
        source.open("rb") as read,
        target.open("wb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as write,
    ):
        shutil.copyfileobj(read, write)


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in _files(path))


_README = """\
Carry this folder to the machine with the NPU and call ./run.sh there.

It checks every file, builds the FlashAttention operator with the CANN of that machine, compiles
each model with ATC, runs it on samples, and compares the results with those of onnxruntime, which
were computed before. The verdict is printed and written to out/result.json.

Needed there: CANN 8.x, Python 3.8 or newer, numpy (wheels/ has it), cmake for the operator.

  model/     the rewritten model
  atc/       what ATC reads, a folder a chip
  configs/   numbers and settings of the chips
  op/        sources of the operator
  samples/   inputs, golden outputs, and the run that sets the error budget
  lib/       the part of omfuse that runs models
  wheels/    numpy for aarch64 and x86-64
"""
