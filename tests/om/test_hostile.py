"""Files from anywhere: damaged, cut, absurd. One error each, no crash, no hang, bounded memory."""

from __future__ import annotations

import contextlib
import random
import re
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.om.conftest import inout, model_def, parts, whole

from omfuse.atc.om import layout
from omfuse.atc.om.attrs import AttrMap, NameTable
from omfuse.atc.om.inout import read_inout
from omfuse.atc.om.summary import describe_om
from omfuse.atc.om.tasks import read_tasks
from omfuse.atc.om.wire import MAX_FIELDS, Budget, WireError, fields, varint
from omfuse.atc.om.writer import Part
from omfuse.cli.app import run
from omfuse.errors import ModelError

Maker = Callable[..., Path]
WHOLE = whole()
OLD = whole(models=[parts(described=inout()), parts()], large=False)


def look(path: Path, data: bytes) -> bool:
    """Read; tell whether the file was accepted. Anything but ModelError is a defect."""
    path.write_bytes(data)
    try:
        describe_om(path)
    except ModelError:
        return False
    return True


@pytest.mark.parametrize("data", [WHOLE, OLD], ids=["large", "old"])
def test_every_truncation_is_noticed(tmp_path: Path, data: bytes) -> None:
    step = max(1, len(data) // 300)
    for size in {*range(0, len(data), step), *range(520), len(data) - 1} - {len(data)}:
        assert not look(tmp_path / "m.om", data[:size]), size
    assert look(tmp_path / "m.om", data)


def mutate(data: bytes, seed: int) -> bytes:
    """Change some bytes, numbers or pieces of a file."""
    chance, out = random.Random(seed), bytearray(data)
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(out))
        kind = chance.randrange(5)
        if kind == 0:
            out[at] = chance.randrange(256)
        elif kind == 1:
            out[at] ^= 1 << chance.randrange(8)
        elif kind == 2:
            number = chance.choice([0, 1, 0x7F, 0xFFFF, 2**31 - 1, 2**32 - 1, 2**63, 2**64 - 1])
            out[at : at + 8] = struct.pack("<Q", number)[: len(out[at : at + 8])]
        elif kind == 3:
            size = chance.randrange(40)
            out[at : at + size] = b"" if chance.random() < 0.5 else out[at : at + size] * 2
        else:
            source = chance.randrange(len(out))
            out[at : at + 16] = out[source : source + 16]
        if not out:
            return bytes(out)
    return bytes(out)


def survive(tmp_path: Path, seeds: range) -> int:
    tracemalloc.start()
    accepted = 0
    for seed in seeds:
        data = (WHOLE, OLD)[seed % 2]
        accepted += look(tmp_path / "m.om", mutate(data, seed))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 << 20
    return accepted


def test_mutated_files_give_an_error_or_a_description(tmp_path: Path) -> None:
    accepted = survive(tmp_path, range(400))
    assert 0 < accepted < 400, "the mutations must reach both ends"


def test_what_is_accepted_can_be_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.om"
    for seed in range(160):
        data = mutate((WHOLE, OLD)[seed % 2], seed)
        if look(path, data):
            for words in ([str(path)], [str(path), "--json"]):
                with pytest.raises(SystemExit) as ended:
                    run(["inspect", *words])
                assert ended.value.code == 0, seed
                shown = capsys.readouterr().out
                assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", shown), seed


def test_a_name_cannot_command_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = WHOLE.replace(b"model", b"\x1b[31m")
    assert data != WHOLE
    assert look(tmp_path / "m.om", data)
    with pytest.raises(SystemExit):
        run(["inspect", str(tmp_path / "m.om")])
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\\x1b[31m" in shown


@pytest.mark.slow
def test_thousands_of_mutated_files(tmp_path: Path) -> None:
    assert 0 < survive(tmp_path, range(1000, 9000)) < 8000


READERS = [
    lambda data: describe_ops(data),
    lambda data: read_tasks(data, Budget()),
    lambda data: read_inout(data, Budget()),
]


def describe_ops(data: memoryview) -> None:
    from omfuse.atc.om.model_def import ModelView

    view = ModelView(data, Budget())
    for op in view.ops():
        for tensor in (*op.input_desc, *op.output_desc):
            dict(tensor.attrs)
        dict(op.attrs)


@pytest.mark.parametrize("reader", READERS, ids=["model", "tasks", "inout"])
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(reader: Callable[[memoryview], object], data: bytes) -> None:
    with contextlib.suppress(WireError):
        reader(memoryview(data))


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(model_def().to_bytes()) - 1), st.integers(0, 255), st.booleans())
def test_one_changed_byte_of_a_model(at: int, value: int, compress: bool) -> None:
    data = bytearray(model_def().to_bytes(compress))
    data[at % len(data)] = value
    with contextlib.suppress(WireError):
        describe_ops(memoryview(bytes(data)))


# Absurd, but well-formed


def test_a_file_of_nothing_but_fields_meets_the_limit() -> None:
    budget = Budget(1000)
    with pytest.raises(WireError, match="more fields"):
        list(fields(memoryview(b"\x08\x00" * 1001), budget))
    assert MAX_FIELDS < 100_000_000


def test_deep_nesting_costs_no_recursion(tmp_path: Path) -> None:
    inner = b""
    for _ in range(5000):
        inner = varint(13 << 3 | 2) + varint(len(inner)) + inner  # AttrDef.g inside AttrDef
    entry = b"\x0a\x01a\x12" + varint(len(inner)) + inner
    model = b"\x0a\x01m\x5a" + varint(len(entry)) + entry
    data = whole(models=[[Part(layout.MODEL_DEF, [model])]])
    assert look(tmp_path / "m.om", data)


@pytest.mark.parametrize("count", [0xFFFFFFFF, 0x10000000, 100])
def test_counts_that_do_not_fit_are_refused(count: int) -> None:
    body = struct.pack("<I", count) + b"\0" * 32
    for kind in range(7):
        with pytest.raises(WireError):
            read_inout(memoryview(struct.pack("<II", kind, len(body)) + body), Budget())


def test_unknown_names_and_texts_of_compressed_attributes_are_refused() -> None:
    entry = memoryview(b"\x0a\x02\x00\x7f\x12\x02\x18\x01")
    with pytest.raises(WireError, match="not listed"):
        AttrMap([entry], NameTable(("a",), (), (False,)), Budget())
    attrs = AttrMap(
        [memoryview(b"\x0a\x02\x00\x01\x12\x02\x18\x05")],
        NameTable(("a",), ("x",), (True,)),
        Budget(),
    )
    with pytest.raises(WireError, match="not listed"):
        attrs["a"]


@pytest.mark.parametrize("count", [0, 4097, 2**32 - 1])
def test_absurd_partition_tables(tmp_path: Path, count: int) -> None:
    data = bytearray(WHOLE)
    struct.pack_into("<I", data, 256, count)
    assert not look(tmp_path / "m.om", bytes(data))


def test_a_partition_behind_the_file(tmp_path: Path) -> None:
    for place in (256 + 8 + 8, 256 + 8 + 16):  # offset and size of the first
        data = bytearray(WHOLE)
        struct.pack_into("<Q", data, place, 2**64 - 1)
        assert not look(tmp_path / "m.om", bytes(data))
