"""The README and the docs say what is true: commands run, rules work, links resolve."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx_text import build

import omfuse

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "README.zh-CN.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(<!-- needs a board -->\n)?```console\n(.*?)```", re.DOTALL)
SHAPES = ["--shape", "batch=2", "--shape", "source=9", "--shape", "target=5"]


def commands(page: Path) -> list[tuple[str, str]]:
    """Return each command of the page's console blocks with the output that is shown."""
    found = []
    for board, block in BLOCK.findall(page.read_text(encoding="utf-8")):
        if board:
            continue
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, _, output = part.partition("\n")
            found.append((line.split("&&")[-1].strip(), output))
    return [entry for entry in found if entry[0] != "python -m pytest"]


def omfuse_in(folder: Path, words: list[str]) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "omfuse", *words], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages take for granted: a model, the fused one, and both compiled."""
    folder = tmp_path_factory.mktemp("docs")
    shutil.copytree(ROOT / "examples", folder / "examples")
    shutil.copy(ROOT / "examples" / "sample.onnx", folder / "model.onnx")
    text = (ROOT / "docs" / "patterns.md").read_text()
    rules = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    (folder / "my_rules.py").write_text(rules)
    omfuse_in(folder, ["rewrite", "model.onnx", "-o", "fused.onnx"])
    for name in ("model", "original"):
        omfuse_in(folder, ["compile", "fused.onnx", "-o", f"{name}.om", "--soc", "310P3",
                           "--device", "sim", *SHAPES])  # fmt: skip
    return folder


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda p: p.name)
def test_the_commands_of_a_page_do_what_it_shows(
    page: Path, prepared: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "work"
    shutil.copytree(prepared, folder)
    loose = re.compile(r"\d+\.\d+ s|\d+\.\d+e-\d+|worst \w+")
    for command, expected in commands(page):
        words = shlex.split(command)
        assert words[0] == "omfuse", f"{command}: say <!-- needs a board --> or use another fence"
        done = omfuse_in(folder, words[1:])
        if expected.strip():
            assert loose.sub("#", done.stdout).split() == loose.sub("#", expected).split()


def test_both_readmes_show_the_same_commands() -> None:
    english, chinese = (ROOT / "README.md", ROOT / "README.zh-CN.md")
    assert commands(english) == commands(chinese)
    assert len(commands(english)) >= 3
    table = re.compile(r"^\| (`omfuse.*?`) \|", re.MULTILINE)
    assert table.findall(english.read_text()) == table.findall(chinese.read_text(encoding="utf-8"))


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


@pytest.mark.parametrize("page", [*PAGES, *sorted((ROOT / "custom_ops").glob("**/*.md"))],
                         ids=lambda p: p.name)  # fmt: skip
def test_links_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_sample_is_small_and_valid() -> None:
    path = ROOT / "examples" / "sample.onnx"
    assert path.stat().st_size < 400_000
    onnx.checker.check_model(onnx.load(path))
