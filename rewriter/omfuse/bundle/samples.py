"""Inputs, golden outputs and emulated runs of the original, for a board that has no onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omfuse.diff.golden import load_original, numbered
from omfuse.host.feeding import write_npz

if TYPE_CHECKING:
    from omfuse.sim.payload import Payload


def fixed_sizes(payload: Payload) -> dict[str, tuple[int, ...]]:
    """Return the dims of every input of a compiled model, those of the first gear where it has any.

    Open dims are -1.
    """
    names = [spec.onnx_name for spec in payload.inputs]
    if payload.gear_inputs:
        return dict(zip(names, payload.gear_inputs[0], strict=True))
    return {spec.onnx_name: spec.dims for spec in payload.inputs}


def write_samples(
    model: Path,
    folder: Path,
    sizes: Mapping[str, tuple[int, ...]],
    seeds: Sequence[int],
    precision: str,
) -> list[dict[str, Any]]:
    """Run the original on generated inputs and write one set of files a seed.

    Args:
        model: the original ``.onnx``.
        folder: where to write.
        sizes: dims that the compiled model fixes, by input.
        seeds: seeds of the inputs.
        precision: what the board computes in: ``fp16`` or ``bf16``.

    Returns:
        Name and file names of each sample.

    Raises:
        ModelError: no inputs are found with which the model runs.
    """
    from omfuse.diff import inputs
    from omfuse.diff.live_rows import live_rows

    original = load_original(model, cache=None)
    try:
        plan = inputs.plan_inputs(original.model)
        chosen = dict(plan.sizes)
        for role in plan.roles:
            for dim, size in zip(role.dims, sizes.get(role.name, ()), strict=False):
                if size > 0 and dim.text in chosen:
                    chosen[dim.text] = size
        plan = inputs.settle(replace(plan, sizes=chosen), original.run, None, seeds[0])
        samples = []
        for seed in seeds:
            feeds = plan.make(seed)
            golden = original.run(feeds)
            emulated, _ = original.emulated(feeds, golden, precision)
            live = live_rows(original, feeds, golden)
            files = {"inputs": feeds, "golden": golden, "emulated": emulated, "live": live}
            sample: dict[str, Any] = {"name": f"seed {seed}"}
            for what, arrays in files.items():
                sample[what] = f"samples/seed{seed}.{what}.npz" if arrays else None
                if arrays:
                    write_npz(folder / f"seed{seed}.{what}.npz", numbered(arrays))
            samples.append(sample)
        return samples
    finally:
        original.close()
