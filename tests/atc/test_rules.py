from __future__ import annotations

from pathlib import Path

import pytest

from omfuse.atc.config import load_soc
from omfuse.atc.options.fields import AtcOptions
from omfuse.atc.options.problem import OptionsError, RuleBreak, RuleContext
from omfuse.atc.options.rules import check


def codes(
    tmp_path: Path, soc: str = "Ascend310P3", cann: int | None = 8, **flags: object
) -> list[tuple[str, str]]:
    model = tmp_path / "m.onnx"
    model.write_bytes(b"x")
    whole: dict[str, object] = {"model": model, "output": tmp_path / "out", "soc_version": soc}
    options = AtcOptions(**{**whole, **flags})  # type: ignore[arg-type]
    found = check(options, RuleContext(load_soc(soc), cann))
    return [(rule.code, rule.flag) for rule in found if rule.severity == "error"]


BROKEN = [
    ({"model": None}, ("E10054", "model")),
    ({"output": None}, ("E10054", "output")),
    ({"mode": 1}, ("E10001", "mode")),
    ({"mode": 2}, ("E10001", "mode")),
    ({"input_format": "NHWC"}, ("E10001", "input_format")),
    ({"keep_dtype": Path("missing.cfg")}, ("E10001", "keep_dtype")),
    ({"output": Path("a" * 300)}, ("E10021", "output")),
    ({"output": Path("a b")}, ("E10001", "output")),
    ({"precision_mode": "force_fp16", "precision_mode_v2": "fp16"}, ("E10056", "precision_mode")),
    ({"optypelist_for_implmode": "Gelu"}, ("E10001", "optypelist_for_implmode")),
    ({"auto_tune_mode": "RL,GA"}, ("E10001", "auto_tune_mode")),
    ({"is_input_adjust_hw_layout": "true"}, ("E10001", "is_input_adjust_hw_layout")),
    (
        {"is_output_adjust_hw_layout": "yes", "out_nodes": "a:0"},
        ("E10001", "is_output_adjust_hw_layout"),
    ),
    ({"out_nodes": "a:0;b"}, ("E10001", "out_nodes")),
    ({"output_type": "FP64"}, ("E10001", "output_type")),
    ({"output_type": "a:0:FP16", "out_nodes": "b:0"}, ("E10001", "output_type")),
    ({"raw_ge_options": "{"}, ("E10001", "raw_ge_options")),
    ({"host_env_os": "linux"}, ("E10001", "host_env_os")),
    ({"aicore_num": "99|"}, ("E20103", "aicore_num")),
    ({"aicore_num": "x"}, ("E10001", "aicore_num")),
    ({"deterministic_level": 2}, ("E10001", "deterministic_level")),
    ({"multi_stream_parallel_mode": "MainStream:65"}, ("E10001", "multi_stream_parallel_mode")),
    ({"static_model_ops_lower_limit": "-2"}, ("E10001", "static_model_ops_lower_limit")),
    ({"optimization_switch": "pass"}, ("E10001", "optimization_switch")),
    ({"jit_compile": 7}, ("E10001", "jit_compile")),
    ({"log": "loud"}, ("E10010", "log")),
    ({"output_type": "HIF8"}, ("E10001", "output_type")),
    ({"output_type": "a:0:FP8E5M2", "out_nodes": "a:0"}, ("E10001", "output_type")),
]


@pytest.mark.parametrize(("flags", "expected"), BROKEN)
def test_each_rule(tmp_path: Path, flags: dict[str, object], expected: tuple[str, str]) -> None:
    assert expected in codes(tmp_path, cann=9, **flags)


@pytest.mark.parametrize("flags", [flags for flags, _ in BROKEN])
def test_each_error_has_a_hint(tmp_path: Path, flags: dict[str, object]) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(b"x")
    whole: dict[str, object] = {"model": model, "output": tmp_path / "o", "soc_version": "x"}
    options = AtcOptions(**{**whole, **flags})  # type: ignore[arg-type]
    broken = check(options, RuleContext(load_soc("Ascend310P3"), 8))
    assert all(rule.hint for rule in broken if rule.severity == "error"), broken


def test_rules_with_files(tmp_path: Path) -> None:
    listing = tmp_path / "list.cfg"
    listing.write_text('{"black-list": {"to-add": ["Mul"]}}', "utf-8")
    both = codes(tmp_path, compress_weight_conf=listing, enable_compress_weight=True)
    assert ("E10047", "compress_weight_conf") in both
    assert ("E10001", "modify_mixlist") in codes(tmp_path, modify_mixlist=listing)
    mixed = {"modify_mixlist": listing, "precision_mode": "allow_mix_precision"}
    assert codes(tmp_path, **mixed) == []
    odd = tmp_path / "with space"
    odd.mkdir()
    (odd / "keep.cfg").write_text("x", "utf-8")
    assert ("E10001", "keep_dtype") in codes(tmp_path, keep_dtype=odd / "keep.cfg")
    link = tmp_path / "plain.cfg"
    link.symlink_to(odd / "keep.cfg")
    assert ("E10001", "keep_dtype") in codes(tmp_path, keep_dtype=link), "the real path counts"


