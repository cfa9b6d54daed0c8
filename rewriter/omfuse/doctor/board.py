"""Driver, devices and AscendCL: what running on a board needs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from omfuse.acl.library import open_library
from omfuse.doctor.finding import FAIL, OK, SKIP, WARN, Finding
from omfuse.errors import OmfuseError

DEVICES = Path("/dev")
_DRIVER = Path("/usr/local/Ascend/driver/version.info")


def running() -> Iterator[Finding]:
    """Look for devices, the driver, the library and settings that surprise."""
    devices = sorted(path.name for path in DEVICES.glob("davinci[0-9]*"))
    if not devices:
        text = "no NPU here (/dev/davinci*): run and bench work with --device sim"
        yield Finding("device", SKIP, text, "omfuse bundle packs a folder for a board")
    else:
        yield Finding("device", OK, f"{len(devices)} NPU: {', '.join(devices)}")
        yield from _access(devices)
        yield from _driver()
    yield from _library(bool(devices))
    yield from _settings()


def _access(devices: list[str]) -> Iterator[Finding]:
    closed = [name for name in devices if not _may_open(DEVICES / name)]
    if closed:
        text = f"this user may not open {', '.join(closed)}"
        yield Finding(
            "device-access", FAIL, text, "sudo usermod -aG HwHiAiUser $USER, log in again"
        )


def _may_open(path: Path) -> bool:
    return os.access(path, os.R_OK | os.W_OK)


def _driver() -> Iterator[Finding]:
    if _DRIVER.is_file():
        fields = dict(
            line.split("=", 1)
            for line in _DRIVER.read_text(errors="replace").splitlines()
            if "=" in line
        )
        yield Finding("driver", OK, f"driver {fields.get('Version', 'of unknown version')}")
    else:
        yield Finding("driver", WARN, f"no {_DRIVER}", "install the driver of the card")
    program = shutil.which("npu-smi")
    if program is None:
        return
    try:
        done = subprocess.run(
            [program, "info"], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        yield Finding("npu-smi", FAIL, "npu-smi info does not answer", "restart the driver")
        return
    if done.returncode:
        words = (done.stdout + done.stderr).strip().splitlines()
        text = f"npu-smi info fails: {words[-1] if words else done.returncode}"
        yield Finding("npu-smi", FAIL, text, "check driver and firmware")


def _library(has_device: bool) -> Iterator[Finding]:
    try:
        library = open_library()
    except OmfuseError as error:
        status = FAIL if has_device else SKIP
        yield Finding("acl", status, error.message, error.hint or "")
    else:
        yield Finding("acl", OK, f"AscendCL {library.path}")


def _settings() -> Iterator[Finding]:
    if os.environ.get("ENABLE_RUNTIME_V2") == "0":
        text = "ENABLE_RUNTIME_V2=0 switches the newer executor of dynamic models off"
        yield Finding("runtime-v2", WARN, text, "unset ENABLE_RUNTIME_V2")
    for entry in os.environ.get("LD_LIBRARY_PATH", "").split(":"):
        if {"stub", "stubs", "devlib"} & set(Path(entry).parts):
            text = f"LD_LIBRARY_PATH names {entry}, whose libraries do nothing"
            yield Finding("stub-path", WARN, text, "take it out for running")
