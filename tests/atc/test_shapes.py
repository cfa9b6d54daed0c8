from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omfuse.atc.options.fields import AtcOptions
from omfuse.atc.options.shape_rules import check_shapes
from omfuse.atc.shapes.plan import plan_shapes
from omfuse.errors import UsageError

BERT = {"input_ids": ["batch", "seq"], "attention_mask": ["batch", "seq"]}
IMAGE = {"image": ["n", 3, "h", "w"]}
MIXED = {"x": ["batch", "seq", 16], "scalar": [], "y": [None, 4]}


def test_values_for_every_symbol_make_a_static_model() -> None:
    plan = plan_shapes(BERT, ["batch=1", "seq=128"])
    assert plan.kind == "static"
    assert plan.flags == {"input_shape": "input_ids:1,128;attention_mask:1,128"}
    assert plan.concrete == {"input_ids": (1, 128), "attention_mask": (1, 128)}


def test_a_model_without_open_dims_needs_no_flag() -> None:
    assert plan_shapes({"x": [1, 3]}, []).flags == {}
    assert plan_shapes({"x": [1, 3]}, ["x=1,3"]).flags == {}


def test_batch_gears() -> None:
    plan = plan_shapes(BERT, ["batch=1,4,8", "seq=128"])
    assert plan.kind == "batch-gears"
    assert plan.flags == {
        "input_shape": "input_ids:-1,128;attention_mask:-1,128",
        "dynamic_batch_size": "1,4,8",
    }
    assert [g["input_ids"] for g in plan.gears] == [(1, 128), (4, 128), (8, 128)]


def test_other_gears_become_dynamic_dims_in_the_order_of_input_shape() -> None:
    plan = plan_shapes(BERT, ["batch,seq=1,64;4,128"])
    assert plan.kind == "dims-gears"
    assert plan.flags["dynamic_dims"] == "1,64,1,64;4,128,4,128"
    assert plan.flags["input_format"] == "ND"


def test_separate_gears_are_combined() -> None:
    plan = plan_shapes(BERT, ["batch=1,4", "seq=64,128"])
    assert len(plan.gears) == 4
    assert any("each with each" in reason for reason in plan.reasons)


def test_a_scalar_input_rules_out_batch_gears() -> None:
    plan = plan_shapes(MIXED, ["batch=1,2", "seq=4", "y=3,4"])
    assert plan.kind == "dims-gears"
    assert plan.flags["input_shape"] == "x:-1,4,16;scalar:;y:3,4"
    assert "scalar is a scalar" in plan.reasons[0]


def test_ranges() -> None:
    plan = plan_shapes(BERT, ["batch=1", "seq=1~512"])
    assert plan.kind == "range"
    assert plan.flags == {"input_shape": "input_ids:1,1~512;attention_mask:1,1~512"}
    assert plan.concrete["input_ids"] == (1, None)


def test_images_with_aipp_use_image_gears() -> None:
    wish = ["n=1", "h,w=224,224;448,448"]
    assert plan_shapes(IMAGE, wish, aipp=True).flags == {
        "input_shape": "image:1,3,-1,-1",
        "dynamic_image_size": "224,224;448,448",
        "input_format": "NCHW",
    }
    assert plan_shapes(IMAGE, wish).kind == "dims-gears"


def test_whole_shapes_of_an_input_as_gears() -> None:
    plan = plan_shapes(IMAGE, ["image=1,3,224,224;1,3,448,224"])
    assert plan.flags["input_shape"] == "image:1,3,-1,224"
    assert plan.flags["dynamic_dims"] == "224;448"


BAD = [
    (BERT, [], "shape-needed"),
    (BERT, ["batch=1"], "shape-needed"),
    (BERT, ["bach=1", "seq=1"], "unknown-shape-name"),
    (BERT, ["batch=0", "seq=1"], "bad-shape"),
    (BERT, ["batch=x", "seq=1"], "bad-shape"),
    (BERT, ["batch=8~1", "seq=1"], "bad-shape"),
    (BERT, ["batch=99999999999", "seq=1"], "bad-shape"),
    (BERT, ["nothing"], "bad-shape"),
    (BERT, ["batch,seq=1;2"], "bad-shape"),
    (BERT, ["input_ids=1,2,3"], "bad-shape"),
    (BERT, ["batch=1,4", "seq=1~8"], "mixed-shape"),
    (BERT, ["batch=1", "batch=2", "seq=1"], "bad-shape"),
    (BERT, ["batch=1,2", "batch=4", "seq=1"], "bad-shape"),
    (BERT, ["batch,batch=1,2;3,4", "seq=1"], "bad-shape"),
    (BERT, ["batch,seq=1,2;3,4", "seq=1"], "bad-shape"),
    (BERT, ["batch=1", "seq=\u00b2"], "bad-shape"),
    (BERT, ["batch=1", "seq=1~\u00b2"], "bad-shape"),
    (BERT, ["batch=1", "seq=1~99999999999"], "bad-shape"),
    (BERT, ["batch=1", "seq=" + "9" * 5000], "bad-shape"),
    (IMAGE, ["image=1,4,2,2"], "fixed-dim"),
]


@pytest.mark.parametrize(("inputs", "wishes", "expected"), BAD)
def test_bad_wishes(inputs: dict[str, list[int | str]], wishes: list[str], expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        plan_shapes(inputs, wishes)
    assert caught.value.code == expected


def test_the_proposal_for_open_dims_works_when_followed() -> None:
    with pytest.raises(UsageError) as caught:
        plan_shapes(MIXED, [])
    hint = (caught.value.hint or "").split(";")[0]
    wishes = [word.strip("'") for word in hint.split() if "=" in word]
    assert plan_shapes(MIXED, wishes).kind == "static"


def test_contradicting_values_of_one_symbol_are_reported() -> None:
    plan = plan_shapes(BERT, ["batch=1", "seq=8", "input_ids=1,16"])
    assert any("seq" in reason and "16" in reason for reason in plan.reasons)


def test_a_name_that_looks_like_a_range_is_reported() -> None:
    plan = plan_shapes({"past-1": ["n", 2]}, ["n=1"])
    assert any("past-1" in reason for reason in plan.reasons)


DIMS = st.lists(st.sampled_from(["a", "b", "c", 2, 3]), min_size=0, max_size=4)
SPECS = st.one_of(
    st.integers(1, 9).map(str),
    st.lists(st.integers(1, 9), min_size=2, max_size=4, unique=True).map(
        lambda v: ",".join(map(str, v))
    ),
    st.tuples(st.integers(1, 4), st.integers(4, 9)).map(lambda v: f"{v[0]}~{v[1]}"),
)


@given(st.dictionaries(st.sampled_from(["x", "y", "z"]), DIMS, min_size=1), st.data())
def test_every_plan_obeys_the_rules_of_atc(
    inputs: dict[str, list[int | str]], data: st.DataObject
) -> None:
    symbols = sorted({d for dims in inputs.values() for d in dims if isinstance(d, str)})
    wishes = [f"{s}={data.draw(SPECS)}" for s in symbols]
    texts = [wish.split("=")[1] for wish in wishes]
    if any("~" in text for text in texts) and any("," in text for text in texts):
        with pytest.raises(UsageError, match="E10040"):
            plan_shapes(inputs, wishes)
        return
    plan = plan_shapes(inputs, wishes)
    graph = {n: [d if isinstance(d, int) else "?" for d in dims] for n, dims in inputs.items()}
    assert check_shapes(AtcOptions(**plan.flags), graph) == []
    for gear in plan.gears:
        assert set(gear) == set(inputs)
