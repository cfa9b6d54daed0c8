"""Parts of self-contained HTML pages: the frame, its style, tables."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

_STYLE = """
:root{color-scheme:light dark;--line:#8884;--good:#2a7f4f;--bad:#c1121f;--odd:#b26a00;--off:#8a8a8a}
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
svg .fused{fill:var(--good)}svg .declined{fill:var(--bad)}svg .not-attention{fill:var(--off)}
"""


def document(title: str, parts: Iterable[str]) -> str:
    """Return a whole page around parts that are HTML already."""
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width,initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>"
    )


def table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table from column names (text) and rows of :func:`cell`."""
    head = "".join(f"<th>{escape(c)}</th>" for c in columns)
    body = "".join("<tr>" + "".join(row) + "</tr>" for row in rows)
    made = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f"<div class='scroll'>{made}</div>"


def cell(value: object, kind: str = "") -> str:
    """Return one cell; floats get three digits, None a dash."""
    if isinstance(value, float):
        value = f"{value:.3g}"
    text = "-" if value is None else escape(str(value))
    return f"<td class='{kind}'>{text}</td>"


def listed(items: Iterable[str]) -> str:
    """Return a list of texts, nothing when there are none."""
    made = "".join(f"<li>{escape(item)}</li>" for item in items)
    return f"<ul>{made}</ul>" if made else ""
