"""Find operator packages the way ATC does and check that ours fits the target, before ATC starts.

ATC only logs a warning when a plug-in cannot be loaded or a vendor is skipped, and then reports the
operator as unknown.  So the same places are looked at here: entries of ``ASCEND_CUSTOM_OPP_PATH``,
then ``opp/vendors`` in the order of ``config.ini``.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omfuse.atc.cache import tree_digest
from omfuse.atc.config import SocConfig
from omfuse.atc.environment import Toolchain, read_fields
from omfuse.atc.reports import read_json
from omfuse.fuse.contract import OP_TYPE

_RANGE = re.compile(r"(>=|<=|>|<|=)?\s*([0-9.]+)")


@dataclass(frozen=True)
class OpPackage:
    """One vendor folder: where it was found and its parser plug-ins."""

    vendor: str
    root: Path
    found_by: str
    plugins: tuple[Path, ...]


@dataclass
class PackageCheck:
    """Whether the operator is ready for a target, and every problem with its fix."""

    package: OpPackage | None
    problems: list[tuple[str, str]] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether ATC will find operator, definition and kernel description."""
        return self.package is not None and not self.problems


def find_packages(toolchain: Toolchain, env: Mapping[str, str]) -> list[OpPackage]:
    """List operator packages in ATC's search order."""
    found = []
    for entry in env.get("ASCEND_CUSTOM_OPP_PATH", "").split(":"):
        if entry and Path(entry).is_dir():
            found.append(_package(Path(entry), "ASCEND_CUSTOM_OPP_PATH"))
    vendors = toolchain.opp / "vendors" if toolchain.opp else None
    if vendors is not None and vendors.is_dir():
        order = read_fields(vendors / "config.ini").get("load_priority", "")
        for name in [v.strip() for v in order.split(",") if v.strip()]:
            if (vendors / name).is_dir():
                found.append(_package(vendors / name, "vendors/config.ini"))
    return found


def identify_packages(toolchain: Toolchain, env: Mapping[str, str]) -> list[dict[str, str]]:
    """Return vendor, version (empty when not stated) and content hash of every package."""
    return [
        {
            "vendor": package.vendor,
            "version": stated_version(package),
            "sha256": tree_digest([package.root]),
        }
        for package in find_packages(toolchain, env)
    ]


def stated_version(package: OpPackage) -> str:
    """Return the compiler version that a package was built with, empty when it does not say."""
    stated = read_fields(package.root / "version.info")
    return stated.get("custom_opp_compiler_version") or stated.get("compiler_version", "")


def _package(root: Path, found_by: str) -> OpPackage:
    plugins = tuple(sorted((root / "framework").rglob("*.so")))
    return OpPackage(root.name, root, found_by, plugins)


def check_flash_attention(
    toolchain: Toolchain, env: Mapping[str, str], soc: SocConfig, opset: int
) -> PackageCheck:
    """Check that a package provides FlashAttention for a SoC at an opset.

    The first package whose plug-in names the operator counts, as the first registration keeps the
    key in ATC.
    """
    packages = find_packages(toolchain, env)
    for package in packages:
        holders = [p for p in package.plugins if _mentions(p, f"::{OP_TYPE}".encode())]
        if holders:
            check = PackageCheck(package)
            _check_plugin(check, holders, opset, env)
            _check_version(check, package, toolchain)
            _check_files(check, package, soc)
            return check
    looked = ", ".join(str(p.root) for p in packages) or "no package is installed"
    what = f"no operator package provides {OP_TYPE} (looked at: {looked})"
    return PackageCheck(None, [(what, "omfuse op build, then omfuse op install")])


def _mentions(path: Path, text: bytes) -> bool:
    try:
        return text in path.read_bytes()
    except OSError:
        return False


def _check_plugin(
    check: PackageCheck, holders: list[Path], opset: int, env: Mapping[str, str]
) -> None:
    key = f"ai.onnx::{opset}::{OP_TYPE}"
    if not any(_mentions(p, key.encode()) for p in holders):
        check.problems.append(
            (
                f"the plug-in {holders[0].name} does not list {key}",
                "--opset 17, or rebuild the package",
            )
        )
    missing = missing_libraries(holders[0], env)
    if missing:
        check.problems.append(
            (
                f"{holders[0].name} cannot be loaded, missing {', '.join(missing)}",
                "source CANN's set_env.sh, or rebuild the package with this CANN",
            )
        )


def missing_libraries(path: Path, env: Mapping[str, str]) -> list[str]:
    """Return the shared libraries that a library needs and the loader does not find."""
    ldd = shutil.which("ldd")
    if ldd is None:
        return []
    try:
        done = subprocess.run(
            [ldd, str(path)], env=dict(env), capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.split()[0] for line in done.stdout.splitlines() if "not found" in line]


def _check_version(check: PackageCheck, package: OpPackage, toolchain: Toolchain) -> None:
    built = stated_version(package)
    home = toolchain.home
    fields = read_fields(home / "compiler/version.info") if home else {}
    allowed = fields.get("required_opp_abi_version", "")
    if built and allowed and not version_in_range(built, allowed):
        check.problems.append(
            (
                f"{package.vendor} was built with {built}, this CANN takes {allowed} and skips it",
                "rebuild the package with this CANN",
            )
        )


def version_in_range(version: str, ranges: str) -> bool:
    """Tell whether ``7.7.0`` is inside ``>=6.3, <=7.7``; compared by the numbers of the bound."""
    have = [int(n) for n in re.findall(r"\d+", version)]
    for sign, bound in _RANGE.findall(ranges):
        want = [int(n) for n in bound.split(".") if n]
        part = have[: len(want)]
        ok = {
            ">=": part >= want,
            "<=": part <= want,
            ">": part > want,
            "<": part < want,
        }.get(sign, part == want)
        if not ok:
            return False
    return True


def describes(packages: Sequence[OpPackage], soc: SocConfig) -> bool:
    """Tell whether some package has a description of the operator for a chip."""
    return any(OP_TYPE in name for package in packages for name in _described(package, soc))


def _described(package: OpPackage, soc: SocConfig) -> dict[str, Any]:
    config = package.root / "op_impl/ai_core/tbe/config" / soc.short
    described: dict[str, Any] = {}
    for path in sorted(config.glob("aic-*-ops-info.json")):
        document = read_json(path)
        described.update(document if isinstance(document, dict) else {})
    return described


def _check_files(check: PackageCheck, package: OpPackage, soc: SocConfig) -> None:
    if not list((package.root / "op_proto").rglob("*.so")):
        check.problems.append(
            ("the package has no op_proto library (ATC E10501)", "rebuild the package")
        )
    if not describes([package], soc):
        check.problems.append(
            (
                f"the package does not describe {OP_TYPE} for {soc.short} (ATC EZ3003)",
                f"omfuse op build --soc {soc.name}",
            )
        )