def test_a_clean_command_breaks_nothing(tmp_path: Path) -> None:
    assert codes(tmp_path, log="error", input_format="ND", aicore_num="8|") == []


def test_the_chip_decides(tmp_path: Path) -> None:
    bf16 = {"precision_mode": "allow_mix_precision_bf16"}
    assert ("", "precision_mode") in codes(tmp_path, "Ascend310P3", **bf16)
    assert codes(tmp_path, "Ascend910B4", **bf16) == []
    ranged = {"input_shape": "x:1~8,3"}
    assert ("", "input_shape") in codes(tmp_path, "Ascend310B1", **ranged)
    assert codes(tmp_path, "Ascend310P3", **ranged) == []
    assert ("", "input_shape") in codes(tmp_path, "Ascend310B1", input_shape="x:-1,3")
    gears = {"input_shape": "x:-1,3", "dynamic_batch_size": "1,2"}
    assert codes(tmp_path, "Ascend310B1", **gears) == []
    assert codes(tmp_path, "Ascend910B4", aicore_num="20|40") == []
    assert ("E20103", "aicore_num") in codes(tmp_path, "Ascend910B4", aicore_num="20|41")


def test_the_version_of_cann_decides(tmp_path: Path) -> None:
    new = {"enable_attr_compression": True}
    assert ("", "enable_attr_compression") in codes(tmp_path, cann=8, **new)
    assert codes(tmp_path, cann=9, **new) == []
    assert codes(tmp_path, cann=None, **new) == []


def test_documented_advice_is_a_warning(tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(b"x")
    options = AtcOptions(
        model=model,
        output=tmp_path / "o",
        soc_version="Ascend910B4",
        core_type="VectorCore",
        input_shape_range="x:[1~8,3]",
        op_debug_level=2,
        op_compiler_cache_mode="force",
        extra=(("presicion_mode", "x"),),
    )
    found = check(options, RuleContext(load_soc("Ascend910B4")))
    assert [r.severity for r in found] == ["warning"] * len(found)
    assert {r.flag for r in found} == {
        "core_type",
        "input_shape_range",
        "op_debug_level",
        "op_compiler_cache_mode",
        "presicion_mode",
    }
    assert any("did you mean precision_mode" in r.hint for r in found)


def test_one_error_tells_all_rules() -> None:
    error = OptionsError([RuleBreak("E10056", "a", "x", "do a"), RuleBreak("E10001", "b", "y", "")])
    assert "E10056" in str(error)
    assert "E10001" in str(error)
    assert error.exit_code == 2
    assert [r["code"] for r in error.as_dict()["rules"]] == ["E10056", "E10001"]


@pytest.mark.parametrize(
    ("block", "broken"),
    [
        ('aipp_mode: static related_input_name: "x"', True),
        ("aipp_mode: static related_input_rank: 1", False),
        ("aipp_mode: static", True),
        ('aipp_mode: static related_input_name: "m"', False),
    ],
)
def test_an_input_is_fp16_or_preprocessed(tmp_path: Path, block: str, broken: bool) -> None:
    path = tmp_path / "aipp.cfg"
    path.write_text(f"# one input\naipp_op {{ {block} }}\n", "utf-8")
    options = AtcOptions(insert_op_conf=path, input_fp16_nodes="x", soc_version="Ascend310P3")
    context = RuleContext(inputs={"x": [1, 3, 8, 8], "m": [1, 3, 8, 8]})
    assert ("E10034" in {rule.code for rule in check(options, context)}) == broken


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    assert ("", "keep_dtype") in codes(tmp_path, keep_dtype=tmp_path)
    assert codes(tmp_path, op_bank_path=tmp_path) == []


@pytest.mark.parametrize(
    ("flag", "text", "code"),
    [
        ("modify_mixlist", '{"white-list": {"to-remove": ["Mul"]}}', None),
        ("modify_mixlist", "Mul", "E10001"),
        ("modify_mixlist", '{"gray-list": {}}', "E10001"),
        ("fusion_switch_file", "PassA:off\n\n PassB : on\n", None),
        ("fusion_switch_file", '{"Switch": {"UBFusion": {"ALL": "off"}}}', None),
        ("fusion_switch_file", "PassA=off", "E20003"),
        ("fusion_switch_file", '["Switch"]', "E20003"),
        ("op_precision_mode", "[ByNodeName]\nattn=high_precision\n", None),
        ("op_precision_mode", "[ByOpType]\nSoftmaxV2=precise\n", ""),
        ("op_precision_mode", "SoftmaxV2=high_precision\n", ""),
        ("op_precision_mode", "[ByType]\nSoftmaxV2=high_precision\n", ""),
        ("keep_dtype", "attn\nOpType::Add\n", None),
        ("keep_dtype", "OpType::\n", ""),
        ("customize_dtypes", "OpType::Add:InputDtype:float16,OutputDtype:float16\n", None),
        ("customize_dtypes", "Add float16\n", ""),
    ],
)
def test_the_form_of_a_file(tmp_path: Path, flag: str, text: str, code: str | None) -> None:
    """A code stops the compile, an empty one is a warning: only the documentation says so."""
    path = tmp_path / "file.txt"
    path.write_text(text, "utf-8")
    options = AtcOptions(
        model=path,
        output=tmp_path / "o",
        soc_version="Ascend310P3",
        precision_mode_v2="mixed_float16",
    ).replace(**{flag: path})
    found = [(rule.code, rule.flag, rule.severity) for rule in check(options)]
    severity = "error" if code else "warning"
    assert found == ([] if code is None else [(code, flag, severity)])


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        ({"out_nodes": "attn:0;add:1"}, ""),
        ({"out_nodes": "y"}, ""),
        ({"out_nodes": "softmax:0"}, "E11017"),
        ({"out_nodes": "attn:1"}, "E11016"),
        ({"out_nodes": "z"}, "E10016"),
        ({"input_fp16_nodes": "q"}, ""),
        ({"input_fp16_nodes": "attn"}, "E10017"),
        ({"input_fp16_nodes": "z"}, "E10016"),
        ({"input_shape": "attn:1,2"}, "E10017"),
        ({"input_shape": "z:1,2"}, "E10016"),
        ({"input_shape_range": "attn:[1~2,2]"}, "E10017"),
    ],
)
def test_names_in_flags_are_those_of_the_model(flags: dict[str, str], code: str) -> None:
    context = RuleContext(
        inputs={"q": [1, 2]}, nodes={"attn": 1, "add": 2}, tensors=frozenset(["y"])
    )
    model, chip = Path(__file__), "Ascend310P3"
    options = AtcOptions(model=model, output=Path("o"), soc_version=chip).replace(**flags)
    broken = [rule for rule in check(options, context) if rule.severity == "error"]
    assert [rule.code for rule in broken] == ([code] if code else [])
    assert all(rule.hint for rule in broken)


