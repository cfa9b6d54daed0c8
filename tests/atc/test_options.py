from __future__ import annotations

import random
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.atc.commands import command_shapes

from omfuse.atc.options import fields as o
from omfuse.atc.options.flags import DRIVER_FLAGS, FLAGS, REQUIRED
from omfuse.errors import UsageError


def test_every_flag_that_serves_onnx_is_a_field() -> None:
    assert set(o.FIELD_NAMES) | {"framework"} == {n for n, f in FLAGS.items() if f.onnx}


def test_the_table_is_consistent() -> None:
    for name, flag in FLAGS.items():
        assert flag.kind in ("string", "int", "bool"), name
        assert flag.bad_value.startswith("E"), name
        if flag.values and flag.default and name != "framework":
            assert flag.default in flag.values, name
    assert set(REQUIRED) <= set(FLAGS)


def _last_values(argv: list[str]) -> dict[str, str]:
    return dict(word[2:].split("=", 1) for word in argv)


def test_fifty_and_more_command_shapes_come_back_unchanged() -> None:
    shapes = command_shapes()
    assert len({tuple(s) for s in shapes}) >= 50
    for argv in shapes:
        whole = ["--model=m.onnx", "--output=out/m", *argv]
        read = o.from_argv(["atc", *whole])
        assert _last_values(read.to_argv()) == _last_values(whole)
        assert o.from_argv(read.to_argv()) == read


def test_both_ways_of_writing_a_value_are_read() -> None:
    joined = o.from_argv(["--model=a.onnx", "--soc-version=Ascend310P3", "--log=error"])
    apart = o.from_argv(["--model", "a.onnx", "-soc_version", "Ascend310P3", "--log", "error"])
    assert joined == apart
    assert joined.soc_version == "Ascend310P3"


@given(st.data())
def test_any_setting_round_trips(data: st.DataObject) -> None:
    names = data.draw(
        st.lists(
            st.sampled_from(sorted(set(o.FIELD_NAMES) - set(DRIVER_FLAGS))),
            unique=True,
            max_size=12,
        )
    )
    pairs = []
    for name in names:
        flag = FLAGS[name]
        kind = o._FIELD_TYPES[name]
        if flag.values:
            text = data.draw(st.sampled_from(flag.values))
        elif kind.startswith("bool"):
            text = data.draw(st.sampled_from(("true", "false")))
        elif kind.startswith("int"):
            text = str(data.draw(st.integers(0, 99)))
        else:
            text = data.draw(st.text("abc:;,~-1", min_size=1, max_size=12))
        pairs.append((name, text))
    built = o.apply_settings(o.AtcOptions(), pairs)
    assert o.from_argv(built.to_argv()) == built
    for name, text in pairs:
        assert built.values()[name] == text


def test_arguments_are_never_quoted_but_the_shown_command_is() -> None:
    options = o.AtcOptions(model=Path("m.onnx"), input_shape="a b:1,2;c:3")
    argv = options.to_argv()
    assert "--input_shape=a b:1,2;c:3" in argv
    shown = o.command_text("/opt/atc", argv, {"ASCEND_CUSTOM_OPP_PATH": "/x y"})
    words = shlex.split(shown)
    assert words == ["ASCEND_CUSTOM_OPP_PATH=/x y", "/opt/atc", *argv]


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("log", "verbose", "E10010"),
        ("status_check", "2", "E10006"),
        ("deterministic", "maybe", "E10006"),
        ("save_original_model", "1x", "E10005"),
        ("precision_mode", "force_fp6", "E10001"),
        ("op_select_implmode", "high_performence", "E10001"),
        ("external_weight", "3", "E10006"),
    ],
)
def test_a_value_outside_its_set_names_the_code(name: str, value: str, code: str) -> None:
    with pytest.raises(UsageError, match=code) as caught:
        o.apply_settings(o.AtcOptions(), [(name, value)])
    assert caught.value.hint


def test_a_near_value_is_suggested() -> None:
    with pytest.raises(UsageError) as caught:
        o.apply_settings(o.AtcOptions(), [("op_select_implmode", "high_performence")])
    assert "did you mean high_performance?" in (caught.value.hint or "")


def test_what_the_driver_decides_cannot_be_set() -> None:
    for name in DRIVER_FLAGS:
        with pytest.raises(UsageError) as caught:
            o.apply_settings(o.AtcOptions(), [(name, "x")])
        assert caught.value.code == "atc-flag-owned"
    with pytest.raises(UsageError) as caught:
        o.apply_settings(o.AtcOptions(), [("weight", "x.caffemodel")])
    assert caught.value.code == "atc-flag-other"


def test_unknown_flags_pass_through_and_are_named() -> None:
    options = o.apply_settings(o.AtcOptions(), [("brand_new", "7"), ("prescision_mode", "x")])
    assert "--brand_new=7" in options.to_argv()
    assert dict(o.unknown_flags(options)) == {
        "brand_new": None,
        "prescision_mode": "precision_mode",
    }


@pytest.mark.parametrize("argv", [["atc", "stray", "--log=error"], ["--framework=3"]])
def test_a_command_that_is_not_ours_is_refused(argv: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        o.from_argv(argv)
    assert caught.value.code == "atc-command"


def test_settings_split_at_the_first_equals_sign() -> None:
    assert o.parse_setting('raw_ge_options={"a":"b=c"}') == (
        "raw_ge_options",
        '{"a":"b=c"}',
    )
    for bad in ("novalue", "=x"):
        with pytest.raises(UsageError):
            o.parse_setting(bad)


def test_order_of_settings_decides() -> None:
    pairs = [("log", "info"), ("log", "error")]
    random.Random(3).shuffle(pairs)
    assert o.apply_settings(o.AtcOptions(), pairs).log == pairs[-1][1]


@pytest.mark.parametrize(
    ("setting", "code"),
    [
        ("deterministic_level=x", "E10003"),
        ("deterministic_level=9", "E10001"),
        ("sparsity=x", "E10003"),
        ("sparsity=2", "E10006"),
        ("raw_ge_options_ignore_unsupported=maybe", "E10003"),
        ("status_check=2", "E10006"),
        ("log=loud", "E10010"),
    ],
)
def test_a_bad_value_names_the_code_of_atc(setting: str, code: str) -> None:
    with pytest.raises(UsageError, match=code):
        o.apply_settings(o.AtcOptions(), [o.parse_setting(setting)])
