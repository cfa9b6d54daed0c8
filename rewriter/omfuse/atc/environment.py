"""Find CANN and its version, and build the environment in which ATC runs.

Looked up in this order: an explicit folder, ``ASCEND_TOOLKIT_HOME``, ``ASCEND_HOME_PATH``, ``atc``
on ``PATH``, the usual install folders.  The simulated toolchain is found the same way as a program
and differs only in its path.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shlex
import shutil
import stat
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from omfuse.errors import NotAvailableError, UsageError

USUAL_HOMES = (
    "/usr/local/Ascend/ascend-toolkit/latest",
    "/usr/local/Ascend/cann",
    "/usr/local/Ascend/latest",
    "~/Ascend/ascend-toolkit/latest",
    "~/Ascend/cann",
    "~/Ascend/latest",
)
_HOME_VARIABLES = ("ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH")
HOW_TO_GET = (
    "install the CANN toolkit 8.x or 9.x of your chip (hiascend.com, or its container image) and "
    "source its set_env.sh, or name its folder with --cann; "
    "`--device sim` builds a simulated .om here; `omfuse bundle` packs a folder for a machine that "
    "has CANN"
)
# Inner package numbers whose public release was seen in files of that release.
_PUBLIC = {
    "7.6.T11.0.B080": "8.0.0.alpha003",
    "7.6.0.1.220": "8.0.0",
    "7.7.0.1.238": "8.1.RC1",
}


@dataclass(frozen=True)
class Toolchain:
    """One installed ATC.

    Attributes:
        device: ``ascend`` for the real one, ``sim`` for the simulated one.
        atc: the executable.
        home: the CANN folder, None for the simulated one.
        version: public release such as ``8.1.RC1``; empty when unknown.
        inner_version: package number such as ``7.7.0.1.238``; empty when unknown.
    """

    device: str
    atc: Path
    home: Path | None
    version: str = ""
    inner_version: str = ""

    @property
    def major(self) -> int | None:
        """Major number of the public release, None when unknown."""
        match = re.match(r"(\d+)\.", self.version)
        return int(match[1]) if match else None

    @property
    def opp(self) -> Path | None:
        """The operator folder, where vendors install their packages."""
        chosen = os.environ.get("ASCEND_OPP_PATH")
        if self.device == "ascend" and chosen:
            return Path(chosen)
        return self.home / "opp" if self.home else None


def find_toolchain(device: str, cann: Path | None = None, work: Path | None = None) -> Toolchain:
    """Find the ATC of a device.

    Args:
        device: ``ascend`` or ``sim``.
        cann: CANN folder to use instead of searching.
        work: folder for the launcher of the simulated ATC.

    Raises:
        NotAvailableError: ``no-cann`` or ``no-simulated-atc``.
        UsageError: ``bad-cann`` when ``cann`` holds no ATC, ``unknown-device``.
    """
    if device == "sim":
        return _simulated(work)
    if device != "ascend":
        raise UsageError("unknown-device", f"cannot compile for {device!r}", hint="ascend or sim")
    if cann is not None:
        found = _at(cann.expanduser().absolute())
        if found is None:
            raise UsageError(
                "bad-cann",
                "no bin/atc in that folder",
                where=str(cann),
                hint="name the folder "
                "that holds bin/atc, for example /usr/local/Ascend/ascend-toolkit/latest",
            )
        return found
    for candidate in _candidates():
        found = _at(candidate)
        if found is not None:
            return found
    raise NotAvailableError(
        "no-cann", f"ATC is not installed on this machine{_misled()}", hint=HOW_TO_GET
    )


def _misled() -> str:
    """Name the variables that point to a folder without ATC."""
    given = [name for name in _HOME_VARIABLES if os.environ.get(name)]
    words = [f"{name}={os.environ[name]} holds no bin/atc" for name in given]
    return f"; {', '.join(words)}" if words else ""


def _candidates() -> Iterator[Path]:
    for name in _HOME_VARIABLES:
        if os.environ.get(name):
            yield Path(os.environ[name]).absolute()
    on_path = shutil.which("atc")
    if on_path:
        yield Path(on_path).resolve().parent.parent
        yield Path(on_path).parent.parent
    for text in USUAL_HOMES:
        yield Path(text).expanduser()


def _at(home: Path) -> Toolchain | None:
    for relative in ("bin/atc", "compiler/bin/atc", "atc/bin/atc"):
        program = home / relative
        if program.is_file() and os.access(program, os.X_OK):
            public, inner = read_version(home)
            return Toolchain("ascend", program, home, public, inner)
    return None


def read_version(home: Path) -> tuple[str, str]:
    """Return (public release, inner number) of a CANN folder, empty texts when not stated."""
    text = _read(home / "version.cfg")
    match = re.search(r"=\[([^:\]]+):([^\]]+)\]", text)
    if match:
        return match[2], match[1]
    for path in [
        *sorted(home.glob("*-linux/ascend_toolkit_install.info")),
        home / "compiler/version.info",
        home / "opp/version.info",
    ]:
        fields = read_fields(path)
        inner = fields.get("innerversion") or fields.get("Version") or ""
        public = fields.get("version_dir") or fields.get("version") or _PUBLIC.get(inner, "")
        if public or inner:
            return public or public_release(inner), inner
    return "", ""


def public_release(inner: str) -> str:
    """Return the public release behind a package number, the number itself when unknown."""
    return _PUBLIC.get(inner, inner)


def read_fields(path: Path) -> dict[str, str]:
    """Read ``name=value`` lines; a missing file gives an empty mapping."""
    pairs = (line.partition("=") for line in _read(path).splitlines())
    return {name.strip(): value.strip().strip('"') for name, sep, value in pairs if sep}


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", errors="replace")
    except OSError:
        return ""


def platform_names(toolchain: Toolchain) -> set[str]:
    """Return the soc_versions that this CANN has a platform file for, empty when unknown."""
    if toolchain.home is None:
        return set()
    files = toolchain.home.glob("*-linux/data/platform_config/*.ini")
    return {path.stem for path in files}


def _simulated(work: Path | None) -> Toolchain:
    if importlib.util.find_spec("omfuse.sim") is None or (
        importlib.util.find_spec("omfuse.sim.atc") is None
    ):
        raise NotAvailableError("no-simulated-atc", "the simulated ATC is not part of this install")
    if work is None:
        raise ValueError("the simulated ATC needs a folder for its launcher")
    from omfuse.sim.package import write_package

    write_package(work / "opp")
    launcher = work / "atc"
    start = f'exec {shlex.quote(sys.executable)} -m omfuse.sim.atc "$@"'
    launcher.write_text(f"#!/bin/sh\n{start}\n", "utf-8")
    launcher.chmod(launcher.stat().st_mode | stat.S_IXUSR)
    return Toolchain("sim", launcher, None, "", "")


def child_environment(
    toolchain: Toolchain, base: Mapping[str, str], work: Path, op_paths: tuple[Path, ...] = ()
) -> dict[str, str]:
    """Return the environment for ATC: what ``set_env.sh`` would set, plus private log folders.

    Entries that the user's environment already has are kept; missing ones are put in front.
    """
    env = dict(base)
    env.pop("ASCEND_WORK_PATH", None)
    env["ASCEND_PROCESS_LOG_PATH"] = str(work / "log")
    env.setdefault("TE_PARALLEL_COMPILER", str(min(8, os.cpu_count() or 1)))
    if op_paths:
        known = [p for p in env.get("ASCEND_CUSTOM_OPP_PATH", "").split(":") if p]
        env["ASCEND_CUSTOM_OPP_PATH"] = ":".join(dict.fromkeys([*map(str, op_paths), *known]))
    home = toolchain.home
    if home is None:
        # The fabricated package comes last: one that the user built goes before it.
        made = [str(p) for p in sorted((work / "opp").glob("*/")) if p.is_dir()]
        known = [p for p in env.get("ASCEND_CUSTOM_OPP_PATH", "").split(":") if p]
        env["ASCEND_CUSTOM_OPP_PATH"] = ":".join(dict.fromkeys([*known, *made]))
        return env
    env.setdefault("ASCEND_TOOLKIT_HOME", str(home))
    env.setdefault("ASCEND_HOME_PATH", str(home))
    env.setdefault("ASCEND_OPP_PATH", str(home / "opp"))
    arch = platform.machine()
    tiling = f"opp/built-in/op_impl/ai_core/tbe/op_tiling/lib/linux/{arch}"
    libs = ["lib64", "lib64/plugin/opskernel", "lib64/plugin/nnengine", tiling]
    if not any(Path("/dev").glob("davinci*")):
        libs.append(f"{arch}-linux/devlib")  # stub driver libraries for a host without NPU
    _prepend(env, "LD_LIBRARY_PATH", [home / lib for lib in libs])
    _prepend(
        env,
        "PYTHONPATH",
        [home / "python/site-packages", home / "opp/built-in/op_impl/ai_core/tbe"],
    )
    _prepend(
        env,
        "PATH",
        [home / "bin", home / "compiler/ccec_compiler/bin", home / "tools/ccec_compiler/bin"],
    )
    return env


def _prepend(env: dict[str, str], name: str, folders: list[Path]) -> None:
    known = [p for p in env.get(name, "").split(":") if p]
    new = [str(f) for f in folders if f.is_dir() and str(f) not in known]
    if new or known:
        env[name] = ":".join([*new, *known])
