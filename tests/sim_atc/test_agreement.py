"""The rules checked before ATC starts and the stand-in were written apart: they must agree."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sim_atc.broken_flags import FLAGS

from omfuse.atc.config import load_soc
from omfuse.atc.options import rules
from omfuse.atc.options.fields import FIELD_NAMES, AtcOptions, apply_settings
from omfuse.atc.options.flags import DRIVER_FLAGS
from omfuse.atc.options.flags import FLAGS as TABLE
from omfuse.atc.options.shape_rules import check_shapes
from omfuse.errors import UsageError
from omfuse.sim.atc.failure import AtcFailure
from omfuse.sim.atc.shape_flags import match_inputs, read_shapes

GRAPH = {"q": (-1, 2, 8), "k": (-1, 2, -1), "s": ()}
DIMS = st.sampled_from(
    ["1", "2", "8", "-1", "0", "x", "1.5", "1~4", "4~1", "1a", "", "3~-1", "-2", "99999999999"]
)
GEARS = st.sampled_from(
    ["1,2", "1", "1,2,4", "1,1", "a", "1;2", "1,2;3,4", "8,8;16,16", "1,2,3;4,5,6", "", "1,2,",
     "-1,2", "1,2,3;4,5", "1;2;2"]
)  # fmt: skip


@st.composite
def shapes(draw: Any) -> str:
    items = []
    for name in draw(st.lists(st.sampled_from(["q", "k", "s", "z"]), max_size=3, unique=True)):
        rank = draw(st.sampled_from([0, 1, 3, 3, 3, 4]))
        dims = [draw(DIMS) if draw(st.booleans()) else "2" for _ in range(rank)]
        items.append(f"{name}:{','.join(dims)}" if draw(st.integers(0, 9)) else ",".join(dims))
    return ";".join(items) + draw(st.sampled_from(["", ";"]))


def before(flags: dict[str, str], known: bool) -> str:
    graph: dict[str, list[int | str]] = {
        name: [size if size >= 0 else "?" for size in dims] for name, dims in GRAPH.items()
    }
    found = check_shapes(AtcOptions(**flags), graph if known else None)  # type: ignore[arg-type]
    errors = [rule.code for rule in found if rule.severity == "error"]
    return errors[0] if errors else ""


def inside(flags: dict[str, str], known: bool) -> str:
    try:
        request = read_shapes(flags)
        if known:
            match_inputs(request, GRAPH, set())
    except AtcFailure as failure:
        return failure.messages[0].code
    return ""


@settings(max_examples=1500, deadline=None)
@given(
    shapes(),
    st.dictionaries(
        st.sampled_from(["dynamic_batch_size", "dynamic_image_size", "dynamic_dims"]), GEARS,
        max_size=1,
    ),
    st.booleans(),
)  # fmt: skip
def test_shapes(text: str, gears: dict[str, str], known: bool) -> None:
    """Both accept or both refuse; of several faults they may name different ones."""
    flags = {"input_shape": text, **gears}
    mine, theirs = before(flags, known), inside(flags, known)
    assert bool(mine) == bool(theirs), (mine, theirs)


# Names of nodes are known after parsing only, and our options also take 1 for true.
_LATER = ("E10005", "E10006", "E10017", "E11016", "E11017")
_NODES = {"input_fp16_nodes", "out_nodes"}


def _ours(code: str, flags: dict[str, Any]) -> bool:
    """Tell whether the user can break this rule with --set at all."""
    settable = all(n in FIELD_NAMES and n not in DRIVER_FLAGS for n in flags)
    named = code == "E10016" and bool(_NODES & set(flags))
    return settable and None not in flags.values() and code not in _LATER and not named


@pytest.mark.parametrize(("code", "flags"), [case for case in FLAGS if _ours(*case)])
def test_what_the_stand_in_refuses_is_refused_before(code: str, flags: dict[str, Any]) -> None:
    known = {name: ["n", 2, "s", 16] for name in "qkv"}
    if flags.get("input_shape", "").startswith("x:"):
        known = {"x": [1, 3, "h", "w"]}
    given = {"input_shape": "q:1,2,8,16;k:1,2,8,16;v:1,2,8,16", **flags}
    context = rules.RuleContext(load_soc("Ascend310P3"), None, known)  # type: ignore[arg-type]
    said = ""
    try:
        options = apply_settings(AtcOptions(soc_version="Ascend310P3"), given.items())
        broken = [rule for rule in rules.check(options, context) if rule.severity == "error"]
        said = " ".join(rule.code for rule in broken)
    except UsageError as error:  # a value outside its set is refused while it is read
        said = error.message
    assert code in said


def test_both_sides_read_one_table_of_flags() -> None:
    assert {name for name, flag in TABLE.items() if flag.onnx} >= set(FIELD_NAMES)
