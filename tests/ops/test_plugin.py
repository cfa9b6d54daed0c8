"""The plugin's reading of a node, compiled as C++11 and fed what ATC's parser writes."""

import ctypes
import json
import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from tests.ops.form_node import form_node
from tests.ops.native_code import shared_library

from omfuse.ops.package import SOURCES

PLUGIN = SOURCES / "framework/onnx_plugin"
MAIN = """
#include <sstream>
#include "framework/onnx_plugin/flash_attention_settings.h"
extern "C" int read_node(const char* json, char* out, unsigned size) {
  omfuse::OperatorSettings found;
  std::string why;
  std::ostringstream text;
  const bool ok = omfuse::ReadNode(json, &found, &why);
  text.precision(9);
  for (const auto& e : found.integers) text << e.first << "=" << e.second << "\\n";
  for (const auto& e : found.floats) text << e.first << "=" << e.second << "\\n";
  for (const auto& e : found.names) text << e.first << "=" << e.second << "\\n";
  const std::string said = ok ? text.str() : why;
  out[said.copy(out, size - 1)] = 0;
  return ok;
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    sources = [PLUGIN / "flash_attention_settings.cc", PLUGIN / "node_attributes.cc"]
    made = shared_library(tmp_path_factory.mktemp("plugin"), "plugin", MAIN, sources)
    return ctypes.CDLL(str(made))


def read(library: ctypes.CDLL, text: str) -> tuple[bool, str]:
    out = ctypes.create_string_buffer(4096)
    ok = library.read_node(text.encode(), out, len(out))
    return bool(ok), out.value.decode()


def as_parser(node: onnx.NodeProto) -> str:
    """Write the attributes as ATC's parser does: %g floats, no zeros, floats of a list in full."""
    entries = []
    for attribute in node.attribute:
        entry: dict[str, object] = {"name": attribute.name, "type": int(attribute.type)}
        if attribute.type == onnx.AttributeProto.INT and attribute.i:
            entry["i"] = attribute.i
        elif attribute.type == onnx.AttributeProto.FLOAT and attribute.f:
            entry["f"] = f"{attribute.f:g}"
        elif attribute.type == onnx.AttributeProto.STRING and attribute.s:
            entry["s"] = attribute.s.decode()
        elif attribute.type == onnx.AttributeProto.FLOATS:
            entry["floats"] = [float(np.float32(x)) for x in attribute.floats]
        entries.append(entry)
    return json.dumps({"attribute": entries})


def values(text: str) -> dict[str, str]:
    return dict(line.split("=") for line in text.splitlines())


def changed(**changes: object) -> str:
    """Return our node with attributes replaced, or left out where None."""
    node = form_node()
    kept = [a for a in node.attribute if a.name not in changes]
    del node.attribute[:]
    node.attribute.extend(kept)
    node.attribute.extend(helper.make_attribute(k, v) for k, v in changes.items() if v is not None)
    return as_parser(node)


def test_the_form_is_read_whole(library: ctypes.CDLL) -> None:
    ok, said = read(library, as_parser(form_node()))
    assert ok, said
    found = values(said)
    assert found["num_heads"] == "4"
    assert found["num_kv_heads"] == "2"
    assert found["causal"] == "top_left"
    assert found["window_left"] == "-1"
    assert found["with_lse"] == "0"
    assert len(found) == 12


def test_scale_and_softcap_keep_their_digits(library: ctypes.CDLL) -> None:
    found = values(read(library, as_parser(form_node()))[1])
    assert np.float32(found["scale"]) == np.float32(0.1234567)
    assert np.float32(found["softcap"]) == np.float32(7.654321)
    assert np.float32(f"{0.1234567:g}") != np.float32(0.1234567)  # what the scalar would give


def test_a_zero_that_the_parser_leaves_out_is_zero(library: ctypes.CDLL) -> None:
    ok, said = read(library, changed(window_left=0, window_right=0))
    assert ok, said
    assert values(said)["window_left"] == "0"
    assert values(said)["window_right"] == "0"


def test_lse_is_passed_on(library: ctypes.CDLL) -> None:
    assert values(read(library, as_parser(form_node(2)))[1])["with_lse"] == "1"


def test_out_layout_defaults_to_layout(library: ctypes.CDLL) -> None:
    found = values(read(library, changed(layout="BSH", out_layout=None))[1])
    assert (found["layout"], found["out_layout"]) == ("BSH", "BSH")


@pytest.mark.parametrize("name", ["num_heads", "scale_value"])
def test_a_missing_attribute_is_named_with_a_fix(library: ctypes.CDLL, name: str) -> None:
    ok, said = read(library, changed(**{name: None}))
    assert not ok
    assert name in said
    assert "omfuse compile" in said


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("layout", "NBSD"),
        ("causal", "bottom"),
        ("masked_rows", "zeros"),
        ("inner_precision", "bf16"),
        ("num_heads", 5),
        ("window_left", -2),
        ("scale_value", [math.inf, 0.0]),
        ("scale_value", [1.0, -1.0]),
        ("scale_value", [1.0, 2.0, 3.0]),
    ],
)
def test_a_value_outside_the_contract_is_refused(
    library: ctypes.CDLL, name: str, value: object
) -> None:
    ok, said = read(library, changed(**{name: value}))
    assert not ok
    assert said


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"attribute": [{}]}', '{"attribute": [{"name": "num_heads", "i": "x"}]}',
     '{"attribute": [{"name": "a"}]} x', '{"attribute": [1,]}', '{"a": "\\', "[" * 5000],
)  # fmt: skip
def test_damaged_text_is_refused(library: ctypes.CDLL, text: str) -> None:
    ok, said = read(library, text)
    assert not ok
    assert said


def test_escapes_and_unknown_attributes_do_no_harm(library: ctypes.CDLL) -> None:
    document = json.loads(as_parser(form_node()))
    document["attribute"].append({"name": 'odd "name" \u00e9\n', "s": "\\351\\n", "ints": [1, 2]})
    document["input"] = ["q", {"deep": [True, None]}]
    ok, said = read(library, json.dumps(document))
    assert ok, said


def test_every_prefix_of_a_node_is_refused_or_read(library: ctypes.CDLL, tmp_path: Path) -> None:
    text = as_parser(form_node())
    for length in range(len(text)):
        ok, _ = read(library, text[:length])
        assert not ok
