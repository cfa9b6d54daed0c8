"""The whole way with `--device sim`: the driver starts the stand-in as it starts ATC."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tests.sim_atc.conftest import FUSED, parse, save

import omfuse
from omfuse.atc.om.summary import describe_om
from omfuse.cli.app import run
from omfuse.errors import NotAvailableError
from omfuse.host import native
from omfuse.session import open_session
from omfuse.sim.payload import is_simulated, load_payload

SHAPE = ["--shape", "batch=1", "--shape", "seq=16"]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMFUSE_CACHE_DIR", str(tmp_path / "cache"))


def cli(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        run([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


def test_a_model_compiles_without_cann(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, target = save(tmp_path, FUSED, "fused.onnx"), tmp_path / "model.om"
    before = model.read_bytes()
    arguments = ["compile", model, "-o", target, "--soc", "Ascend310P3", "--device", "sim", *SHAPE]
    assert cli(*arguments, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["device"], document["simulated"]) == ("sim", True)
    assert document["om"]["simulated"] is True
    assert document["om"]["attention"][0]["complete"] is True
    assert is_simulated(target)
    assert model.read_bytes() == before
    log = Path(document["run_folder"])
    assert "ATC run success" in (log / "atc.log").read_text("utf-8")
    assert not list(log.glob("*.onnx")) + list(log.glob("opp"))
    manifest = json.loads((tmp_path / "model.manifest.json").read_text("utf-8"))
    assert manifest["options"]["input_shape"] == "q:1,2,16,16;k:1,2,16,16;v:1,2,16,16"
    words = shlex.split(document["command"])
    assert any(word.startswith("ASCEND_CUSTOM_OPP_PATH=") for word in words)
    assert words[-1] in load_payload(target).command
    assert cli(*arguments) == 0
    shown = capsys.readouterr()
    assert "from the cache" in shown.out
    assert "simulated Ascend310P3" in shown.out
    assert cli("inspect", target) == 0
    assert "SIMULATED" in capsys.readouterr().out


def test_the_printed_command_can_be_run_again(tmp_path: Path) -> None:
    """As a user does it: dry run, then paste the command into a shell."""
    model = save(tmp_path, FUSED)
    result = omfuse.compile(
        model, tmp_path / "m.om", "310P3", device="sim", shape=["batch=1", "seq=16"], dry_run=True
    )
    done = subprocess.run(
        ["sh", "-c", result.command], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert result.run_folder is not None
    (om,) = (result.run_folder / "out").glob("*.om")
    assert describe_om(om)["attention"][0]["complete"] is True


def test_several_chips_and_shapes_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = save(tmp_path, FUSED)
    arguments = [
        "compile", model, "-o", tmp_path / "m.om", "--device", "sim", "--jobs", "2", "--json",
        "--soc", "310P3", "--soc", "910B3",
        "--variant", "small: batch=1 seq=8", "--variant", "gears: batch=1,4 seq=8",
    ]  # fmt: skip
    assert cli(*arguments) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert [r["cached"] for r in results] == [False] * 4
    names = sorted(p.name for p in tmp_path.glob("*.om"))
    assert names == [
        "m.ascend310p3.gears.om", "m.ascend310p3.small.om",
        "m.ascend910b3.gears.om", "m.ascend910b3.small.om",
    ]  # fmt: skip
    for name in names:
        payload = load_payload(tmp_path / name)
        assert payload.soc.lower() == name.split(".")[1]
        assert payload.mode == ("batch" if "gears" in name else "static")
    assert cli(*arguments) == 0
    assert [r["cached"] for r in json.loads(capsys.readouterr().out)["results"]] == [True] * 4


def test_one_failure_of_several_does_not_stop_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "compile", save(tmp_path, FUSED), "-o", tmp_path / "m.om", "--device", "sim", "--json",
        "--soc", "310P3", "--variant", "good: batch=1 seq=8", "--variant", "bad: batch=1",
    ]  # fmt: skip
    assert cli(*arguments) == 2
    document = json.loads(capsys.readouterr().out)
    assert document["failed"] == 1
    assert [p.name for p in tmp_path.glob("*.om")] == ["m.good.om"]


def test_a_changed_switch_or_package_is_no_hit(tmp_path: Path) -> None:
    model = save(tmp_path, FUSED)

    def compile_once(**more: object) -> bool:
        return omfuse.compile(
            model, tmp_path / "m.om", "310P3", device="sim", shape=["batch=1", "seq=16"],
            **more,  # type: ignore[arg-type]
        ).cached  # fmt: skip

    assert [compile_once(), compile_once()] == [False, True]
    assert compile_once(settings={"output_type": "FP16"}) is False
    assert compile_once(precision="mixed") is False
    assert compile_once() is True


def test_without_cann_the_user_hears_three_ways_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("omfuse.atc.environment.USUAL_HOMES", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    model = save(tmp_path, FUSED)
    assert cli("compile", model, "-o", tmp_path / "m.om", "--soc", "310P3", *SHAPE) == 4
    text = capsys.readouterr().err
    for part in ("install the CANN toolkit", "--device sim", "omfuse bundle"):
        assert part in text
    assert not (tmp_path / "m.om").exists()


def test_a_failure_shows_cause_and_fix(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMFUSE_SIM_ATC_FAULT", "E20001:Failed to compile Op [attn]")
    arguments = ["compile", save(tmp_path, FUSED), "-o", tmp_path / "m.om", "--soc", "310P3",
                 "--device", "sim"]  # fmt: skip
    assert cli(*arguments, "--shape", "batch=1,4", "--shape", "seq=16", "--json") == 3
    shown = capsys.readouterr()
    error = json.loads(shown.out)["results"][0]["error"]
    assert (error["code"], error["where"]) == ("atc-e20001", "attn")
    assert "find the bad gear" in error["hint"]
    assert "--shape 'q=4,2,16,16'" in error["hint"]
    assert "error[atc-e20001]" in shown.err
    assert not (tmp_path / "m.om").exists()


@pytest.mark.parametrize(("fault", "code"), [("kill", "atc-killed"), ("hang", "atc-timeout")])
def test_bad_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, code: str) -> None:
    monkeypatch.setenv("OMFUSE_SIM_ATC_FAULT", fault)
    with pytest.raises(omfuse.errors.ToolchainError) as caught:
        omfuse.compile(
            save(tmp_path, FUSED), tmp_path / "m.om", "310P3", device="sim",
            shape=["batch=1", "seq=16"], timeout=3,
        )  # fmt: skip
    assert caught.value.code == code
    assert not (tmp_path / "m.om").exists()


def test_an_interrupt_ends_the_stand_in(tmp_path: Path) -> None:
    model = save(tmp_path, FUSED)
    env = {**os.environ, "OMFUSE_SIM_ATC_FAULT": "hang"}
    command = [sys.executable, "-m", "omfuse", "compile", str(model), "-o", str(tmp_path / "m.om"),
               "--soc", "310P3", "--device", "sim", *SHAPE]  # fmt: skip
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)  # fmt: skip
    runs = tmp_path / "runs"
    deadline = time.monotonic() + 60
    while not list(runs.glob("*/fusion_result.json")) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert not (tmp_path / "m.om").exists()


def test_a_users_own_package_goes_before_the_fabricated_one(tmp_path: Path) -> None:
    from omfuse.sim.package import write_package

    root = write_package(tmp_path / "own")
    for path in [*root.rglob("*.so"), *root.rglob("*.json")]:
        own = re.sub(rb"(?<!::)\bFlashAttention", b"MyFlashAttention", path.read_bytes())
        path.write_bytes(own)
    omfuse.compile(
        save(tmp_path, FUSED), tmp_path / "m.om", "310P3", device="sim",
        shape=["batch=1", "seq=16"], op_paths=(root,),
    )  # fmt: skip
    assert describe_om(tmp_path / "m.om")["attention"][0]["type"] == "MyFlashAttention"


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("choice", "soc", "kind"),
    [("prompt-flash", "310P3", "PromptFlashAttention"), ("score", "910B3", "FlashAttentionScore")],
)
def test_attention_of_cann_itself(tmp_path: Path, choice: str, soc: str, kind: str) -> None:
    model = FUSED.replace("float[batch", "float16[batch")
    omfuse.compile(
        parse(model), tmp_path / "m.om", soc, device="sim", shape=["batch=1", "seq=16"],
        attention=choice,
    )  # fmt: skip
    (block,) = describe_om(tmp_path / "m.om")["attention"]
    assert (block["type"], block["custom"], block["complete"]) == (kind, False, True)


@pytest.mark.usefixtures("here")
def test_attention_of_cann_that_swaps_heads_and_sequence(tmp_path: Path) -> None:
    model = FUSED.replace("float[batch", "float16[batch").replace("[batch,2,seq,16] y", "[p,r,s] y")
    model = model.replace('out_layout: string = "BNSD"', 'out_layout: string = "BSND"')
    model = model.replace("  y = omfuse.", "  z = omfuse.", 1)
    after = "t = Constant<value_ints: ints = [0, 0, 32]>()  y = Reshape(z, t)"
    model = model.replace("(a, k, v)\n", f"(a, k, v)\n  {after}\n", 1)
    omfuse.compile(
        parse(model), tmp_path / "m.om", "910B3", device="sim", shape=["batch=1", "seq=16"],
        attention="prompt-flash",
    )  # fmt: skip
    (output,) = describe_om(tmp_path / "m.om")["outputs"]
    assert output["shape"] == [1, 16, 32]


def test_an_unknown_device(tmp_path: Path) -> None:
    with pytest.raises(omfuse.errors.UsageError):
        omfuse.compile(save(tmp_path, FUSED), tmp_path / "m.om", "310P3", device="gpu")


def test_an_install_without_the_stand_in_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(NotAvailableError) as caught:
        omfuse.compile(
            save(tmp_path, FUSED), tmp_path / "m.om", "310P3", device="sim",
            shape=["batch=1", "seq=16"],
        )  # fmt: skip
    assert caught.value.code == "no-simulated-atc"


# Rewritten models


PLAIN = """
<ir_version: 8, opset_import: ["" : {opset}]>
g (float[{batch},2,{seq},8] x) => (float[{batch},2,{seq},8] y) {{
  {layers}
}}
"""
LAYER = """
  [t{n}] kt{n} = Transpose<perm=[0,1,3,2]>({x})
  [s{n}] s{n} = MatMul({x}, kt{n})
  [p{n}] p{n} = Softmax<axis=-1>(s{n})
  [o{n}] {y} = MatMul(p{n}, {x})
