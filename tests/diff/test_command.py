from __future__ import annotations

import json
import sys

import numpy as np
import onnx
import pytest
from benchmarks.diff_sensitivity import ZOO, original, rewritten

from omfuse.cli.app import run

GOOD, BAD = ZOO[0], next(bug for bug in ZOO if bug.zero_tile)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models")
    onnx.save(original(32), path / "a.onnx")
    onnx.save(rewritten(32, GOOD), path / "good.onnx")
    onnx.save(rewritten(32, BAD), path / "bad.onnx")
    return path


@pytest.fixture
def omfuse(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["omfuse", *words])
        with pytest.raises(SystemExit) as stop:
            run(list(words))
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return call


SIDES = ("--precision", "fp16", "--seed", "0")


def test_pass_is_0_and_fail_is_1_and_names_the_block(omfuse) -> None:
    code, out, _ = omfuse("diff", "a.onnx", "good.onnx", *SIDES)
    assert code == 0
    assert "pass: good.onnx on host, held to fp16" in out
    code, out, _ = omfuse("diff", "a.onnx", "bad.onnx", *SIDES)
    assert code == 1
    assert "wrong: attention.0" in out
    assert "repeat: omfuse diff a.onnx bad.onnx --precision fp16 --seed 0" in out


def test_json_is_one_object_with_the_documented_keys(omfuse) -> None:
    code, out, _ = omfuse("diff", "a.onnx", "bad.onnx", *SIDES, "--json")
    document = json.loads(out, parse_constant=lambda name: pytest.fail(f"not strict JSON: {name}"))
    assert code == 1
    assert document["schema"] == "omfuse.diff/1"
    assert document["verdict"] == "fail"
    assert document["culprits"] == ["attention.0"]
    wanted = {"name", "verdict", "max_abs", "rel_l2", "worst_row", "budget", "ratio"}
    wanted |= {"cosine", "ulp", "nonfinite"}
    assert wanted <= set(document["outputs"][0])
    assert document["seeds"] == [0]
    assert document["replay"].startswith("omfuse diff a.onnx bad.onnx")


def test_saved_outputs_are_a_side(omfuse) -> None:
    save = ("--save-inputs", "in.npz", "--save-outputs", "out.npz")
    assert omfuse("diff", "a.onnx", "good.onnx", *SIDES, *save)[0] == 0
    same = ("diff", "a.onnx", "out.npz", "--inputs", "in.npz", "--precision", "fp16")
    assert omfuse(*same)[0] == 0
    with np.load("out.npz") as file:
        np.savez("wrong.npz", y=file["y"] * np.float32(1.02))
    assert omfuse("diff", "a.onnx", "wrong.npz", *same[3:])[0] == 1
    assert omfuse("diff", "out.npz", "out.npz")[0] == 0
    code, out, _ = omfuse("diff", "out.npz", "wrong.npz")
    assert code == 1
    assert "fixed multiple" in out
    code, _, err = omfuse("diff", "a.onnx", "out.npz")
    assert (code, "inputs-needed" in err) == (2, True)


def test_tolerances_for_all_and_for_one(omfuse) -> None:
    for option in ("--atol=100", "--atol=y=100", "--budget=1e6"):
        assert omfuse("diff", "a.onnx", "bad.onnx", *SIDES, "--no-blocks", option)[0] == 0
    code, _, err = omfuse("diff", "a.onnx", "bad.onnx", *SIDES, "--atol", "z=1")
    assert (code, "unknown-output" in err) == (2, True)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("none.onnx", "good.onnx"), "model-not-found"),
        (("a.onnx", "a.txt"), "unknown-side"),
        (("a.onnx", "good.onnx", "--precision", "fp8"), "unknown-precision"),
        (("a.onnx", "good.onnx", "--dead-rows", "maybe"), "unknown-dead-rows"),
        (("a.onnx", "good.onnx", "--atol", "much"), "bad-option"),
        (("a.onnx", "good.onnx", "--atol", "nan"), "bad-option"),
        (("a.onnx", "good.onnx", "--inputs", "a.onnx"), "bad-option"),
        (("a.onnx", "good.onnx", "--device", "sim"), "wrong-artefact"),
        (("a.onnx", "good.onnx", "--dim", "S=4"), "unknown-dim"),
    ],
)
def test_bad_input_is_one_error_and_exit_2(omfuse, words, code) -> None:
    status, out, err = omfuse("diff", *words)
    assert status == 2
    assert f"error[{code}]" in err
    assert "fix:" in err
    assert out == ""


def test_given_inputs_from_a_folder_and_by_name(omfuse, folder) -> None:
    rng = np.random.default_rng(0)
    arrays = folder / "arrays"
    arrays.mkdir()
    for name in ("q", "k", "v", "k2"):
        np.save(arrays / f"{name}.npy", rng.standard_normal((2, 8, 32, 64)).astype(np.float32))
    np.save(arrays / "attention_mask.npy", np.ones((2, 32), np.int64))
    np.save(folder / "other.npy", rng.standard_normal((2, 8, 32, 64)).astype(np.float32))
    given = ("--inputs", "arrays", "--inputs", "v2=other.npy", "--precision", "fp16")
    assert omfuse("diff", "a.onnx", "good.onnx", *given)[0] == 0
