"""Every rule's docstring is its golden test: the graph before, the normal form after."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from onnx_text import build, feeds, run

import omfuse
from omfuse import rules
from omfuse.match import rules as language

rules.load_own()


def examples() -> Iterator[tuple[str, str, str]]:
    seen = set()
    for registered in language._RULES.values():
        for rule in registered:
            doc = inspect.getdoc(rule) or ""
            if rule.__name__ in seen or "Before::" not in doc:
                continue
            seen.add(rule.__name__)
            before, after = doc.split("Before::")[1].split("After::")
            yield rule.__name__, textwrap.dedent(before).strip(), " ".join(after.split())


EXAMPLES = list(examples())


def model_of(before: str) -> onnx.ModelProto:
    lines = before.splitlines()
    inputs = None
    if "=" not in lines[0]:
        inputs, lines = lines[0], lines[1:]
    return build("\n".join(lines), inputs)


def test_every_rule_shows_what_it_means() -> None:
    undocumented = [
        rule.__name__
        for registered in language._RULES.values()
        for rule in registered
        if not rule.__doc__
    ]
    assert not undocumented
    assert len(EXAMPLES) >= 12


@pytest.mark.parametrize(("name", "before", "after"), EXAMPLES, ids=[x[0] for x in EXAMPLES])
def test_docstring(name: str, before: str, after: str) -> None:
    model = model_of(before)
    result = omfuse.rewrite(model)
    assert [record.status for record in result.records] == ["fused"]
    assert re.sub(r"\s+", " ", result.records[0].normal_form or "") == after
    assert "Softmax" not in {node.op_type for node in result.model.graph.node}
    inputs = feeds(model)
    onnx.checker.check_model(result.model)
    for expected, actual in zip(run(model, inputs), run(result.model, inputs), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=2e-6)
    again = omfuse.rewrite(result.model)
    assert not again.changed
    assert again.model.SerializeToString() == result.model.SerializeToString()
