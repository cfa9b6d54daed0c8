from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omfuse.atc.options.fields import AtcOptions
from omfuse.atc.options.shape_rules import check_shapes

GRAPH = {"x": ["n", 3, "h", "w"], "m": ["n", 8]}


def code(graph: dict[str, list[int | str]] | None = None, **flags: object) -> str:
    options = AtcOptions(**flags)  # type: ignore[arg-type]
    found = check_shapes(options, graph)
    return found[0].code if found else ""


STATIC = [
    ("x:1,3;m:2", ""),
    ("x:1,3;m:2;", ""),
    (" x : 1 , 3 ", ""),
    ("a:b:1,3", ""),
    ("s:", ""),
    ("x:0,3", "E10011"),
    ("x:-2,3", "E10011"),
    ("x:1.5,3", "E10002"),
    ("x:3a,3", "E10002"),
    ("x:a,3", "E10014"),
    ("x:batch,3", "E10014"),
    ("x:99999999999,3", "E10013"),
    ("1,3", "E10002"),
    (";", "E10004"),
]


@pytest.mark.parametrize(("text", "expected"), STATIC)
def test_static_shapes(text: str, expected: str) -> None:
    assert code(input_shape=text) == expected


RANGES = [
    ("x:1~8,3", ""),
    ("x:-1,3", ""),
    ("1~8,3;2,-1", ""),
    ("x:1~-1,3", ""),
    ("x:8~1,3", "E10048"),
    ("x:1~a,3", "E10048"),
    ("x:~8,3", "E10048"),
    ("x:1~8;3", "E10048"),
    # A plain -1 in a name alone turns the text into a range, where words are refused otherwise.
    ("attn-1:1,3", ""),
    ("attn-1:a,3", "E10048"),
]


@pytest.mark.parametrize(("text", "expected"), RANGES)
def test_range_shapes(text: str, expected: str) -> None:
    assert code(input_shape=text) == expected


GEARS = [
    ({"dynamic_batch_size": "1,4"}, "x:-1,3", ""),
    ({"dynamic_batch_size": "1,4,"}, "x:-1,3", ""),
    ({"dynamic_batch_size": "1,4"}, None, "E10004"),
    ({"dynamic_batch_size": "1,4"}, "x:1~4,3", "E10040"),
    ({"dynamic_batch_size": "1,a"}, "x:-1,3", "E10003"),
    ({"dynamic_batch_size": "1,-2"}, "x:-1,3", "E10003"),
    ({"dynamic_batch_size": "1,4"}, "x:-1,-1", "E10018"),
    ({"dynamic_batch_size": "1,4"}, "x:1,3", "E10031"),
    ({"dynamic_batch_size": "1,4"}, "x:-1,3;s:", "E10012"),
    ({"dynamic_batch_size": "4"}, "x:-1,3", "E10035"),
    ({"dynamic_batch_size": "4,4"}, "x:-1,3", "E10039"),
    ({"dynamic_batch_size": ",".join(map(str, range(1, 102)))}, "x:-1,3", "E10036"),
    ({"dynamic_image_size": "2,2;4,4"}, "x:1,3,-1,-1", ""),
    ({"dynamic_image_size": "2,2;4,4", "input_format": "ND"}, "x:1,3,-1,-1", "E10003"),
    ({"dynamic_image_size": "2,2;4,4"}, "x:-1,3,-1,-1", "E10019"),
    ({"dynamic_image_size": "2,2;4,4"}, "x:1,3,-1", "E10019"),
    ({"dynamic_image_size": "2;4,4"}, "x:1,3,-1,-1", "E10020"),
    ({"dynamic_image_size": "2,2"}, "x:1,3,-1,-1", "E10035"),
    ({"dynamic_dims": "1,64;4,64"}, "x:-1,3,-1,8", ""),
    ({"dynamic_dims": "1;4"}, "x:-1,3,-1,8", "E10003"),
    ({"dynamic_dims": "1,2;4"}, "x:-1,3,-1,8", "E10037"),
    ({"dynamic_dims": "1,b;4,2"}, "x:-1,3,-1,8", "E10001"),
    ({"dynamic_dims": "1,2"}, "x:-1,3,-1,8", "E10035"),
    ({"dynamic_dims": "1,2;1,2"}, "x:-1,3,-1,8", "E10039"),
    ({"dynamic_dims": ""}, "x:-1,3", "E10058"),
    ({"dynamic_dims": "1;2"}, "x:1,3", "E10040"),
    ({"dynamic_dims": "1;2", "insert_op_conf": Path("aipp.cfg")}, "x:-1,3", "E10001"),
    ({"dynamic_dims": "1;2", "input_hint_shape": "0:[1,3]"}, "x:-1,3", "E10001"),
    ({"dynamic_dims": "1;2", "dynamic_batch_size": "1,2"}, "x:-1,3", "E10009"),
    ({"dynamic_batch_size": "1,2", "input_shape_range": "x:[1~2,3]"}, "x:-1,3", "E10009"),
    ({"dynamic_batch_size": "1,2"}, "x:-1,0", "E10011"),
    ({"input_shape_range": "x:1~2,3"}, None, "E10048"),
    ({"input_shape_range": "x:[1~2,3]"}, None, ""),
]


@pytest.mark.parametrize(("flags", "shape", "expected"), GEARS)
def test_gears(flags: dict[str, object], shape: str | None, expected: str) -> None:
    assert code(input_shape=shape, **flags) == expected


AGAINST = [
    ("x:1,3,8,8;m:1,8", ""),
    ("x:1,3,8,8;q:1,8", "E10016"),
    ("x:1,3,8;m:1,8", "E19999"),
    ("x:1~2,3,8;m:1,8", "E10049"),
    ("x:1,3,8,8", "E10001"),
    ("x:1,2~4,8,8;m:1,8", ""),
    ("x:1,4~5,8,8;m:1,8", "E10050"),
    ("1~2,3,8,8;1~2,8;3", "E10048"),
]


@pytest.mark.parametrize(("text", "expected"), AGAINST)
def test_shapes_against_the_model(text: str, expected: str) -> None:
    assert code(GRAPH, input_shape=text) == expected


def test_950_takes_more_gears() -> None:
    options = AtcOptions(input_shape="x:-1", dynamic_batch_size=",".join(map(str, range(1, 200))))
    assert check_shapes(options, None, "Ascend310P3")[0].code == "E10036"
    assert not check_shapes(options, None, "Ascend950PR_9599")


@given(st.text(max_size=40), st.text(max_size=20), st.text(max_size=20))
def test_any_text_gets_a_verdict(shape: str, gears: str, batch: str) -> None:
    for flags in ({}, {"dynamic_dims": gears}, {"dynamic_batch_size": batch}):
        for rule in check_shapes(AtcOptions(input_shape=shape, **flags), GRAPH):
            assert rule.code.startswith("E1") or rule.severity == "warning"
            assert rule.message
