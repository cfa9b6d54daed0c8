from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.om.conftest import ELF, FLASH, attention_op, cli, inout, model_def, parts, whole

from omfuse.atc.om import layout, wire
from omfuse.atc.om.attrs import AttrMap, NameTable, encode_index, read_value, write_value
from omfuse.atc.om.inout import InOut, TensorInfo
from omfuse.atc.om.layout import Header, OmFile
from omfuse.atc.om.model_def import GraphDef, ModelDef, ModelView, OpDef
from omfuse.atc.om.summary import describe_om
from omfuse.atc.om.tasks import Task, read_tasks
from omfuse.atc.om.wire import Budget
from omfuse.atc.om.writer import Part, write_om
from omfuse.errors import ModelError

Maker = Callable[..., Path]


@pytest.mark.parametrize("large", [True, False])
@pytest.mark.parametrize("compress", [True, False])
def test_what_was_written_is_read(om: Maker, large: bool, compress: bool) -> None:
    path = om(models=[parts(described=inout(), compress=compress)], large=large)
    found = describe_om(path)
    assert (found["name"], found["soc"]) == ("m", "Ascend310P3")
    assert (found["cann"], found["atc_version"]) == ("8.1.RC1", "7.7.0.1.238")
    assert found["command"] == "atc.bin --model=a.onnx --framework=5"
    assert found["compressed_names"] is compress
    assert found["operators"] == {"Data": 1, "Const": 1, "FlashAttention": 1, "NetOutput": 1}
    assert found["memory"]["work_bytes"] == 4096
    assert found["tasks"] == {"KERNEL": 1, "MODEL_END_GRAPH": 1}
    assert found["kernels"] == {"count": 1, "bytes": len(ELF), "machines": {"AI Core": 1}}
    assert [p["name"] for p in found["partitions"]] == [
        "MODEL_INOUT_INFO", "MODEL_DEF", "WEIGHTS_DATA", "TBE_KERNELS", "TASK_INFO",
    ]  # fmt: skip
    (tensor,) = found["inputs"]
    assert (tensor["name"], tensor["dtype"], tensor["shape"]) == ("q", "float32", [1, 2, -1, 8])
    assert tensor["ranges"] == [[1, 1], [2, 2], [1, 64], [8, 8]]
    assert found["outputs"][0]["name"] == f"{FLASH}:0:y"
    (block,) = found["attention"]
    assert block["origin"] == [FLASH]
    assert (block["kernel"], block["kernel_stored"]) == ("te_flash__kernel", True)
    assert (block["task"], block["block_dim"], block["custom"]) == (0, 8, True)
    assert block["inputs"][0] == ["float16", [1, 2, 16, 8]]
    assert block["complete"] is True


def test_attributes_of_every_kind_come_back() -> None:
    values = {
        "text": "späti", "no text": "", "whole": -3, "zero": 0, "real": 0.5, "yes": True,
        "no": False, "raw": b"\0\xff", "texts": ["a", ""], "wholes": [1, -1, 2**62],
        "reals": [0.25, -1.5], "flags": [True, False],
    }  # fmt: skip
    op = attention_op(2, **values)
    for compress in (True, False):
        data = ModelDef("m", (GraphDef("g", (op,)),)).to_bytes(compress)
        view = ModelView(memoryview(data), Budget())
        (read,) = view.ops()
        assert {name: read.attrs[name] for name in values} == values
        assert dict(read.input_desc[0].attrs) == {"origin_format": "ND"}
        assert (b"no text" in data) == True  # noqa: E712 - listed once either way
        assert data.count(b"origin_format") == (1 if compress else 4)


@pytest.mark.parametrize(
    ("index", "key"),
    [
        (0, b"\0\x01"), (1, b"\0\x02"), (126, b"\0\x7f"), (127, b"\0\x01\x02"),
        (128, b"\0\x02\x02"), (127 * 127, b"\0\x01\x01\x02"),
    ],
)  # fmt: skip
def test_numbers_of_names_have_the_digits_of_graph_engine(index: int, key: bytes) -> None:
    assert encode_index(index) == key


def test_many_names_survive_two_digits(om: Maker) -> None:
    extra = {f"attribute_{i}": i for i in range(300)}
    model = model_def([attention_op(2, **extra)])
    view = ModelView(memoryview(model.to_bytes()), Budget())
    op = next(o for o in view.ops() if o.name == FLASH)
    assert [op.attrs[name] for name in extra] == list(range(300))


