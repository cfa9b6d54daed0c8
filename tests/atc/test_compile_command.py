"""The command: one JSON object, exit codes, layers of settings, variants."""

import json
import shlex
from pathlib import Path

import numpy as np
import onnx
import pytest
from tests.atc.compiling import Maker, cli
from tests.atc.conftest import DONE, START, check_schema, parse

import omfuse

SHAPE_WORDS = ("--shape", "batch=1", "--shape", "seq=16")


def test_the_command_prints_one_json_object(
    fake_cann: Maker, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (plain, "-o", tmp_path / "m.om", "--soc", "310P3", "--cann", fake_cann(), "--json")
    code, out, _ = cli(capsys, *words, *SHAPE_WORDS)
    document = json.loads(out)
    assert code == 0
    assert document["schema"] == "omfuse.compile/1"
    assert document["output"] == str(tmp_path / "m.om")
    assert not document["simulated"]
    code, out, err = cli(capsys, *words)
    assert code == 2
    assert json.loads(out)["error"]["code"] == "shape-needed"
    check_schema(json.loads(out))
    assert "error[shape-needed]" in err
    code, out, _ = cli(capsys, *words, *SHAPE_WORDS, "--set", "input_format=NHWC")
    document = json.loads(out)
    assert document["results"][0]["error"]["rules"][0]["code"] == "E10001"
    check_schema(document)


def test_without_cann_the_exit_code_is_4(
    plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr("omfuse.atc.environment.USUAL_HOMES", ())
    words = (plain, "-o", tmp_path / "m.om", "--soc", "310P3", *SHAPE_WORDS)
    code, _, err = cli(capsys, *words)
    assert code == 4
    assert "--device sim" in err
    code, out, _ = cli(capsys, *words, "--dry-run")
    argv = shlex.split(out)
    assert code == 0
    assert argv[0] == "atc"
    model = next(w.split("=", 1)[1] for w in argv if w.startswith("--model="))
    assert onnx.load(model).graph.node, "the printed command works as it stands"


def test_layers_of_settings(
    fake_cann: Maker, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "omfuse.toml").write_text(
        '[compile]\nsoc = "Ascend310P3"\nshape = { batch = [1, 4], seq = 16 }\n'
        'set = { log = "info", op_select_implmode = "high_precision" }\n',
        "utf-8",
    )
    words = (plain, "-o", tmp_path / "m.om", "--cann", fake_cann(), "--json")
    _, out, _ = cli(capsys, *words)
    command = json.loads(out)["command"]
    for text in ("--log=info", "high_precision", "dynamic_batch_size=1,4"):
        assert text in command
    _, out, _ = cli(capsys, *words, "--set", "log=error", *SHAPE_WORDS)
    command = json.loads(out)["command"]
    assert "--log=error" in command
    assert "dynamic_batch_size" not in command


def test_an_existing_command_can_be_taken_over(
    fake_cann: Maker, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    like = ("atc --framework=5 --model=x.onnx --output=y --soc_version=Ascend310P3 --log=error "
            "--input_shape='q:1,2,4,8;k:1,2,4,8' --enable_small_channel=1")  # fmt: skip
    words = (plain, "-o", tmp_path / "m.om", "--cann", fake_cann(), "--like", like, "--json")
    code, out, _ = cli(capsys, *words)
    command = shlex.split(json.loads(out)["command"])
    assert code == 0
    assert "--input_shape=q:1,2,4,8;k:1,2,4,8" in command
    assert "--enable_small_channel=1" in command


def test_variants(
    fake_cann: Maker, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (plain, "-o", tmp_path / "m.om", "--soc", "310P3", "--cann", fake_cann(), "-j", 2)
    code, out, _ = cli(capsys, *words, "--variant", "b1: batch=1 seq=8",
                       "--variant", "b4: batch=4 seq=8")  # fmt: skip
    assert code == 0
    assert len(out.splitlines()) == 2
    assert sorted(p.name for p in tmp_path.glob("*.om")) == ["m.b1.om", "m.b4.om"]
    # A variant changes what all share.
    code, out, _ = cli(capsys, *words, "--shape", "batch=1", "--shape", "seq=8", "--json",
                       "--variant", "b1: seq=8", "--variant", "b4: batch=4")  # fmt: skip
    assert code == 0
    shapes = [word for r in json.loads(out)["results"] for word in shlex.split(r["command"])
              if word.startswith("--input_shape")]  # fmt: skip
    assert shapes == ["--input_shape=q:1,2,8,8;k:1,2,8,8", "--input_shape=q:4,2,8,8;k:4,2,8,8"]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--soc", "Ascend310P"), "unknown-soc"),
        ((), "no-soc"),
        (("--soc", "310P3", "--opset", "x"), "bad-opset"),
        (("--soc", "310P3", "--mask-fill", "-1e9"), "bad-mask-fill"),
        (("--soc", "310P3", "--variant", "x"), "bad-variant"),
        (("--soc", "310P3", "--set", "x"), "bad-setting"),
        (("--soc", "310P3", "--config", "none.toml"), "bad-config"),
        (("--soc", "310P3", "--op-path", "none"), "bad-op-path"),
        (("--soc", "310P3", "--like", "atc --log='x"), "bad-quotes"),
        (("--soc", "310P3", "--variant", "a: 'batch=1"), "bad-quotes"),
        (("--soc", "310P3", "--soc", "Ascend310P3"), "same-output"),
        (("--soc", "310P3", "--variant", "a: batch=1", "--variant", "a: batch=2"), "same-output"),
    ],
)
def test_usage_errors(
    plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...], code: str,
) -> None:  # fmt: skip
    result, _, err = cli(capsys, plain, "-o", tmp_path / "m.om", *SHAPE_WORDS, *words)
    assert result == 2
    assert f"error[{code}]" in err


def test_big_weights_survive_the_whole_way(fake_cann: Maker, tmp_path: Path) -> None:
    model = parse("""<ir_version: 10, opset_import: ["" : 17]>
    g (float[4096] x) => (float[4096] y) <float[4096] w> { y = Add(x, w) }""")
    weight = onnx.numpy_helper.from_array(np.arange(4096, dtype=np.float32), "w")
    model.graph.initializer.append(weight)
    path = tmp_path / "in" / "m.onnx"
    path.parent.mkdir()
    onnx.save(model, str(path), save_as_external_data=True, location="w.bin", size_threshold=0)
    body = (
        START
        + """
import os
data = open(os.path.dirname(flags["model"]) + "/data_0.bin", "rb").read()
write_om(flags["output"] + ".om", data)
"""
        + DONE
    )
    home = fake_cann(body)
    omfuse.compile(path, tmp_path / "m.om", "310P3", cann=home)
    assert (tmp_path / "m.om").read_bytes().endswith(np.arange(4096, dtype=np.float32).tobytes())
    (path.parent / "w.bin").write_bytes(np.ones(4096, np.float32).tobytes())
    assert not omfuse.compile(path, tmp_path / "m.om", "310P3", cann=home).cached