def test_a_stale_kernel_is_warned_of() -> None:
    options = AtcOptions(model=Path(__file__), output=Path("o"), soc_version="Ascend310P3")
    for mode, flags in (("enable", ["op_compiler_cache_mode"]), ("force", []), ("disable", [])):
        found = check(options.replace(op_compiler_cache_mode=mode))
        assert [rule.flag for rule in found] == flags


def test_deprecated_flags_are_named() -> None:
    flags = {"shape_generalized_build_mode": "shape_precise", "h2d_overlapped_with_compute": "0,x"}
    options = AtcOptions(model=Path(__file__), output=Path("o"), soc_version="Ascend310P3")
    found = check(options.replace(**flags))
    assert {(rule.flag, rule.severity) for rule in found} == {(flag, "warning") for flag in flags}


@pytest.mark.parametrize(
    ("soc", "text", "warned"),
    [
        ("Ascend310P3", "8|", False),
        ("Ascend310P3", "8|7", True),
        ("Ascend910B3", "20|40", False),
        ("Ascend910B3", "20|", True),
        ("Ascend910B3", "20", True),
        ("Ascend910A", "32|", False),
        ("Ascend310B1", "1|", False),
        ("Ascend910_9392", "24|48", False),
    ],
)
def test_the_form_of_a_core_count_belongs_to_the_chip(soc: str, text: str, warned: bool) -> None:
    options = AtcOptions(model=Path(__file__), output=Path("o"), soc_version=soc, aicore_num=text)
    found = check(options, RuleContext(load_soc(soc)))
    assert [rule.flag for rule in found] == (["aicore_num"] if warned else [])


def test_vector_cores_alone_are_warned_of() -> None:
    for soc, words in (("Ascend310P3", "FlashAttention"), ("Ascend910B3", "no effect")):
        options = AtcOptions(model=Path(__file__), output=Path("o"), soc_version=soc)
        (rule,) = check(options.replace(core_type="VectorCore"), RuleContext(load_soc(soc)))
        assert words in rule.message
