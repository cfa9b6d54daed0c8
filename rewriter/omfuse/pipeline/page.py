"""The summary page of a pipeline, one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib.util import find_spec
from typing import Any

from omfuse.html import cell, document, listed, table

_BOX, _GAP, _ROW = 14, 4, 60


def render(result: dict[str, Any]) -> str:
    """Return the page of an ``omfuse.pipeline/1`` document."""
    verdict = result["verdict"]
    rewritten = result["rewrite"]
    attention = rewritten["fused"] + rewritten["declined"]
    where = "a simulated device" if result["simulated"] else "Ascend"
    parts = [
        f"<h1>omfuse: <span class='{verdict}'>{verdict}</span></h1>",
        f"<p>{escape(result['model'])} on {where}; {rewritten['fused']} of {attention} attention "
        f"blocks fused, {rewritten['nodes_before']} nodes became {rewritten['nodes_after']}</p>",
    ]
    if result["simulated"]:
        parts.append(
            "<p>Simulated: these .om files run on no chip; no time here tells how fast one is.</p>"
        )
    if not result["required"]:
        parts.append("<p class='fail'>Fewer blocks are fused than required.</p>")
    parts += ["<h2>Targets</h2>", _targets(result["targets"]), _picture(result)]
    parts += ["<h2>Block map</h2>", _map(rewritten["softmaxes"] + rewritten["attention_nodes"])]
    parts += [_blocks(rewritten["softmaxes"] + rewritten["attention_nodes"])]
    parts += ["<h2>Fused model in onnxruntime</h2>", _comparison(result["host"])]
    for target in result["targets"]:
        parts += [f"<h2>{escape(target['soc'])}</h2>", _target(target)]
    parts += ["<h2>Files</h2>", listed([result["fused"], *_oms(result)])]
    return document(f"omfuse: {verdict}", parts)


def _oms(result: dict[str, Any]) -> list[str]:
    return [t["compile"]["output"] for t in result["targets"] if t["compile"]]


def _targets(targets: Sequence[dict[str, Any]]) -> str:
    rows = []
    for target in targets:
        made, judged = target["compile"], target["diff"]
        word = "pass" if target["passed"] else "fail"
        rows.append(
            [
                cell(target["soc"]),
                cell(word, word),
                cell(made["attention"] if made else None),
                cell(made["shape_kind"] if made else None),
                cell(made["seconds"] if made else None),
                cell(_worst(judged)),
                cell(target["error"]["message"] if target["error"] else None, "text"),
            ]
        )
    columns = ("chip", "verdict", "FlashAttention", "shapes", "compile s", "x limit", "error")
    return table(columns, rows)


def _worst(judged: dict[str, Any] | None) -> float | None:
    if judged is None:
        return None
    return max((float(output["ratio"]) for output in judged["outputs"]), default=0.0)


def _map(records: Sequence[dict[str, Any]]) -> str:
    """Draw one box a softmax in graph order; its title is what became of it."""
    boxes = []
    for index, record in enumerate(records):
        x, y = (index % _ROW) * (_BOX + _GAP), (index // _ROW) * (_BOX + _GAP)
        why = record["normal_form"] or record["reason"] or ""
        title = escape(f"{record['node']}: {record['status']}. {why}")
        boxes.append(
            f"<rect class='{record['status']}' x='{x}' y='{y}' width='{_BOX}' height='{_BOX}'>"
            f"<title>{title}</title></rect>"
        )
    width = min(len(records), _ROW) * (_BOX + _GAP)
    height = (max(len(records) - 1, 0) // _ROW + 1) * (_BOX + _GAP)
    picture = f"<svg width='{width}' height='{height}' role='img'>{''.join(boxes)}</svg>"
    legend = (
        "<p>One box a softmax, in the order of the graph: <span class='pass'>fused</span>, "
        "<span class='fail'>attention that was left</span>, grey is something else.</p>"
    )
    return legend + picture


def _blocks(records: Sequence[dict[str, Any]]) -> str:
    rows = []
    for record in records:
        kind = {"fused": "pass", "declined": "fail"}.get(record["status"], "")
        why = record["normal_form"]
        if why is None:
            why = ". ".join(text for text in (record["reason"], record["hint"]) if text)
        rows.append(
            [
                cell(record["node"]),
                cell(record["status"], kind),
                cell(why, "text"),
                cell(record["saved_nodes"]),
                cell(record["saved_bytes"]),
            ]
        )
    columns = ("softmax", "status", "what it is, or why not", "nodes saved", "bytes saved a run")
    return table(columns, rows)


def _comparison(judged: dict[str, Any]) -> str:
    rows = []
    for output in judged["outputs"]:
        rows.append(
            [
                cell(output["name"]),
                cell(output["verdict"], output["verdict"]),
                cell(output["max_abs"]),
                cell(output["rel_l2"]),
                cell(output["worst_row"]),
                cell(output["ratio"]),
            ]
        )
    head = f"<p>Held to {escape(judged['precision'])}, {len(judged['cases'])} sets of inputs."
    if judged.get("page"):
        head += f" <a href='{escape(judged['page'])}'>The whole comparison</a>."
    made = head + "</p>"
    made += table(("output", "verdict", "max abs", "rel L2", "worst row", "x limit"), rows)
    if judged["culprits"]:
        made += f"<p class='fail'>Wrong: {escape(', '.join(judged['culprits']))}</p>"
    return made + listed(judged["notes"]) + f"<pre>{escape(judged['replay'])}</pre>"


def _target(target: dict[str, Any]) -> str:
    parts = []
    if target["compile"]:
        made = target["compile"]
        parts += [f"<pre>{escape(made['command'])}</pre>"]
        parts += [listed([*made["notes"], *(f"warning: {text}" for text in made["warnings"])])]
    if target["diff"]:
        parts.append(_comparison(target["diff"]))
    if target["estimate"]:
        parts.append(_estimate(target["estimate"]))
    if target["error"]:
        error = target["error"]
        hint = error.get("hint")
        parts.append(f"<p class='fail'>{escape(error['message'])} [{escape(error['code'])}]</p>")
        parts.append(f"<p>Fix: {escape(hint)}</p>" if hint else "")
    return "".join(parts)


def _estimate(found: Sequence[dict[str, Any]]) -> str:
    rows = []
    for row in found:
        notes = [name for name in ("causal", "masked") if row[name]]
        rows.append(
            [
                cell(", ".join(str(size) for size in row["case"])),
                cell(", ".join(notes) or "-"),
                cell(row["blocks"]),
                cell(row["unfused"] * 1e6),
                cell(row["fused"] * 1e6),
                cell(row["unfused"] / row["fused"]),
            ]
        )
    head = (
        "<p>Estimated time of one block: equations of the chip's numbers, not measured; unfused "
        "may be off by 50 %, fused by 35 %. <code>omfuse op estimate</code> tells more.</p>"
    )
    columns = ("B, N, Sq, Skv, D", "", "blocks", "unfused us", "fused us", "ratio")
    return head + table(columns, rows)


def _picture(result: dict[str, Any]) -> str:
    """Draw how near every output is to its limit; nothing without the plotting library."""
    sides = [("fused .onnx", result["host"])]
    sides += [(t["soc"], t["diff"]) for t in result["targets"] if t["diff"]]
    if find_spec("matplotlib") is None:
        return ""
    from omfuse.diff import pictures

    ratios = {name: {o["name"]: float(o["ratio"]) for o in d["outputs"]} for name, d in sides}
    uri = pictures.as_data_uri(pictures.distance_to_limit(ratios))
    return f"<figure><img alt='Errors against their limits' src='{uri}'></figure>"
