"""Small models, and three ways to the stand-in: directly, through the driver, through a compile."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest
from tests.atc.conftest import FUSED, parse

from omfuse.atc import messages
from omfuse.atc.driver import AtcError, AtcRun, run_atc
from omfuse.atc.environment import child_environment, find_toolchain
from omfuse.atc.om.summary import describe_om
from omfuse.atc.options.fields import AtcOptions
from omfuse.sim.atc.inprocess import atc_in_process
from omfuse.sim.atc.main import main

# What ATC itself reads: our operator in the default domain, names everywhere.
FORM = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[n,2,s,16] q, float[n,2,s,16] k, float[n,2,s,16] v) => (float[n,2,s,16] y)
<float[1] w = {2}> {
  [scaled] a = Mul(q, w)
  [attn] y = FlashAttention<num_heads: int = 2, num_kv_heads: int = 2, scale: float = 0.25,
      layout: string = "BNSD", out_layout: string = "BNSD", scale_value: floats = [0.25, 0.0]>
      (a, k, v)
}
"""
IMAGE = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[n,3,h,w] x) => (float[n,3,h2,w2] y) {
  [pool] y = MaxPool<kernel_shape: ints = [2,2], strides: ints = [2,2]>(x)
}
"""
__all__ = ["FUSED", "parse"]
STATIC = "q:1,2,8,16;k:1,2,8,16;v:1,2,8,16"


@pytest.fixture(autouse=True)
def _private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMFUSE_RUN_DIR", str(tmp_path / "runs"))
    for name in list(os.environ):
        if name.startswith(("ASCEND_", "OMFUSE_SIM_")):
            monkeypatch.delenv(name)


@pytest.fixture
def here() -> Iterator[None]:
    """Run the stand-in in this process."""
    with atc_in_process():
        yield


def save(tmp_path: Path, model: str | onnx.ModelProto, name: str = "model.onnx") -> Path:
    path = tmp_path / name
    path.write_bytes((parse(model) if isinstance(model, str) else model).SerializeToString())
    return path


@dataclass
class Said:
    status: int
    out: str
    err: str

    @property
    def code(self) -> str:
        head = messages.headline(messages.parse_messages(self.out))
        return "" if head is None else head.code


def atc(*argv: str, cwd: Path, **env: str) -> Said:
    """Call the stand-in alone."""
    out, err = io.StringIO(), io.StringIO()
    return Said(main(argv, env, cwd, out, err), out.getvalue(), err.getvalue())


def drive(
    tmp_path: Path, source: str | onnx.ModelProto, env: dict[str, str], **flags: Any
) -> AtcRun:
    """Run the stand-in through the driver with any flags; `None` leaves one out."""
    folder = tmp_path / "work"
    (folder / "out").mkdir(parents=True, exist_ok=True)
    given: dict[str, Any] = {
        "model": save(folder, source),
        "output": folder / "out" / "m",
        "soc_version": "Ascend310P3",
        "input_shape": STATIC,
        "framework": "5",
        **flags,
    }
    known = {n: v for n, v in given.items() if n in ("model", "output") and v is not None}
    extra = tuple((n, str(v)) for n, v in given.items() if n not in known and v is not None)
    toolchain = find_toolchain("sim", None, folder)
    environment = {**child_environment(toolchain, os.environ, folder), **env}
    options = AtcOptions(**known, extra=extra)
    return run_atc(toolchain, options, folder, environment, verify=describe_om)


def failure(
    tmp_path: Path, source: str | onnx.ModelProto = FORM, env: dict[str, str] | None = None,
    **flags: Any,
) -> AtcError:  # fmt: skip
    with pytest.raises(AtcError) as caught:
        drive(tmp_path, source, env or {}, **flags)
    return caught.value
