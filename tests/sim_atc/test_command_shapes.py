"""Combinations of flags seen in the field: options, command and stand-in agree on each."""

from __future__ import annotations

import shlex
from pathlib import Path

import onnx
import pytest
from tests.atc.commands import command_shapes
from tests.sim_atc.conftest import save

from omfuse.atc.config import load_soc
from omfuse.atc.driver import run_atc
from omfuse.atc.environment import child_environment, find_toolchain
from omfuse.atc.om.summary import describe_om
from omfuse.atc.options import rules
from omfuse.atc.options.fields import command_text, from_argv

COMMANDS = command_shapes()


def model_for(shapes: str) -> onnx.ModelProto:
    """A model with these inputs, and the nodes and tensors that the commands name."""
    nodes, inputs, outputs = [], [], []
    for index, item in enumerate(filter(None, shapes.split(";"))):
        name, _, dims = item.rpartition(":")
        sizes = [int(d) if d.isdigit() else f"d{axis}" for axis, d in enumerate(dims.split(","))]
        inputs.append(onnx.helper.make_tensor_value_info(name, 1, sizes))
        outputs.append(onnx.helper.make_tensor_value_info(f"y{index}", 1, sizes))
        nodes.append(onnx.helper.make_node("Relu", [name], [f"y{index}"], f"Relu_{index}"))
    first = inputs[0].name
    nodes += [
        onnx.helper.make_node("Sigmoid", [first], ["logits"], "Gemm_10"),
        onnx.helper.make_node("Dropout", [first], ["hidden", "mask"], "Add_3"),
    ]
    graph = onnx.helper.make_graph(nodes, "g", inputs, outputs)
    return onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8
    )


def test_there_are_enough_of_them() -> None:
    assert len({tuple(words) for words in COMMANDS}) >= 50


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words[1:])[:90])
def test_a_command_of_the_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    options = from_argv(["atc", *words])
    shape = (options.input_shape or "").replace("1~8", "-1")
    folder = tmp_path / "work"
    (folder / "out").mkdir(parents=True)
    options = options.replace(model=save(folder, model_for(shape)), output=folder / "out" / "m")
    again = from_argv(shlex.split(command_text("atc", options.to_argv())))
    assert again == options
    assert again.to_argv() == options.to_argv()
    soc = load_soc(str(options.soc_version))
    broken = [r for r in rules.check(options, rules.RuleContext(soc)) if r.severity == "error"]
    toolchain = find_toolchain("sim", None, folder)
    env = child_environment(toolchain, {}, folder)
    run = run_atc(toolchain, options, folder, env, verify=describe_om)
    assert run.info["soc"] == options.soc_version
    last = {word.partition("=")[0]: word for word in words}
    for word in last.values():
        assert word in run.info["command"]
    # Where our rules refuse what the stand-in takes, only a documented limit may be the reason.
    assert all(rule.code == "" for rule in broken), broken
