"""The HTML report: complete, self-contained, and readable in a real browser at 1280 px."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from benchmarks.diff_sensitivity import ZOO, make_inputs, original, rewritten
from browser import CHROMIUM, picture_of

from omfuse.diff import diff

pytest.importorskip("matplotlib", reason="the extra `report` is not installed")

from omfuse.diff import html, pictures


@pytest.fixture(scope="module")
def report():
    bug = next(bug for bug in ZOO if bug.zero_tile)
    return diff(
        original(64),
        rewritten(64, bug),
        inputs=make_inputs(64),
        precision="fp16",
        localise=True,
        cache=False,
        replay="omfuse diff a.onnx b.onnx --note '<b>&'",
    )


def test_the_page_holds_everything_and_fetches_nothing(report, tmp_path) -> None:
    path = tmp_path / "r.html"
    html.write(report, path)
    page = path.read_text(encoding="utf-8")
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]
    assert page.count("data:image/png;base64,") == 3
    assert "attention.0" in page
    assert "&lt;b&gt;&amp;" in page  # the command is text, never markup
    assert not re.search(r"(src|href)='(?!data:)", page)
    assert "http" not in re.sub(r"base64,[^']*", "", page)
    assert "<script" not in page

    class Balanced(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.stack: list[str] = []

        def handle_starttag(self, tag, attrs) -> None:
            if tag not in ("meta", "img"):
                self.stack.append(tag)

        def handle_endtag(self, tag) -> None:
            assert self.stack.pop() == tag

    parser = Balanced()
    parser.feed(page)
    assert not parser.stack


def test_shrinking_keeps_the_wrong_row() -> None:
    table = np.zeros((5000, 70))
    table[3333, 5] = 1.0
    small = pictures.shrink(table)
    assert small.shape == (256, 70)
    assert small.max() == 1.0


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_a_browser_renders_it_at_1280(report, tmp_path) -> None:
    page = tmp_path / "r.html"
    html.write(report, page)
    image = picture_of(page, tmp_path)
    heat = (image[..., 0] > 0.8) & (image[..., 2] < 0.45)
    assert heat.any()  # the zeroed tile glows in the heat map
