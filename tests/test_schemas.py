"""What `--json` prints is what the schemas say, field by field."""

from __future__ import annotations

import json
import math
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from omfuse.cli import console
from omfuse.cli.app import COMMANDS, run

SAMPLE = str(Path(__file__).parents[1] / "examples" / "sample.onnx")
SHAPES = ["--shape", "batch=2", "--shape", "source=9", "--shape", "target=5"]
CHIP = ["--soc", "310P3", "--device", "sim", *SHAPES]


def schema(name: str) -> dict[str, Any]:
    text = (files("omfuse") / "schemas" / f"{name.replace('/', '.')}.json").read_text()
    return json.loads(text)


def check(document: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(schema(document["schema"])).validate(document)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a fused model, a model for the simulated device, and inputs."""
    folder = tmp_path_factory.mktemp("schemas")
    for words in (
        ["rewrite", SAMPLE, "-o", str(folder / "fused.onnx")],
        ["compile", str(folder / "fused.onnx"), "-o", str(folder / "m.om"), *CHIP],
    ):
        with pytest.raises(SystemExit) as ended:
            run(words)
        assert ended.value.code == 0
    (folder / "items").mkdir()
    for index in range(2):
        np.savez(
            folder / "items" / f"{index}.npz",
            source_ids=np.ones((2, 9), np.int64),
            source_mask=np.ones((2, 9), np.int64),
            target_ids=np.ones((2, 5), np.int64),
        )
    return folder


CALLS = {
    "omfuse.rewrite/1": [
        ["rewrite", SAMPLE, "--dry-run"],
        ["rewrite", SAMPLE, "-o", "v.onnx", "--verify"],
    ],
    "omfuse.explain/1": [["explain", SAMPLE], ["explain", SAMPLE, "--missed"]],
    "omfuse.inspect/1": [["inspect", SAMPLE], ["inspect", "fused.onnx"], ["inspect", "m.om"]],
    "omfuse.compile/1": [
        ["compile", "fused.onnx", "-o", "c.om", *CHIP],
        ["compile", "fused.onnx", "-o", "c.om", *CHIP, "--dry-run"],
        ["compile", "fused.onnx", "-o", "{soc}.om", *CHIP, "--soc", "910B3"],
    ],
    "omfuse.run/1": [
        ["run", "fused.onnx", "--random", "0"],
        ["run", "m.om", "--device", "sim", "--random", "0", "--save-outputs", "out"],
        ["run", "m.om", "--device", "sim", "--input", "items", "--save-outputs", "outs"],
    ],
    "omfuse.bench/1": [
        ["bench", "fused.onnx", SAMPLE, "--runs", "2", "--seconds", "0", "--warmup-seconds", "0"],
        ["bench", "m.om", "--device", "sim", "--runs", "2", "--seconds", "0"],
    ],
    "omfuse.diff/1": [["diff", SAMPLE, "fused.onnx"], ["diff", SAMPLE, "m.om", "--device", "sim"]],
    "omfuse.pipeline/1": [["pipeline", SAMPLE, *CHIP, "-o", "all", "--seed", "0"]],
    "omfuse.doctor/1": [["doctor", "--quick"]],
    "omfuse.bundle/1": [["bundle", SAMPLE, "-o", "b", "--soc", "310P3", *SHAPES, "--no-wheels"]],
    "omfuse.op-estimate/1": [["op", "estimate", "--soc", "910B3", "--shape", "1,2,128,128,64"]],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "words"),
    [(name, words) for name, calls in CALLS.items() for words in calls],
    ids=lambda value: value if isinstance(value, str) else " ".join(value[:3]).replace(SAMPLE, "m"),
)
def test_a_command_prints_its_schema(
    name: str,
    words: list[str],
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(workspace)
    with pytest.raises(SystemExit) as ended:
        run([*words, "--json"])
    assert ended.value.code in (0, 1)
    document = json.loads(capsys.readouterr().out, parse_constant=lambda text: pytest.fail(text))
    assert document["schema"] == name
    check(document)
    for inner in (document.get("verify"), document.get("host")):
        if inner:
            inner.pop("page", None)
            check(inner)
    with pytest.raises(jsonschema.ValidationError):
        check({**document, "field_of_tomorrow": 1})


def test_the_manifest_beside_an_om(workspace: Path) -> None:
    check(json.loads((workspace / "m.manifest.json").read_text()))


def test_every_command_has_a_schema_that_the_docs_name() -> None:
    page = (Path(__file__).parents[1] / "docs" / "json.md").read_text()
    for command in set(COMMANDS) - {"op"}:
        assert schema(f"omfuse.{command}/1")["$id"] == f"omfuse.{command}/1"
        assert f"omfuse.{command}/1" in page


def test_numbers_that_json_lacks_become_text(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json({"a": math.nan, "b": [math.inf, {"c": -math.inf}], "d": (1.5,)})
    assert json.loads(capsys.readouterr().out) == {
        "a": "nan",
        "b": ["inf", {"c": "-inf"}],
        "d": [1.5],
    }
