"""Several bodies in one file: each call runs its own, in every runtime that loads the file."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_text import build, feeds, run

import omfuse
from omfuse.fuse.bodies import own_bodies
from omfuse.host import runtime
from omfuse.host.session import HostSession

ONE = (
    "kt = Transpose<perm=[0,1,3,2]>(k) s = MatMul(q, kt) p = Softmax<axis=-1>(s) y0 = MatMul(p, v)"
)
TWO = "b = Add(s, bias) p2 = Softmax<axis=-1>(b) y1 = MatMul(p2, v) y = Add(y0, y1)"


def several() -> onnx.ModelProto:
    return build(f"{ONE} {TWO}")


def test_a_file_with_several_bodies_ends_with_the_refusal_of_old_runtimes() -> None:
    model = several()
    fused = omfuse.rewrite(model).model
    onnx.checker.check_model(fused, full_check=True)
    assert len(own_bodies(fused)) == 2
    last = fused.functions[-1]
    assert (last.domain, last.name, last.overload) == ("omfuse", "FlashAttention", "")
    assert [node.op_type for node in last.node] == ["needs_onnxruntime_1_27"]


def test_a_file_with_one_body_has_no_refusal() -> None:
    fused = omfuse.rewrite(build(ONE.replace("y0", "y"))).model
    assert [f.overload != "" for f in fused.functions] == [True]


def test_a_second_rewrite_keeps_the_refusal_last() -> None:
    third = "inf = Constant<value_float=-inf>() m = Where(mask, s, inf) p3 = Softmax<axis=-1>(m)"
    model = build(f"{ONE} {TWO.replace('y =', 'y2 =')} {third} y3 = MatMul(p3, v) y = Add(y2, y3)")
    for node in model.graph.node:
        node.name = node.output[0]
    inputs = feeds(model)
    first = omfuse.rewrite(model, only=["p", "p2"]).model
    again = omfuse.rewrite(first).model
    assert [len(own_bodies(m)) for m in (first, again)] == [2, 3]
    refusals = [f.node[0].op_type == "needs_onnxruntime_1_27" for f in again.functions]
    assert refusals == [False, False, False, True]
    with HostSession(again, "body") as session:
        np.testing.assert_allclose(
            session.run(inputs)["y"], run(model, inputs)[0], rtol=1e-5, atol=2e-6
        )


@pytest.mark.parametrize("lowering", ["body", "plain", "auto"])
def test_every_lowering_runs_several_bodies(lowering: str) -> None:
    model = several()
    fused = omfuse.rewrite(model).model
    with HostSession(fused, lowering) as session:
        np.testing.assert_allclose(
            session.run(feeds(model))["y"], run(model, feeds(model))[0], rtol=1e-5, atol=2e-6
        )


def test_bodies_are_told_apart_by_name_for_old_runtimes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "knows_overloads", lambda: False)
    model = several()
    fused = omfuse.rewrite(model).model
    named = onnx.ModelProto.FromString(fused.SerializeToString())
    runtime.name_overloads(named)
    assert not any(f.overload for f in named.functions)
    assert not any(n.overload for n in named.graph.node)
    with HostSession(fused, "body") as session:
        np.testing.assert_allclose(
            session.run(feeds(model))["y"], run(model, feeds(model))[0], rtol=1e-5, atol=2e-6
        )


def test_a_foreign_body_without_overload_is_not_taken_for_ours() -> None:
    """Two rewrites of a model with attention in local functions: the second kind is declined."""
    text = """<ir_version: 8, opset_import: ["": 17, "local": 1]>
        g (float[2,3,5,4] q, float[2,3,7,4] k, float[2,3,7,4] v) => (float[2,3,5,4] y) {
          y = local.attend(q, k, v)
        }
        <domain: "local", opset_import: ["": 17]>
        attend (q, k, v) => (o) {
          kt = Transpose<perm=[0,1,3,2]>(k) s = MatMul(q, kt) p = Softmax<axis=-1>(s)
          o = MatMul(p, v)
        }"""
    model = onnx.parser.parse_model(text)
    other = onnx.parser.parse_model(
        text.replace("s = MatMul(q, kt)", "n = Neg(q) s = MatMul(n, kt)")
    )
    body = next(iter(own_bodies(omfuse.rewrite(model).model).values()))
    assert body.overload == ""
    assert omfuse.rewrite(other).fused == 1
    changed = onnx.FunctionProto.FromString(body.SerializeToString())
    changed.node[-1].op_type = "Neg"
    other.functions.append(changed)
    (record,) = omfuse.rewrite(other).records
    assert record.code == "function-overload"


OLD = """
import sys, onnxruntime
def load(path):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
load(sys.argv[1])
try:
    load(sys.argv[2])
except Exception as error:
    print(error)
"""


@pytest.mark.slow
def test_an_old_onnxruntime_takes_one_body_and_refuses_several(tmp_path: Path) -> None:
    """Needs a package index, and a Python for which there is an onnxruntime before 1.27."""
    venv.create(tmp_path / "old", with_pip=True)
    python = tmp_path / "old/bin/python"
    installed = subprocess.run(
        [python, "-m", "pip", "install", "-q", "onnxruntime<1.27", "numpy"], capture_output=True
    )
    if installed.returncode != 0:
        pytest.skip(f"no old onnxruntime for Python {sys.version_info[:2]} here")
    onnx.save(omfuse.rewrite(build(ONE.replace("y0", "y"))).model, tmp_path / "one.onnx")
    onnx.save(omfuse.rewrite(several()).model, tmp_path / "several.onnx")
    done = subprocess.run(
        [python, "-c", OLD, tmp_path / "one.onnx", tmp_path / "several.onnx"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "needs_onnxruntime_1_27" in done.stdout
