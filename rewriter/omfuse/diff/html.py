"""One self-contained HTML file: verdict, tables, pictures, and how to repeat it."""

from __future__ import annotations

import os
import tempfile
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from omfuse.errors import NotAvailableError, OutputError
from omfuse.html import cell, document, listed, table

if TYPE_CHECKING:
    from omfuse.diff.report import DiffReport


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
        parts.append("<h2>Notes</h2>" + listed(report.notes))
    if report.reproducer:
        parts.append(f"<h2>The block alone</h2><pre>{escape(report.reproducer)}</pre>")
    parts.append(f"<h2>Repeat it</h2><pre id='replay'>{escape(report.replay)}</pre>")
    return document(f"omfuse diff: {report.verdict}", parts)


def _outputs(report: DiffReport) -> str:
    rows = []
    for o in report.outputs:
        d, limits = o.distance, o.limits
        rows.append(
            [
                cell(o.name),
                cell(o.verdict, o.verdict),
                cell(d.max_abs if d else None),
                cell(limits.max_abs if limits else None),
                cell(d.rel_l2 if d else None),
                cell(limits.rel_l2 if limits else None),
                cell(d.worst_row if d else None),
                cell(limits.worst_row if limits else None),
                cell(float(o.ratio)),
                cell(f"{d.cosine:.6f}" if d else None),
                cell(f"{o.top1:.2%}" if o.top1 is not None else None),
                cell(o.tolerance.get("atol")),
            ]
        )
    columns = (
        "output verdict max-abs limit rel-L2 limit worst-row limit x-limit cosine top-1 needs-atol"
    )
    return "<h2>Outputs, worst case</h2>" + table(columns.split(), rows)


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
                cell(b.name),
                cell(b.softmax, "text"),
                cell(alone.verdict if alone else b.problem, alone.verdict if alone else "text"),
                cell(float(alone.ratio) if alone else None),
                cell(full.verdict if full else None, full.verdict if full else ""),
                cell(float(full.ratio) if full else None),
            ]
        )
    columns = ("block", "original softmax", "alone", "x limit", "in the full run", "x limit")
    return "<h2>Blocks</h2>" + table(columns, rows)


def _cases(report: DiffReport) -> str:
    rows = [[cell(case.label), cell(float(case.ratio))] for case in report.cases]
    text = f"<p>Inputs: {escape(report.inputs)}; sha256 {report.inputs_sha256[:16]}</p>"
    return "<h2>Sets of inputs</h2>" + text + table(("inputs", "x limit"), rows)


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
