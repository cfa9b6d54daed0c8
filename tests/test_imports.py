"""Imports run one way: no module needs, even lazily, one that needs it."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "rewriter" / "omfuse"


def modules() -> dict[str, Path]:
    found = {}
    for file in PACKAGE.rglob("*.py"):
        parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """Yield every statement that runs: what only the type checker reads is left out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from statements(child)


def imports() -> dict[str, set[str]]:
    known, found = modules(), defaultdict(set)
    for name, file in known.items():
        for node in statements(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found[name] |= {a.name for a in node.names} & set(known)
            elif isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    found[name] |= {whole if whole in known else node.module} & set(known)
    return found


def test_no_module_needs_one_that_needs_it() -> None:
    graph = imports()
    assert len(graph) > 200
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("graph", {"errors"}),
        ("match", {"graph"}),
        ("fuse", {"errors", "graph", "match"}),
        ("diff", {"errors", "fuse", "graph", "host", "html", "session", "session_protocol"}),
    ],
)
def test_a_stage_knows_only_the_stages_before_it(package: str, allowed: set[str]) -> None:
    reached = {
        needed.split(".")[1]
        for name, needs in imports().items()
        if name.split(".")[1:2] == [package]
        for needed in needs
        if "." in needed
    }
    assert reached - {package} <= allowed


def test_nothing_needs_the_command_line() -> None:
    users = {
        name
        for name, needs in imports().items()
        if not name.startswith("omfuse.cli") and any(n.startswith("omfuse.cli") for n in needs)
    }
    assert users == {"omfuse.__main__"}


def test_no_test_module_is_the_library_of_another() -> None:
    """What tests share lies in a module that holds no tests, so that a test can move."""
    borrowed = [
        f"{file.name}: {node.module}"
        for file in Path(__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
        and (node.module or "").rpartition(".")[2].startswith("test_")
    ]
    assert not borrowed
