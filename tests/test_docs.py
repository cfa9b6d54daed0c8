"""The README and the docs say what is true: commands run, rules work, links resolve."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx_text import build

import omfuse

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)


def commands() -> list[tuple[str, str]]:
    found = []
    for block in BLOCK.findall((ROOT / "README.md").read_text()):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, _, output = part.partition("\n")
            command = line.split("&&")[-1].strip()
            if command.startswith("omfuse"):
                found.append((command, output))
    return found


@pytest.mark.parametrize(("command", "expected"), commands(), ids=[c for c, _ in commands()])
def test_a_readme_command_prints_what_the_readme_shows(
    tmp_path: Path, command: str, expected: str
) -> None:
    words = [str(ROOT / w) if w.startswith("examples/") else w for w in shlex.split(command)]
    done = subprocess.run(
        [sys.executable, "-m", "omfuse", *words[1:]], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    loose = re.compile(r"\d+\.\d+ s|\d+\.\d+e-\d+|worst \w+")
    assert loose.sub("#", done.stdout).split() == loose.sub("#", expected).split()


def test_the_rules_of_the_guide_work(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "patterns.md").read_text()
    source = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    rules = tmp_path / "my_rules.py"
    rules.write_text(source.replace("com.acme", "com.microsoft"))
    body = """kt = Transpose<perm=[0,1,3,2]>(k) s = MatMul(q, kt)
        u = com.microsoft.Temper<temperature=4.0>(s) z = com.microsoft.Hide(u, mask)
        p = Softmax<axis=-1>(z) y = MatMul(p, v)"""
    result = omfuse.rewrite(build(body), patterns=[rules])
    assert result.records[0].normal_form == (
        "softmax_k(0.25*Q[b,h,q,d].K[b,h,d,k] | mask[b,1,q,k]).V[b,h,k,e] -> out[b,h,q,e]"
    )


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))])
def test_links_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_sample_is_small_and_valid() -> None:
    path = ROOT / "examples" / "sample.onnx"
    assert path.stat().st_size < 400_000
    onnx.checker.check_model(onnx.load(path))
