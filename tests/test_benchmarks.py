"""The pages hold exactly the tables that one command measures again."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks import markdown
from benchmarks.__main__ import TABLES

DOCS = Path(__file__).parents[1] / "docs"


def test_every_place_has_a_table_and_every_table_a_place() -> None:
    places = {(p.name, name) for p in DOCS.glob("*.md") for name in markdown.marks(p.read_text())}
    assert places == {(table.page, table.name) for table in TABLES}


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_a_table_stands_in_its_place(table) -> None:
    page = (DOCS / table.page).read_text()
    place = page.split(f"<!-- table: {table.name} -->")[1].split("<!-- end -->")[0]
    content = markdown.find(place, table.heading)
    assert len(content.splitlines()) > 2
    assert markdown.fill(page, table.name, content) == page
    assert f"python -m benchmarks.{table.command[0]}" in page


def test_a_table_is_found_by_its_heading_and_put_in_its_place() -> None:
    made = markdown.table(("a", "b"), [(1, "x")], right=("a",))
    assert made == "| a | b |\n|---:|---|\n| 1 | x |"
    assert markdown.find(f"noise\n| c |\n|---|\n\n{made}\nmore", "a") == made
    page = "top\n<!-- table: t -->\n\nold\n\n<!-- end -->\nrest\n"
    filled = markdown.fill(page, "t", made)
    assert filled == f"top\n<!-- table: t -->\n\n{made}\n\n<!-- end -->\nrest\n"
    assert markdown.marks(filled) == ["t"]
    with pytest.raises(LookupError):
        markdown.fill(page, "other", made)
    with pytest.raises(LookupError):
        markdown.find(page, "a")
