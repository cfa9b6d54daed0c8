"""Install an operator package: run its ``.run`` file, or copy a vendor folder."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from omfuse.atc.environment import find_toolchain, read_fields
from omfuse.atc.process import run_program
from omfuse.errors import ModelError, NotAvailableError, OutputError, ToolchainError, UsageError

VENDOR = "omfuse"
_TIMEOUT = 300.0


@dataclass(frozen=True)
class Installed:
    """Where the vendor folder is, and the file to source before ATC (None inside ``opp``)."""

    root: Path
    environment: Path | None


def install_package(package: Path, path: Path | None = None, cann: Path | None = None) -> Installed:
    """Install a package.

    Args:
        package: a ``.run`` file, or a vendor folder (``.../vendors/omfuse``).
        path: install below this folder; None: the ``opp`` folder of CANN.
        cann: the toolkit, None to search for it; only asked for without ``path``.

    Raises:
        ModelError: ``package-not-found``, ``not-a-package``.
        NotAvailableError: ``no-cann``.
        ToolchainError: ``install-failed``.
        OutputError: ``cannot-write``.
    """
    if not package.exists():
        raise ModelError("package-not-found", "there is no such package", where=str(package))
    target = path.expanduser().absolute() if path else _opp(cann)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError("cannot-write", f"{error.strerror}", where=str(target)) from None
    if package.is_dir():
        return _copy(package.resolve(), target, listed=path is None)
    _run(package.resolve(), target, listed=path is None)
    root = target / "vendors" / VENDOR
    if not root.is_dir():
        raise ToolchainError("install-failed", "the package left no vendor folder", where=str(root))
    environment = root / "bin/set_env.bash"
    return Installed(root, environment if path and environment.is_file() else None)


def _opp(cann: Path | None) -> Path:
    try:
        opp = find_toolchain("ascend", cann).opp
    except NotAvailableError as error:
        raise NotAvailableError(
            error.code, error.message, hint="name a folder with --path; ATC can come later"
        ) from None
    if opp is None:
        raise UsageError("bad-cann", "this CANN has no opp folder", hint="use --path")
    return opp


def _run(package: Path, target: Path, *, listed: bool) -> None:
    if package.suffix != ".run":
        raise ModelError(
            "not-a-package",
            "an operator package is a .run file or a vendor folder",
            where=str(package),
        )
    argv = ["bash", str(package), "--quiet"]
    env = {k: v for k, v in os.environ.items() if k != "ASCEND_CUSTOM_OPP_PATH"}
    if listed:
        env["ASCEND_OPP_PATH"] = str(target)
    else:
        argv.append(f"--install-path={target}")
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "install.log")
        outcome = run_program(argv, Path(folder), env, log, _TIMEOUT)
    if outcome.code != 0:
        lines = [line for line in outcome.output.splitlines() if line.strip()]
        said = next(
            (line for line in reversed(lines) if "rror" in line), (lines or ["no output"])[-1]
        )
        raise ToolchainError("install-failed", said.strip()[:240], where=str(package))


def _copy(package: Path, target: Path, *, listed: bool) -> Installed:
    if not (package / "op_impl").is_dir() or not (package / "framework").is_dir():
        raise ModelError(
            "not-a-package",
            "a vendor folder holds framework, op_proto and op_impl",
            where=str(package),
            hint="name the folder .../vendors/omfuse itself",
        )
    vendors = target / "vendors"
    root = vendors / package.name
    fresh = vendors / f".{package.name}.new"
    try:
        vendors.mkdir(exist_ok=True)
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(package, fresh, symlinks=True)
        if not listed:
            (fresh / "bin").mkdir(exist_ok=True)
            (fresh / "bin/set_env.bash").write_text(_set_env(root), "utf-8")
        shutil.rmtree(root, ignore_errors=True)
        fresh.replace(root)
        if listed:
            _list_first(vendors / "config.ini", package.name)
    except OSError as error:
        shutil.rmtree(fresh, ignore_errors=True)
        raise OutputError("cannot-write", f"{error.strerror}", where=str(error.filename)) from None
    return Installed(root, None if listed else root / "bin/set_env.bash")


def _set_env(root: Path) -> str:
    lines = {"ASCEND_CUSTOM_OPP_PATH": root, "LD_LIBRARY_PATH": root / "op_api/lib"}
    return "".join(
        f'export {name}="{value}${{{name}:+:${name}}}"\n' for name, value in lines.items()
    )


def _list_first(config: Path, vendor: str) -> None:
    order = [v.strip() for v in read_fields(config).get("load_priority", "").split(",")]
    others = [name for name in order if name and name != vendor]
    fresh = config.with_suffix(".new")
    fresh.write_text(f"load_priority={','.join([vendor, *others])}\n", "utf-8")
    fresh.replace(config)
