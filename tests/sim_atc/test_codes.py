"""Every code that an ONNX user meets: made by the stand-in, read by the driver, explained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from tests.sim_atc.broken_flags import FLAGS, PICTURE, SEQ
from tests.sim_atc.conftest import FORM, IMAGE, drive, failure, parse

from omfuse.atc.messages import advise, known_codes
from omfuse.sim.atc.failure import OLD_CODES

pytestmark = pytest.mark.usefixtures("here")


@pytest.mark.parametrize(("code", "flags"), FLAGS)
def test_a_broken_flag(tmp_path: Path, code: str, flags: dict[str, Any]) -> None:
    model = IMAGE if flags.get("input_shape") == PICTURE else FORM
    given = {n: str(tmp_path) if value == "{folder}" else value for n, value in flags.items()}
    explained(failure(tmp_path, model, **given), code)


def explained(error: Any, code: str) -> None:
    """Whatever ATC said, the user reads what it means and what to do."""
    assert error.code == f"atc-{code.lower()}", error.message
    advice = advise(code, error.where or "")
    assert advice.title in error.message
    assert advice.fix in error.hint or error.unsupported
    assert f"cause: {advice.cause}" in error.hint
    assert "omfuse has no entry" not in error.hint
    assert error.exit_code == 3


def edited(change: Callable[[onnx.ModelProto], None]) -> onnx.ModelProto:
    model = parse(FORM)
    change(model)
    return model


def _drop(values: Any) -> None:
    del values[:]


def _constant_input(model: onnx.ModelProto) -> None:
    _drop(model.graph.input)
    for name in "qkv":
        data = onnx.helper.make_tensor(name, 1, (1, 2, 8, 16), [0.0] * 256)
        model.graph.initializer.append(data)


def _twice(model: onnx.ModelProto) -> None:
    model.graph.node[1].name = model.graph.node[0].name


def _external(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("float_data")
    tensor.raw_data = b"\0" * 4
    onnx.external_data_helper.set_external_data(tensor, "no.bin", 0, 4)
    tensor.data_location = onnx.TensorProto.EXTERNAL


def _more_domains(model: onnx.ModelProto) -> None:
    model.opset_import.append(onnx.helper.make_opsetid("npu", 1))


MODELS: list[tuple[str, Callable[[onnx.ModelProto], None]]] = [
    ("E16001", lambda m: _drop(m.graph.output)),
    ("E16001", _constant_input),
    ("E16004", lambda m: _drop(m.graph.node)),
    ("E16005", _more_domains),
    ("E19009", _twice),
    ("E19000", _external),
    ("E11010", lambda m: _drop(m.graph.node[1].attribute)),
    ("E11010", lambda m: m.graph.node[1].attribute.pop()),
    ("E19010", lambda m: setattr(m.graph.node[0], "op_type", "Loop")),
    ("E19010", lambda m: setattr(m.opset_import[0], "version", 22)),
    ("E19999", lambda m: setattr(m.graph.node[0], "domain", "com.acme")),
]


@pytest.mark.parametrize(("code", "change"), MODELS)
def test_a_model_that_the_parser_refuses(
    tmp_path: Path, code: str, change: Callable[[onnx.ModelProto], None]
) -> None:
    explained(failure(tmp_path, edited(change)), code)


@pytest.mark.parametrize(("data", "code"), [(b"", "E19015"), (b"\xff" * 40, "E19005")])
def test_a_file_that_is_no_model(tmp_path: Path, data: bytes, code: str) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(data)
    explained(failure(tmp_path, model=path), code)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("aipp_op {", "E19018"),
        ("aipp_op { input_format: YUV420SP_U8 }", "E10052"),
        ("aipp_op { aipp_mode: static }", "E10055"),
        ('aipp_op { aipp_mode: static related_input_name: "q" }', "E10034"),
        ('aipp_op { aipp_mode: static related_input_name: "k" }', "E10055"),
    ],
)
def test_an_aipp_file(tmp_path: Path, text: str, code: str) -> None:
    path = tmp_path / "aipp.cfg"
    path.write_text(text, "utf-8")
    explained(failure(tmp_path, insert_op_conf=path, input_fp16_nodes="q"), code)
    both = failure(tmp_path, insert_op_conf=path, input_shape=SEQ, dynamic_dims="1,1,1;2,2,2")
    explained(both, "E10001")


# What only a real compiler can find out: made on demand

BUILD = """
    E10038
    E10034 E10041 E10042 E10046 E10057 E10059 E10060 E10061 E10410 E10501 E13001 E19022 E13003
    E13004 E13014 E13023 E13026 E14001 E16002 E20001 E20003 E20007 E21001 E22001 E40001 E40002
    E40003 E40020 E40021 E40022 E40023 E40024 E89999 E90000 E90001 E90002 E90003 EB0000 EC0010
    EZ0001 EZ0002 EZ0003 EZ0004 EZ0005 EZ0006 EZ0007 EZ0501 EZ3002 EZ3003 EZ9010 EZ9999
