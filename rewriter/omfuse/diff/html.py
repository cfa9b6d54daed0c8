"""One self-contained HTML file: verdict, tables, pictures, and how to repeat it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from omfuse.errors import NotAvailableError, OutputError

if TYPE_CHECKING:
    from omfuse.diff.compare import DiffReport

_STYLE = """
:root{color-scheme:light dark;--line:#8884;--good:#2a7f4f;--bad:#c1121f;--odd:#b26a00}
body{font:15px/1.5 system-ui,sans-serif;max-width:1180px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin:0 0 .2rem}h2{font-size:1.1rem;margin:2rem 0 .5rem}
table{border-collapse:collapse;width:100%}th,td{padding:.3rem .6rem;text-align:right;
border-bottom:1px solid var(--line);overflow-wrap:anywhere}
th:first-child,td:first-child,td.text{text-align:left}
th{font-weight:600}.scroll{overflow-x:auto}
.pass{color:var(--good);font-weight:600}.fail{color:var(--bad);font-weight:600}
.unsupported{color:var(--odd);font-weight:600}
pre{padding:.7rem;border:1px solid var(--line);border-radius:6px;white-space:pre-wrap;
overflow-wrap:anywhere}img{max-width:100%;height:auto;background:#fff}
figure{margin:0}.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(480px,1fr));gap:1rem}
"""


def require_plotting() -> None:
    """Refuse early when the plotting library is missing.

    Raises:
        NotAvailableError: ``no-matplotlib``.
    """
    if find_spec("matplotlib") is None:
        raise NotAvailableError(
            "no-matplotlib",
            "the HTML report draws its pictures with matplotlib",
            hint="pip install 'omfuse[report]'",
        )


def write(report: DiffReport, path: str | Path) -> None:
    """Write the report; the file is whole or absent.

    Raises:
        NotAvailableError: ``no-matplotlib``.
        OutputError: ``cannot-write``.
    """
    require_plotting()
    target, text = Path(path), render(report)
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, suffix=".html")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).replace(target)
    except OSError as error:
        raise OutputError(
            "cannot-write", str(error), str(target), "choose another place"
        ) from error


def render(report: DiffReport) -> str:
    """Return the page."""
    simulated = " (simulated)" if report.device == "sim" else ""
    parts = [
        f"<h1>omfuse diff: <span class='{report.verdict}'>{report.verdict}</span></h1>",
        f"<p>{escape(report.b)} on {report.device}{simulated} against {escape(report.a)}, held to "
        f"{report.precision}; {len(report.cases)} sets of inputs</p>",
    ]
    if report.culprits:
        parts.append(f"<p class='fail'>Wrong: {escape(', '.join(report.culprits))}</p>")
    parts += [_outputs(report), _reasons(report), _blocks(report), _cases(report)]
    parts.append(_pictures(report))
    if report.notes:
        items = "".join(f"<li>{escape(note)}</li>" for note in report.notes)
        parts.append(f"<h2>Notes</h2><ul>{items}</ul>")
    if report.reproducer:
        parts.append(f"<h2>The block alone</h2><pre>{escape(report.reproducer)}</pre>")
    parts.append(f"<h2>Repeat it</h2><pre id='replay'>{escape(report.replay)}</pre>")
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width,initial-scale=1'>"
        f"<title>omfuse diff: {report.verdict}</title><style>{_STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>"
    )


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f"<th>{escape(c)}</th>" for c in columns)
    body = "".join("<tr>" + "".join(row) + "</tr>" for row in rows)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f"<div class='scroll'>{table}</div>"


def _cell(value: object, kind: str = "") -> str:
    if isinstance(value, float):
        value = f"{value:.3g}"
    text = "-" if value is None else escape(str(value))
    return f"<td class='{kind}'>{text}</td>"


def _outputs(report: DiffReport) -> str:
    rows = []
    for o in report.outputs:
        d, limits = o.distance, o.limits
        rows.append(
            [
                _cell(o.name),
                _cell(o.verdict, o.verdict),
                _cell(d.max_abs if d else None),
                _cell(limits.max_abs if limits else None),
                _cell(d.rel_l2 if d else None),
                _cell(limits.rel_l2 if limits else None),
                _cell(d.worst_row if d else None),
                _cell(limits.worst_row if limits else None),
                _cell(float(o.ratio)),
                _cell(f"{d.cosine:.6f}" if d else None),
                _cell(f"{o.top1:.2%}" if o.top1 is not None else None),
                _cell(o.tolerance.get("atol")),
            ]
        )
    columns = (
        "output verdict max-abs limit rel-L2 limit worst-row limit x-limit cosine top-1 needs-atol"
    )
    return "<h2>Outputs, worst case</h2>" + _table(columns.split(), rows)


def _reasons(report: DiffReport) -> str:
    items = []
    for o in report.outputs:
        words = [*o.reasons, *(f"warning: {w}" for w in o.warnings)]
        if o.dead_rows:
            words.append(
                f"{o.dead_rows['rows']} rows without any key (policy {o.dead_rows['policy']})"
            )
        items += [f"<li>{escape(o.name)}: {escape(word)}</li>" for word in words]
    return f"<ul>{''.join(items)}</ul>" if items else ""


def _blocks(report: DiffReport) -> str:
    if not report.blocks:
        return ""
    rows = []
    for b in report.blocks:
        alone, full = b.local, b.accumulated
        rows.append(
            [
                _cell(b.name),
                _cell(b.softmax, "text"),
                _cell(alone.verdict if alone else b.problem, alone.verdict if alone else "text"),
                _cell(float(alone.ratio) if alone else None),
                _cell(full.verdict if full else None, full.verdict if full else ""),
                _cell(float(full.ratio) if full else None),
            ]
        )
    columns = ("block", "original softmax", "alone", "x limit", "in the full run", "x limit")
    return "<h2>Blocks</h2>" + _table(columns, rows)


def _cases(report: DiffReport) -> str:
    rows = [[_cell(case.label), _cell(float(case.ratio))] for case in report.cases]
    text = f"<p>Inputs: {escape(report.inputs)}; sha256 {report.inputs_sha256[:16]}</p>"
    return "<h2>Sets of inputs</h2>" + text + _table(("inputs", "x limit"), rows)


def _pictures(report: DiffReport) -> str:
    from omfuse.diff import pictures

    figures = []
    case = report.worst_case()
    for verdict in case.verdicts[:4]:
        golden, other = case.golden.get(verdict.name), case.outputs.get(verdict.name)
        if verdict.distance is None or golden is None or other is None:
            continue
        limit = verdict.limits.max_abs if verdict.limits else None
        name = f"Error distribution of {verdict.name}"
        figures.append((name, pictures.error_histogram(golden, other, limit, verdict.name)))
    if report.blocks:
        figures.append(("Errors along the model", pictures.errors_along_depth(report)))
    worst = report.pictures
    if worst:
        name = f"Heat map of the worst block, {worst['block']}"
        figures.append((name, pictures.heat_map(worst["error"], worst["golden"], worst["block"])))
    if not figures:
        return ""
    images = "".join(
        f"<figure><img alt='{escape(name)}' src='{pictures.as_data_uri(figure)}'>"
        f"<figcaption>{escape(name)}</figcaption></figure>"
        for name, figure in figures
    )
    return f"<h2>Pictures</h2><div class='grid'>{images}</div>"
