"""Operator definition, plugin, ATC form and contract say the same, read from their texts."""

import dataclasses
import re

from tests.ops.form_node import form_node

from omfuse.fuse import contract
from omfuse.ops import check
from omfuse.ops.package import PRESETS, SOURCES

DEFINITION = (SOURCES / "op_host/flash_attention.cc").read_text("utf-8")
OPERANDS = (SOURCES / "op_host/operands.h").read_text("utf-8")
READER = (SOURCES / "op_host/operands.cc").read_text("utf-8")
PLUGIN = (SOURCES / "framework/onnx_plugin/flash_attention_plugin.cc").read_text("utf-8")
SETTINGS = (SOURCES / "framework/onnx_plugin/flash_attention_settings.cc").read_text("utf-8")
KERNEL = (SOURCES / "op_kernel/flash_attention.cpp").read_text("utf-8")
ATTRIBUTES = [f.name for f in dataclasses.fields(contract.FlashAttentionAttrs)]


def enum(text: str, name: str) -> list[str]:
    """Return the members of a C++ enum in snake case, without their leading k."""
    body = re.search(rf"enum {name} {{([^}}]*)}}", text)
    assert body is not None
    members = re.findall(r"\bk([A-Za-z]+)", body[1])
    return [re.sub(r"(?<!^)(?=[A-Z])", "_", member).lower() for member in members]


def snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def test_inputs_and_outputs_have_the_order_of_the_contract() -> None:
    found = re.findall(r'\{"(\w+)", (?:REQUIRED|OPTIONAL), &', DEFINITION)
    assert found == [*contract.INPUTS, *contract.OUTPUTS]
    assert enum(OPERANDS, "Input")[:-1] == list(contract.INPUTS)
    assert enum(OPERANDS, "Output") == list(contract.OUTPUTS)
    arguments = re.search(r"void flash_attention\(([^)]*)\)", KERNEL)
    assert arguments is not None
    names = re.findall(r"GM_ADDR\s+(\w+)", arguments[1])
    assert names == [*contract.INPUTS, *contract.OUTPUTS, "workspace", "tiling"]


def test_only_query_key_and_value_are_required() -> None:
    kinds = dict(re.findall(r'\{"(\w+)", (REQUIRED|OPTIONAL), &', DEFINITION))
    required = [name for name in contract.INPUTS if kinds[name] == "REQUIRED"]
    assert required == ["query", "key", "value"]


def test_attributes_have_the_order_of_the_contract() -> None:
    declared = re.findall(r'Attr\("(\w+)"\)', DEFINITION)
    assert declared == [*ATTRIBUTES, "with_lse"]
    assert enum(OPERANDS, "Attribute") == declared
    read = re.findall(r'read\.\w+(?:<\w+>)?\(k(\w+), "(\w+)"', READER)
    assert sorted(name for _, name in read) == sorted(declared)
    assert all(snake(place) == name for place, name in read)


def test_defaults_are_those_of_the_contract() -> None:
    attrs = contract.FlashAttentionAttrs(1, 1, 1.0).as_dict()
    line = r'Attr\("(\w+)"\)\.AttrType\(OPTIONAL\)\.(?:Int|Float|String)\(([^)]*)\)'
    defaults = dict(re.findall(line, DEFINITION))
    assert defaults.pop("with_lse") == "0"
    for name, text in defaults.items():
        value = text.strip('"').removesuffix("f")
        assert value == attrs[name] or float(value) == attrs[name], name