"""


def exported(opset: int, layers: int, dynamic: bool) -> onnx.ModelProto:
    batch, seq = ("batch", "seq") if dynamic else ("2", "16")
    names = ["x", *(f"x{n}" for n in range(1, layers)), "y"]
    text = "".join(LAYER.format(n=n, x=names[n], y=names[n + 1]) for n in range(layers))
    model = PLAIN.format(opset=opset, batch=batch, seq=seq, layers=text)
    return parse(model)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("soc", ["Ascend310P3", "Ascend910B3"])
@pytest.mark.parametrize("opset", [13, 17, 20, 22])
@pytest.mark.parametrize("dynamic", [False, True])
def test_every_fused_attention_is_in_the_file(
    tmp_path: Path, soc: str, opset: int, dynamic: bool
) -> None:
    result = omfuse.rewrite(exported(opset, 3, dynamic))
    assert result.fused == 3
    shape = ["batch=1,2", "seq=16"] if dynamic else []
    path = tmp_path / "m.om"
    omfuse.compile(result.model, path, soc, device="sim", shape=shape)
    blocks = describe_om(path)["attention"]
    assert [block["complete"] for block in blocks] == [True] * 3
    assert {block["copies"] for block in blocks} == ({2} if dynamic else {1})
    names = {n.name for n in result.model.graph.node if n.op_type == "FlashAttention"}
    assert {origin for block in blocks for origin in block["origin"]} == names


# The kernel has fp16 (and bf16) only


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("dtype", "soc", "more", "shown"),
    [
        ("float", "310P3", {"precision": "origin"}, "float16"),
        ("float", "310P3", {"settings": {"precision_mode_v2": "origin"}}, "float16"),
        ("float", "310P3", {}, "float32"),
        ("float16", "310P3", {"precision": "origin"}, "float16"),
        ("bfloat16", "910B3", {"precision": "origin"}, "bfloat16"),
        ("bfloat16", "310P3", {"precision": "origin"}, "float16"),
    ],
)
def test_casts_are_written_where_atc_inserts_none(
    tmp_path: Path, dtype: str, soc: str, more: dict[str, Any], shown: str
) -> None:
    model = FUSED.replace("float[batch", f"{dtype}[batch")
    result = omfuse.compile(
        parse(model), tmp_path / "m.om", soc, device="sim", shape=["batch=1", "seq=16"], **more
    )
    found = describe_om(tmp_path / "m.om")
    assert {kind for kind, _ in found["attention"][0]["inputs"]} == {shown}
    casts = {"float": 4, "bfloat16": 4 if soc == "310P3" else 0}.get(dtype, 0) if more else 0
    assert found["operators"].get("Cast", 0) == casts
    assert any("cast to fp16" in note for note in result.notes) == bool(casts)
    assert found["outputs"][0]["dtype"] == {"float": "float32"}.get(dtype, dtype)


@pytest.mark.usefixtures("here")
def test_a_model_with_written_casts_computes_the_same(tmp_path: Path) -> None:
    if native.compiler() is None:
        pytest.skip("the simulated device needs a C++ compiler")
    path, source = tmp_path / "m.om", save(tmp_path, FUSED)
    omfuse.compile(source, path, "310P3", device="sim", shape=["batch=1", "seq=16"],
                   precision="origin")  # fmt: skip
    random = np.random.default_rng(0)
    feeds = {n: random.standard_normal((1, 2, 16, 16)).astype(np.float32) for n in "qkv"}
    with open_session(source) as host, open_session(path, device="sim") as sim:
        np.testing.assert_allclose(sim.run(feeds)["y"], host.run(feeds)["y"], rtol=2e-2, atol=4e-3)


BIASED = """
<ir_version: 10, opset_import: ["" : 17, "omfuse" : 1]>
g (float[1,2,16,16] q) => (float[1,2,16,16] y) <float[1,1,1,16] hide = {HIDE}> {
  y = omfuse.FlashAttention:s1 <num_heads: int = 2, num_kv_heads: int = 2, scale: float = 0.25,
      layout: string = "BNSD", out_layout: string = "BNSD"> (q, q, q, hide)
}
""".replace("HIDE", ", ".join(["0.0"] * 12 + ["-3.4e38"] * 4))


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("soc", "bias", "casts"), [("310P3", "float16", 3), ("910B3", "float32", 2)]
)
def test_a_bias_is_cast_where_the_kernel_needs_it(
    tmp_path: Path, soc: str, bias: str, casts: int
) -> None:
    path = tmp_path / "m.om"
    result = omfuse.compile(parse(BIASED), path, soc, device="sim", precision="origin")
    found = describe_om(path)
    assert found["attention"][0]["inputs"][3][0] == bias
    assert found["operators"]["Cast"] == casts
    assert any("mask constant hide" in note for note in result.notes) == (soc == "310P3")