""".split()


@pytest.mark.parametrize("era", ["7", "8", "9"])
@pytest.mark.parametrize("code", BUILD)
def test_a_failure_of_the_build(tmp_path: Path, code: str, era: str) -> None:
    env = {"OMFUSE_SIM_ATC_FAULT": code, "OMFUSE_SIM_ATC_ERA": era}
    shown = OLD_CODES.get(code, code) if era < "9" else code
    explained(failure(tmp_path, env=env), shown)


@pytest.mark.parametrize("era", ["7", "8", "9"])
@pytest.mark.parametrize("code", ["E50035", "E60108", "E90017", "EB4001"])
def test_a_code_of_an_operator(tmp_path: Path, code: str, era: str) -> None:
    env = {"OMFUSE_SIM_ATC_FAULT": f"{code}:op [/conv/Conv] bad pads", "OMFUSE_SIM_ATC_ERA": era}
    error = failure(tmp_path, env=env)
    explained(error, code)
    assert "/conv/Conv" in (error.hint or "")


def test_every_code_of_the_table_is_met_in_some_era() -> None:
    made = {code for code, _ in FLAGS} | {code for code, _ in MODELS} | {*BUILD}
    made |= {"E19015", "E19005", "E19018", "E10052", "W11001"}
    made |= {OLD_CODES.get(code, code) for code in made}
    made |= {new for new, old in OLD_CODES.items() if old in made}
    missing = sorted(set(known_codes()) - made)
    assert missing == []


@pytest.mark.parametrize("era", ["7", "8", "9"])
def test_all_eras_of_an_unknown_operator(tmp_path: Path, era: str) -> None:
    model = edited(lambda m: setattr(m.graph.node[0], "op_type", "Loop"))
    error = failure(tmp_path, model, {"OMFUSE_SIM_ATC_ERA": era})
    explained(error, "E13010" if era == "9" else "E19010")
    (group,) = error.unsupported
    assert (group.key, group.nodes) == ("ai.onnx::17::Loop", ("scaled",))
    assert "unroll" in (error.hint or "")
    assert (tmp_path / "work" / "check_result.json").exists()


def test_an_inner_error_never_hides_a_named_one(tmp_path: Path) -> None:
    error = failure(tmp_path, edited(lambda m: setattr(m.graph.node[0], "domain", "com.acme")))
    assert "no responding version" in " ".join(error.messages[0].trace)


def test_a_warning_of_a_good_run_is_shown(tmp_path: Path) -> None:
    run = drive(tmp_path, FORM, {"OMFUSE_SIM_ATC_FAULT": "W11001"})
    assert [m.code for m in run.messages] == ["W11001"]


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        ({"foo": "1"}, "does not know the flag foo"),
        ({"dynamic": "1"}, "does not know the flag dynamic"),
    ],
)
def test_trouble_in_the_command_line(tmp_path: Path, flags: dict[str, str], what: str) -> None:
    error = failure(tmp_path, **flags)
    assert error.code == "atc-arguments"
    assert what in error.message


@pytest.mark.parametrize(
    ("fault", "code"), [("no-om", "atc-no-om"), ("bad-om", "atc-bad-om"), ("silent", "atc-silent")]
)
def test_less_than_success(tmp_path: Path, fault: str, code: str) -> None:
    assert failure(tmp_path, env={"OMFUSE_SIM_ATC_FAULT": fault}).code == code


def test_the_host_suffix_is_found(tmp_path: Path) -> None:
    run = drive(tmp_path, FORM, {"OMFUSE_SIM_ATC_SUFFIX": "1"}, host_env_os="linux",
                host_env_cpu="aarch64")  # fmt: skip
    assert run.om.name == "m_linux_aarch64.om"
    assert run.info["host"] == "linux-aarch64"


@pytest.mark.parametrize(
    ("flag", "text", "code"),
    [
        ("fusion_switch_file", "SomePass:off\nOther : on\n", ""),
        ("fusion_switch_file", '{"Switch": {"GraphFusion": {"ALL": "off"}}}', ""),
        ("fusion_switch_file", "SomePass=off", "E20003"),
        ("modify_mixlist", '{"black-list": {"to-add": ["Mul"]}}', ""),
        ("modify_mixlist", "Mul", "E10001"),
        ("keep_dtype", "attn\n", ""),
        ("customize_dtypes", "attn::InputDtype:float16\n", ""),
        ("op_precision_mode", "[ByOpType]\nSoftmaxV2=high_precision\n", ""),
    ],
)
def test_files_of_flags(tmp_path: Path, flag: str, text: str, code: str) -> None:
    path = tmp_path / "file.txt"
    path.write_text(text, "utf-8")
    more = {"precision_mode": "allow_mix_precision"} if flag == "modify_mixlist" else {}
    if code:
        explained(failure(tmp_path, **{flag: path}, **more), code)
    else:
        assert drive(tmp_path, FORM, {}, **{flag: path}, **more).om.exists()


BAD_ADD = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[n,3] a, float[m,4] b) => (float[n,k] y) { [add] y = Add(a, b) }
"""
BAD_RESHAPE = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[n,6] a) => (float[p,q] y) <int64[2] s = {2, 6}> { [shape] y = Reshape(a, s) }
"""


@pytest.mark.parametrize(
    ("model", "shape"), [(BAD_ADD, "a:2,3;b:2,4"), (BAD_RESHAPE, "a:3,6")], ids=["add", "reshape"]
)
def test_shapes_that_contradict_each_other(tmp_path: Path, model: str, shape: str) -> None:
    explained(failure(tmp_path, model, input_shape=shape), "E89999")


def test_what_nobody_foresaw_is_an_inner_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr("omfuse.sim.atc.main.make_interface", broken)
    error = failure(tmp_path)
    explained(error, "E19999")
    assert "surprise" in " ".join(error.messages[0].trace)