def test_names_have_the_codes_of_the_contract() -> None:
    lists = {
        "kLayouts": contract.LAYOUTS,
        "kCausals": contract.CAUSAL,
        "kRows": contract.MASKED_ROWS,
        "kPrecisions": contract.INNER_PRECISION,
    }
    for name, wanted in lists.items():
        body = re.search(rf"{name}\[\] = {{([^}}]*)}}", READER)
        assert body is not None
        assert tuple(re.findall(r'"(\w+)"', body[1])) == wanted
    plan = (SOURCES / "op_host/tiling_plan.h").read_text("utf-8")
    tiling = (SOURCES / "op_kernel/flash_attention_tiling.h").read_text("utf-8")
    assert tuple(n.upper() for n in enum(plan, "Layout")) == contract.LAYOUTS
    assert [n.removeprefix("causal_") for n in enum(tiling, "Causal")] == list(contract.CAUSAL)
    assert [n.removeprefix("rows_") for n in enum(tiling, "MaskedRows")] == list(
        contract.MASKED_ROWS
    )


def test_plugin_sets_every_attribute_of_the_operator() -> None:
    declared = re.findall(r'Attr\("(\w+)"\)', DEFINITION)
    named = set(re.findall(r'"([a-z_]+)"', SETTINGS))
    assert set(declared) <= named
    table = re.search(r"kNames\[\] = {(.*?)\n};", SETTINGS, re.S)
    assert table is not None
    allowed = {
        name: tuple(dict.fromkeys(re.findall(r'"(\w+)"', values)))
        for name, values in re.findall(r'{"(\w+)",[^{]*{([^}]*)}}', table[1])
    }
    assert allowed["causal"] == contract.CAUSAL
    assert allowed["masked_rows"] == contract.MASKED_ROWS
    assert allowed["layout"] == allowed["out_layout"] == contract.LAYOUTS
    assert allowed["inner_precision"] == contract.INNER_PRECISION


def test_plugin_reads_what_the_form_writes() -> None:
    written = {a.name for a in form_node().attribute}
    assert written == {*ATTRIBUTES, "scale_value"}
    assert {a.name for a in form_node(2).attribute} == {*written, "with_lse"}
    read = set(re.findall(r'(?:Find\(|^    {)"([a-z_]+)"', SETTINGS, re.M))
    # The rounded scalars are there for people; the exact ones are read.
    assert read == {*written, "with_lse"} - {"scale", "softcap"}
    node = form_node()
    assert (node.domain, node.op_type) == ("", contract.OP_TYPE)


def test_plugin_lists_the_span_of_keys() -> None:
    versions = [int(n) for n in re.findall(r"OMFUSE_KEY\((\d+)\)", PLUGIN)]
    assert versions == list(check.OPSETS)
    assert f'"ai.onnx::" #version "::{contract.OP_TYPE}"' in PLUGIN
    assert f'"{contract.DOMAIN}::{contract.DOMAIN_VERSION}::{contract.OP_TYPE}"' in PLUGIN
    assert f'REGISTER_CUSTOM_OP("{contract.OP_TYPE}")' in PLUGIN
    assert f"OP_ADD({contract.OP_TYPE})" in DEFINITION


def test_presets_are_the_chips_of_the_definition() -> None:
    assert sorted(re.findall(r'AddConfig\("(\w+)"', DEFINITION)) == sorted(PRESETS)


def test_host_and_plugin_stay_cpp11() -> None:
    """CANN 8 compiles them with -std=c++11; what newer standards brought must not slip in."""
    newer = (
        r"std::(make_unique|optional|string_view|variant|any|filesystem|clamp)\b"
        r"|\bif constexpr\b|\binline constexpr\b|\bauto \[|\bnamespace \w+::\w+|\[\[maybe_unused"
        r"|\bdecltype\(auto\)|\[[^\]]*\]\(auto\b|\d'\d"
    )
    folders = [SOURCES / "op_host", SOURCES / "framework/onnx_plugin"]
    files = [p for folder in folders for p in folder.iterdir() if p.suffix in (".cc", ".h")]
    assert len(files) >= 10
    for path in [*files, SOURCES / "op_kernel/flash_attention_tiling.h"]:
        match = re.search(newer, path.read_text("utf-8"))
        assert match is None, f"{path.name}: {match and match[0]}"
