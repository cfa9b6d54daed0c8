"""Shared pieces: private folders, small models, and fake ATC programs."""

from __future__ import annotations

import json
import stat
import sys
import textwrap
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import onnx
import onnx.parser
import pytest

PLAIN = """
<ir_version: 10, opset_import: ["" : 17]>
g (float[batch,2,seq,8] q, float[batch,2,seq,8] k) => (float[batch,2,seq,8] y) {
  kt = Transpose<perm=[0,1,3,2]>(k)
  s = MatMul(q, kt)
  p = Softmax<axis=-1>(s)
  y = MatMul(p, k)
}
"""

FUSED = """
<ir_version: 10, opset_import: ["" : 17, "omfuse" : 1]>
g (float[batch,2,seq,16] q, float[batch,2,seq,16] k, float[batch,2,seq,16] v)
  => (float[batch,2,seq,16] y) {
  a = Relu(q)
  y = omfuse.FlashAttention:s1 <num_heads: int = 2, num_kv_heads: int = 2, scale: float = 0.25,
      layout: string = "BNSD", out_layout: string = "BNSD"> (a, k, v)
}
<opset_import: ["" : 17], domain: "omfuse", overload: "s1">
FlashAttention <num_heads, num_kv_heads, scale, layout, out_layout> (q, k, v) => (y) {
  kt = Transpose<perm=[0,1,3,2]>(k)
  s = MatMul(q, kt)
  c = Constant<value_float: float = @scale>()
  z = Mul(s, c)
  p = Softmax<axis=-1>(z)
  y = MatMul(p, v)
}
"""

# Header, a model definition with a name only, and one more part that holds the body.
WRITE_OM = """
import struct
def write_om(path, body):
    head = bytearray(256)
    struct.pack_into("<III", head, 0, 0x444F4D49, 256, 0x20000000)
    head[84:88] = b"test"
    model = b"\\n\\x01m"
    struct.pack_into("<Q", head, 184, 56 + len(model) + len(body))
    table = struct.pack("<IIIIQQ", 2, 0, 0, 0, 0, len(model))
    table += struct.pack("<IIQQ", 1, 0, len(model), len(body))
    open(path, "wb").write(bytes(head) + table + model + body)
"""

START = (
    WRITE_OM
    + """
import sys
flags = dict(word[2:].split("=", 1) for word in sys.argv[1:])
print("ATC start working now, please wait for a moment.", flush=True)
"""
)
DONE = """
print("...")
print("ATC run success, welcome to the next use.")
"""
GOOD = START + 'write_om(flags["output"] + ".om", open(flags["model"], "rb").read()[-64:])\n' + DONE


@pytest.fixture(autouse=True)
def _private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMFUSE_RUN_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("OMFUSE_CACHE_DIR", str(tmp_path / "cache"))
    for name in ("ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH", "ASCEND_OPP_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("ASCEND_CUSTOM_OPP_PATH", raising=False)


def parse(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(text)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    path = tmp_path / "plain.onnx"
    onnx.save(parse(PLAIN), str(path))
    return path


@pytest.fixture
def fused(tmp_path: Path) -> Path:
    path = tmp_path / "fused.onnx"
    onnx.save(parse(FUSED), str(path))
    return path


@pytest.fixture
def fake_cann(tmp_path: Path) -> Callable[..., Path]:
    """Make a CANN folder whose ``bin/atc`` runs a Python body."""

    def make(body: str = GOOD, version: str = "8.1.RC1", inner: str = "7.7.0.1.238") -> Path:
        home = tmp_path / "cann"
        (home / "bin").mkdir(parents=True, exist_ok=True)
        program = home / "bin" / "atc"
        program.write_text(f"#!{sys.executable}\n{textwrap.dedent(body)}", "utf-8")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        (home / "version.cfg").write_text(f"runtime_running_version=[{inner}:{version}]\n", "utf-8")
        return home

    return make


def check_schema(document: dict[str, Any]) -> None:
    name = document["schema"].replace("/", ".")
    text = files("omfuse").joinpath("schemas", f"{name}.json").read_text("utf-8")
    jsonschema.validate(document, json.loads(text))
