"""``omfuse run`` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from tests.host.attention_cases import Case, inputs_of, model_of

from omfuse.cli.app import run
from omfuse.diff.sides import load_npz
from omfuse.fuse.contract import FlashAttentionAttrs

CASE = Case(FlashAttentionAttrs(num_heads=2, num_kv_heads=2, scale=0.3))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    feeds = inputs_of(CASE)
    onnx.save(model_of(CASE, feeds), tmp_path / "model.onnx")
    for name, array in feeds.items():
        np.save(tmp_path / f"{name}.npy", array)
    np.save(tmp_path / "objects.npy", np.array([object()]), allow_pickle=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        run(["run", *arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


FILES = [f"--input={name}={name}.npy" for name in ("query", "key", "value")]


def test_json_is_one_object(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("model.onnx", *FILES, "--loop", "3", "--json", "--save-outputs", "out") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "omfuse.run/1"
    assert list(document["kernels"]) == ["attn"]
    (output,) = document["outputs"]
    saved = np.load(output["file"])
    assert list(saved.shape) == output["shape"]
    assert output["max"] == pytest.approx(saved.max())
    assert output["nonfinite"] == 0
    assert 0 < document["seconds"]["min"] <= document["seconds"]["median"]
    assert [p.name for p in (folder / "out").iterdir()] == ["output.npy"]


def test_outputs_go_into_one_file_when_it_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("model.onnx", *FILES, "--save-outputs", "made/out.npz") == 0
    assert capsys.readouterr().out.count("wrote made/out.npz") == 1
    assert [p.name for p in (folder / "made").iterdir()] == ["out.npz"]
    assert call("model.onnx", *FILES, "--save-outputs", "out") == 0
    np.testing.assert_array_equal(
        load_npz(Path("made/out.npz"))["output"], np.load("out/output.npy")
    )


def test_random_inputs_repeat(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = []
    for seed in ("1", "1", "2"):
        assert call("model.onnx", "--random", seed, "--json") == 0
        results.append(json.loads(capsys.readouterr().out)["outputs"][0]["mean"])
    assert results[0] == results[1] != results[2]


def test_the_table_names_the_lowering(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("model.onnx", "--random", "0", "--lowering", "plain", "--isolated") == 0
    assert "1 FlashAttention by plain: asked for" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nowhere.onnx", "--random", "0"], 2, "model-not-found"),
        (["model.om", "--random", "0"], 2, "no-device"),
        (["model.onnx"], 2, "bad-feed"),
        (["model.onnx", "--input", "query"], 2, "bad-argument"),
        (["model.onnx", "--input", "query=nowhere.npy"], 2, "bad-input-file"),
        (["model.onnx", "--input", "query=objects.npy"], 2, "bad-input-file"),
        (["model.onnx", "--input", "query=model.onnx"], 2, "bad-input-file"),
        (["model.onnx", "--random", "0", "--dim", "B=x"], 2, "bad-argument"),
        (["model.onnx", "--random", "0", "--lowering", "fast"], 2, "unknown-lowering"),
        (["model.onnx", "--random", "0", "--save-outputs", "model.onnx"], 2, "cannot-write"),
    ],
)
def test_mistakes_give_one_error(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str
) -> None:
    assert call(*arguments) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert f"error[{said}]" in shown.err
    assert "fix: " in shown.err