def test_names_compressed_twice_are_found_in_the_outer_model() -> None:
    outer = ModelView(memoryview(model_def().to_bytes()), Budget())
    keys = list(outer.names.names)
    inner_table = [encode_index(i).decode() for i in range(len(keys))]
    op = GraphDef("g", (attention_op(2, **{encode_index(keys.index("index")).decode(): 7}),))
    data = ModelDef("sub", (op,)).to_bytes()
    view = ModelView(memoryview(data), Budget(), outer.names)
    assert inner_table[0].startswith("\0")
    (read,) = view.ops()
    assert read.attrs["index"] == 7


# What can be wrong with an attention


@pytest.mark.parametrize(
    ("changes", "stored", "task"),
    [
        ({"kernels": ()}, False, 0),
        ({"kernels": (("te_flash__kernel0x", ELF),)}, False, 0),
        ({"tasks": (Task(19),)}, True, None),
        ({"tasks": (Task(0, 1, "te_flash__kernel"),)}, True, None),
    ],
)
def test_a_missing_kernel_or_task_is_shown(
    om: Maker, changes: dict[str, object], stored: bool, task: int | None,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = om(models=[parts(**changes)])  # type: ignore[arg-type]
    (block,) = describe_om(path)["attention"]
    assert (block["kernel_stored"], block["task"]) == (stored, task)
    assert block["complete"] is False
    assert cli("inspect", path) == 0
    assert " NO " in capsys.readouterr().out


def test_copies_for_gears_are_one_attention(om: Maker) -> None:
    names = [f"_ascend_mbatch_batch_{i}" for i in range(3)]
    more = [GraphDef(n, (attention_op(10 + i, n),)) for i, n in enumerate(names)]
    tasks = [Task(0, 10 + i, "te_flash__kernel") for i in range(3)]
    described = InOut(
        [TensorInfo("q", 0, 2, (-1, 4)), TensorInfo("ascend_mbatch_shape_data", 3, 2, (4,), 16)],
        [TensorInfo("y", 0, 2, (-1, 4))], [1, 2, 4], order=["q"],
        output_shapes=["0,0,1,4", "1,0,2,4", "2,0,4,4"],
    )  # fmt: skip
    found = describe_om(om(models=[parts(model_def([], more), tasks, described=described)]))
    (block,) = found["attention"]
    assert (block["copies"], block["complete"]) == (3, True)
    assert found["gears"]["kind"] == "batch"
    assert found["gears"]["values"] == [[1], [2], [4]]
    assert [t["name"] for t in found["inputs"]] == ["q"], "the hidden input is not the user's"
    assert found["operators"]["FlashAttention"] == 3
    missing = parts(model_def([], more), tasks[:2], described=described)
    assert describe_om(om(models=[missing]))["attention"][0]["complete"] is False


@pytest.mark.parametrize("kind", ["image", "dims"])
def test_gears_of_other_kinds(om: Maker, kind: str) -> None:
    described = inout()
    setattr(described, f"{kind}_gears", [(224, 224), (448, 320)])
    gears = describe_om(om(models=[parts(described=described)]))["gears"]
    assert (gears["kind"], gears["values"]) == (kind, [[224, 224], [448, 320]])


def test_inputs_come_from_the_graph_when_nothing_else_tells(om: Maker) -> None:
    found = describe_om(om(models=[parts()]))
    assert found["inputs"] == [
        {"name": "q", "dtype": "float32", "shape": [1, 2, 16, 8], "format": "ND", "bytes": 1024}
    ]
    assert found["outputs"][0]["name"] == f"{FLASH}:0:y"


def test_several_models_in_one_file(om: Maker) -> None:
    found = describe_om(om(models=[parts(model_def([])), parts(), parts()], unknown_shape=True))
    assert (found["models"], found["unknown_shape"]) == (3, True)
    assert found["kernels"]["count"] == 3
    assert found["attention"][0]["copies"] == 2


def test_libraries_of_dynamic_models(om: Maker) -> None:
    body = b"".join(
        struct.pack("<IHHII", 1, len(n), 0, len(v), 4) + n + v + b"\x7fELF"
        for n, v in ((b"libtiling.so", b"cust"), (b"libproto.so", b""))
    )
    chosen = [*parts(), Part(layout.SO_BINS, [struct.pack("<I", 2) + body])]
    assert describe_om(om(models=[chosen]))["libraries"] == ["cust/libtiling.so", "libproto.so"]


def test_the_header_keeps_its_places() -> None:
    raw = Header(77, "name", user_info=b"mark", unknown_shape=True, models=3).to_bytes()
    assert len(raw) == 256
    assert raw[:4] == b"IMOD"
    assert raw[84:88] == b"name"
    assert raw[120:124] == b"mark"
    assert struct.unpack_from("<I", raw, 156) == (3,)
    assert struct.unpack_from("<Q", raw, 184) == (77,)
    assert raw[193] == 1
    assert struct.unpack_from("<I", Header(77, large=False).to_bytes(), 76) == (77,)


def test_writing_is_whole_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.om"
    path.write_bytes(b"old")
    with pytest.raises(TypeError):
        write_om(path, Header(0, "x"), [[Part(0, [b"a", "b"])]])  # type: ignore[list-item]
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.om"]


# Files that are refused


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "not-om"),
        (b"IMOD" + b"\0" * 12, "not-om"),
        (b"\0" * 400, "not-om"),
        (b"version https://git-lfs.github.com/spec/v1\n" + b"x" * 300, "not-om"),
        (b"PK\x03\x04" + b"\0" * 300, "om2"),
        (whole(encrypted=True), "om-encrypted"),
        (whole()[:-1], "om-truncated"),
        (whole(models=[[Part(layout.WEIGHTS_DATA, [b"w"])]]), "om-damaged"),
        (whole(models=[[Part(layout.MODEL_DEF, [b"\x0a\x05ab"])]]), "om-damaged"),
    ],
)
def test_no_om_gets_one_clear_error(
    om: Maker, data: bytes, code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = om(data)
    with pytest.raises(ModelError) as caught:
        describe_om(path)
    assert caught.value.code == code
    assert caught.value.where == str(path)
    assert caught.value.hint
    assert cli("inspect", path) == 2
    assert f"error[{code}]" in capsys.readouterr().err


def test_an_om_of_another_name_is_known_by_its_first_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(whole())
    assert cli("inspect", path, "--json") == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "om"


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        OmFile(tmp_path / "no.om")
    assert caught.value.code == "no-model"


def test_inspect_prints_one_json_object(om: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("inspect", om(), "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "omfuse.inspect/1"
    assert document["kind"] == "om"
    assert document["attention"][0]["complete"] is True


def test_inspect_for_people(om: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("inspect", om()) == 0
    text = capsys.readouterr().out
    for part in ("Ascend310P3", "8.1.RC1", "atc.bin --model", "dim 2: 1~64", FLASH, "te_flash"):
        assert part in text
    assert "SIMULATED" not in text
    assert cli("inspect", om(whole(user_info=b"omfuse-simulated"))) == 0
    assert "SIMULATED" in capsys.readouterr().out


def field(number: int, body: bytes) -> bytes:
    return wire.put_bytes(number, body)


def test_values_that_only_graph_engine_writes() -> None:
    """Lists of lists, expressions, nested messages: read, never written here."""
    row = field(1, wire.put_ints(1, [2, -1]))
    floats = field(1, field(1, struct.pack("<2f", 0.5, -2)))
    values = {
        "rows": (field(14, row + row), [[2, -1], [2, -1]]),
        "reals": (field(16, floats), [[0.5, -2.0]]),
        "formula": (field(17, b"s0 + 1"), "s0 + 1"),
        "dtype": (wire.put_some_int(15, 9), 9),
        "dtypes": (field(1, wire.put_ints(12, [1, 9]) + wire.put_int(20, 10)), [1, 9]),
        "bytes": (field(1, field(7, b"a") + field(7, b"") + wire.put_int(20, 5)), [b"a", b""]),
        "unpacked": (field(1, wire.put_some_int(3, 4) + wire.put_some_int(3, 5)), [4, 5]),
    }
    entries = [
        memoryview(field(1, name.encode()) + field(2, raw)) for name, (raw, _) in values.items()
    ]
    attrs = AttrMap(entries, NameTable(), Budget())
    assert dict(attrs) == {name: value for name, (_, value) in values.items()}
    for number, kind in ((10, "attributes"), (11, "tensor description"), (12, "tensor")):
        message = read_value(memoryview(field(number, b"x")), Budget())
        assert (message.kind, bytes(message.data)) == (kind, b"x")
        assert write_value(message) == field(number, b"x")
    several = read_value(memoryview(field(1, field(9, b"t") + wire.put_int(20, 7))), Budget())
    assert [item.kind for item in several] == ["tensor"]


@pytest.mark.parametrize(("member", "place"), [(21, 4), (25, 8), (31, 6), (39, 1)])
def test_tasks_of_other_kinds_name_their_operator(member: int, place: int) -> None:
    body = wire.put_int(2, 13) + field(member, wire.put_int(place, 7))
    (task,) = read_tasks(memoryview(field(10, body)), Budget()).tasks
    assert (task.type_name, task.op_index) == ("MEMCPY_ASYNC", 7)


def test_an_empty_member_does_not_hide_the_kernel() -> None:
    """Files of CANN 8.0 carry a second member beside the kernel of a task, often empty."""
    kernel = field(20, field(1, wire.put_int(4, 3)) + wire.put_text(17, "k"))
    for more in (field(40, b""), field(40, field(18, b"\x20\x01"))):
        (task,) = read_tasks(memoryview(field(10, kernel + more)), Budget()).tasks
        assert (task.op_index, task.kernel) == (3, "k")
    handle = field(40, field(1, wire.put_int(4, 5)) + wire.put_int(12, 8) + wire.put_text(16, "h"))
    (task,) = read_tasks(memoryview(field(10, handle)), Budget()).tasks
    assert (task.op_index, task.kernel, task.block_dim) == (5, "h", 8)


def test_a_bundle_shows_its_parts(om: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    data = bytearray(whole(models=[[Part(layout.BUNDLE_MODEL_VAR_INFO, [b"\0" * 64])]]))
    data[82] = 5
    assert describe_om(om(bytes(data)))["model_type"] == "bundle"
    assert cli("inspect", om(bytes(data))) == 0
    assert "BUNDLE_MODEL_VAR_INFO" in capsys.readouterr().out


def test_gears_and_libraries_for_people(om: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    described = inout()
    described.dims_gears = [(n, 2 * n) for n in range(1, 12)]
    described.order = ["q", "k"]
    library = struct.pack("<IIHHII", 1, 1, 5, 0, 0, 4) + b"lib.s" + b"\x7fELF"
    chosen = [*parts(described=described), Part(layout.SO_BINS, [library])]
    cli("inspect", om(models=[chosen]))
    text = capsys.readouterr().out
    assert "dims: 1,2; 2,4;" in text
    assert "and 3 more in the order of q, k" in text
    assert "lib.s" in text
    cli("inspect", om(models=[parts(model_def([]))]))
    assert "no FlashAttention" in capsys.readouterr().out


@pytest.mark.parametrize(
    "body",
    [
        struct.pack("<I", 9),
        struct.pack("<IIHHII", 2, 1, 0, 0, 0, 16) + b"\0" * 16,
        struct.pack("<IIHHII", 1, 1, 5, 0, 0, 4000) + b"lib.s" + b"\0" * 20,
    ],
)
def test_damaged_lists_of_libraries(om: Maker, body: bytes) -> None:
    with pytest.raises(ModelError) as caught:
        describe_om(om(models=[[*parts(), Part(layout.SO_BINS, [body])]]))
    assert caught.value.code in ("om-damaged", "om-truncated")


SCALARS = st.one_of(
    st.text(max_size=8), st.integers(-(2**63), 2**63 - 1), st.booleans(), st.floats(width=32),
    st.binary(max_size=8),
)  # fmt: skip
LISTS = st.one_of(
    st.lists(st.text(max_size=5), max_size=4),
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4),
    st.lists(st.booleans(), max_size=4),
    st.lists(st.floats(width=32), max_size=4),
)
ATTRS = st.dictionaries(st.sampled_from("abcdef"), st.one_of(SCALARS, LISTS), max_size=6)


def same(left: object, right: object) -> bool:
    """Equal, with nan equal to itself."""
    return repr(left) == repr(right)


@settings(deadline=None)
@given(st.lists(ATTRS, max_size=4), st.booleans())
def test_any_attributes_survive(every: list[dict[str, Any]], compress: bool) -> None:
    """Also when one name stands for a text here and for a number there."""
    ops = tuple(OpDef(f"op{i}", "T", (), i, attrs=attrs) for i, attrs in enumerate(every))
    data = ModelDef("m", (GraphDef("g", ops),)).to_bytes(compress)
    view = ModelView(memoryview(data), Budget())
    assert [op.name for op in view.ops()] == [op.name for op in ops]
    for op, attrs in zip(view.ops(), every, strict=True):
        assert same({name: op.attrs[name] for name in attrs}, attrs)
        assert set(op.attrs) == set(attrs)
