"""Tables in Markdown, as the pages hold them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], right: Sequence[str] = ()) -> str:
    """Format a table; columns named in `right` are aligned to the right."""
    lines = [list(heads), *([str(cell) for cell in row] for row in rows)]
    text = ["| " + " | ".join(line) + " |" for line in lines]
    text.insert(1, "|" + "|".join("---:" if head in right else "---" for head in heads) + "|")
    return "\n".join(text)


def find(text: str, first_heading: str) -> str:
    """Return the table of a text whose first column has this heading.

    Raises:
        LookupError: there is no such table.
    """
    lines = text.splitlines()
    for index, line in enumerate(lines):
        if line.startswith(f"| {first_heading} |"):
            end = index
            while end < len(lines) and lines[end].startswith("|"):
                end += 1
            return "\n".join(lines[index:end])
    raise LookupError(f"no table with the heading {first_heading!r} was printed")


def fill(page: str, name: str, content: str) -> str:
    """Put a table between the marks `<!-- table: name -->` and `<!-- end -->` of a page.

    Raises:
        LookupError: the page has no such mark.
    """
    mark, end = f"<!-- table: {name} -->\n", "<!-- end -->"
    before, found, rest = page.partition(mark)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise LookupError(f"the page has no place for table {name}")
    return f"{before}{mark}\n{content}\n\n{end}{after}"


def marks(page: str) -> list[str]:
    """Return the names of the tables that a page has places for."""
    start = "<!-- table: "
    lines = (line for line in page.splitlines() if line.startswith(start))
    return [line.removeprefix(start).removesuffix(" -->") for line in lines]
