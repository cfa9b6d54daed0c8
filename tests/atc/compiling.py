"""What tests of a compile share: an installed operator package, shapes, the command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import omfuse
from omfuse.atc.job import CompileResult
from omfuse.cli.app import run

Maker = Callable[..., Path]
SHAPES = {"batch": 1, "seq": 16}


def cli(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Return exit code, stdout and stderr of `omfuse compile`."""
    with pytest.raises(SystemExit) as caught:
        run(["compile", *map(str, words)])
    out, err = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, out, err


def compile_fused(fused: Path, tmp_path: Path, home: Path, **more: object) -> CompileResult:
    shapes = {"batch": 1, "seq": 32}
    return omfuse.compile(fused, tmp_path / "m.om", "310P3", shape=shapes, cann=home, **more)  # type: ignore[arg-type]


def package(
    home: Path, keys: str = "ai.onnx::17::FlashAttention", short: str = "ascend310p"
) -> Path:
    """Install an operator package as far as it is looked at."""
    root = home / "opp" / "vendors" / "omfuse"
    for folder in ("framework/onnx", "op_proto/lib", f"op_impl/ai_core/tbe/config/{short}"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "framework/onnx/libcust_onnx_parsers.so").write_bytes(b"\x7fELF" + keys.encode())
    (root / "op_proto/lib/libcust.so").write_bytes(b"\x7fELF")
    described = root / f"op_impl/ai_core/tbe/config/{short}/aic-{short}-ops-info.json"
    described.write_text('{"OmfuseFlashAttention": {}}', "utf-8")
    (home / "opp/vendors/config.ini").write_text("load_priority=omfuse\n", "utf-8")
    return root
