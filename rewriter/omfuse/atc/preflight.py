"""What is looked at on this machine before ATC starts, and again when it failed.

ATC says little about a chip without platform file, an operator package that it skipped or a Python
that it cannot use; the same things are found here in a second.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from functools import lru_cache

from omfuse.atc import op_package
from omfuse.atc.driver import AtcError
from omfuse.atc.environment import Toolchain, platform_names
from omfuse.atc.form.make import AtcForm
from omfuse.atc.prepare import Prepared
from omfuse.errors import NotAvailableError, UsageError
from omfuse.fuse.contract import OP_TYPE

_NUMPY_LIMIT = 8  # CANN up to this major number stops with numpy 2
_PROBE = "import numpy; print(numpy.__version__)"


def check_target(ready: Prepared, toolchain: Toolchain) -> None:
    """Refuse a chip for which this CANN has no platform file.

    Raises:
        UsageError: ``soc-not-installed``.
    """
    known = platform_names(toolchain)
    if ready.job.checked and known and ready.soc.name not in known:
        near = sorted(n for n in known if n.startswith(ready.soc.family)) or sorted(known)
        raise UsageError(
            "soc-not-installed",
            f"this CANN has no platform file for {ready.soc.name} (ATC E20101)",
            where=str(toolchain.home),
            hint=f"it knows {', '.join(near[:8])}; from CANN 8.5 the ops package of the chip is "
            "installed separately",
        )


def check_operator(
    ready: Prepared, form: AtcForm, toolchain: Toolchain, env: Mapping[str, str]
) -> None:
    """Check that ATC will find FlashAttention and a kernel of it for the chip.

    Raises:
        UsageError: ``no-kernel`` for a chip that the kernel is not written for.
        NotAvailableError: ``op-not-installed``.
    """
    if not ready.job.checked:
        return
    if not ready.soc.attention["custom"] and not op_package.describes(
        op_package.find_packages(toolchain, env), ready.soc
    ):
        raise UsageError(
            "no-kernel",
            f"FlashAttention has no kernel for {ready.soc.name} (ATC EZ3003)",
            where="--soc",
            hint="it is written for 310P, 910B and 910_93; compile the model as it was exported, "
            "without fusing",
        )
    if toolchain.device != "ascend":
        return
    check = op_package.check_flash_attention(toolchain, env, ready.soc, form.opset)
    if check.ok:
        return
    if ready.job.dry_run or toolchain.home is None:
        ready.warnings += [f"{what}; {fix}" for what, fix in check.problems]
        return
    what = "; ".join(text for text, _ in check.problems)
    raise NotAvailableError(
        "op-not-installed",
        f"FlashAttention is not ready for {ready.soc.name}: {what}",
        where=str(check.package.root) if check.package else None,
        hint="; ".join(dict.fromkeys(fix for _, fix in check.problems)),
    )


def explain_operator(
    error: AtcError,
    ready: Prepared,
    form: AtcForm,
    toolchain: Toolchain,
    env: Mapping[str, str],
) -> None:
    """Say what is wrong with the operator package when ATC stumbled over our operator."""
    named = [error.where or "", *(u.key for u in error.unsupported)]
    ours = any(OP_TYPE in text for text in (*named, error.message))
    if not ours or not form.attention or ready.job.attention != "custom":
        return
    check = op_package.check_flash_attention(toolchain, env, ready.soc, form.opset)
    found = [f"{what}: {fix}" for what, fix in check.problems]
    if not found and check.package is not None:
        found = [f"nothing is wrong with {check.package.root} as far as can be seen from outside"]
    error.hint = "\n  package: ".join([error.hint or "", *found])


def python_warnings(toolchain: Toolchain, env: Mapping[str, str]) -> list[str]:
    """Warn of a numpy with which the operator compiler of this CANN does not start."""
    program = shutil.which("python3", path=env.get("PATH"))
    if toolchain.device != "ascend" or program is None or toolchain.major is None:
        return []
    version = _numpy_of(program, env.get("PYTHONPATH", ""))
    if toolchain.major > _NUMPY_LIMIT or version.split(".")[0] in ("", "0", "1"):
        return []
    return [
        f"{program} has numpy {version}, with which ATC of CANN {toolchain.major} stops (EC0010); "
        f"{program} -m pip install 'numpy<2'"
    ]


@lru_cache(maxsize=8)
def _numpy_of(program: str, places: str) -> str:
    try:
        done = subprocess.run(
            [program, "-c", _PROBE],
            env={"PYTHONPATH": places},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()
