"""``diff``: run both sides on the same inputs and judge every output."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omfuse.diff import inputs as input_plans
from omfuse.diff.golden import Original, inputs_digest, load_original
from omfuse.diff.live_rows import live_rows
from omfuse.diff.localise import explain
from omfuse.diff.report import VERDICTS, Case, DiffReport, Tell, Wants, worst_of
from omfuse.diff.roles import is_float
from omfuse.diff.sides import Side, Source, open_side, pair_outputs, precision_of
from omfuse.diff.verdict import MODEL, Override, TensorVerdict, judge
from omfuse.errors import UsageError
from omfuse.session_protocol import Array

PRECISIONS = ("auto", "fp32", "fp16", "bf16")
DEAD_ROWS = ("report", "strict", "zero")


def diff(
    a: Source,
    b: Source,
    *,
    inputs: Mapping[str, Array] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    dims: Mapping[str, int] | None = None,
    precision: str = "auto",
    device: str | None = None,
    overrides: Mapping[str, Override] | None = None,
    dead_rows: str = "report",
    localise: bool = True,
    bisect: bool = False,
    reduce: str | Path | None = None,
    tensors: bool = False,
    second_shape: bool = True,
    isolated: bool | None = None,
    cache: Path | bool | None = True,
    replay: str | None = None,
    session_options: Mapping[str, Any] | None = None,
    tell: Tell | None = None,
) -> DiffReport:
    """Compare ``b`` with ``a`` and say whether it computes the same.

    Args:
        a: the original: path of an ``.onnx``, a model, or saved outputs (``.npz`` or a mapping).
        b: the judged side: ``.onnx``, ``.om``, ``.npz``, a model, a mapping or a session.
        inputs: inputs by name; generated from the graph when None.
        seeds: seeds for generated inputs; b fails when one of them fails.
        dims: sizes of symbolic dims for generated inputs.
        precision: what b computes in: ``auto``, ``fp32``, ``fp16`` or ``bf16``.
        device: device of an ``.om``.
        overrides: tolerances by output name; ``"*"`` for all others.
        dead_rows: ``report``, ``strict`` or ``zero``: rows of an attention without any key.
        localise: check each differing block alone on golden inputs, and fail when one fails;
            false leaves it out.
        bisect: also find the guilty blocks by switching rewrites on one by one.
        reduce: folder for the smallest failing sub-model and its inputs.
        tensors: compare every tensor that both graphs name, a bounded number of bytes at a time.
        second_shape: with generated inputs of a dynamic model, also try other sizes.
        isolated: run onnxruntime in a process of its own; None means for fp16 and bf16.
        cache: folder for golden results; true for the user's, false for none.
        replay: command that repeats this comparison, for the report.
        session_options: options for the device session of an ``.om``; for a model in memory
            ``base_dir``, the folder or file that its external data belongs to.
        tell: called with a line on what is being done.

    Raises:
        UsageError: ``unknown-precision``, ``inputs-needed``, ``unknown-output`` and others.
        ModelError: a side cannot be loaded or run.
    """
    _check_choice("precision", precision, PRECISIONS)
    _check_choice("dead-rows", dead_rows, DEAD_ROWS)
    say = tell or (lambda _: None)
    say("loading")
    golden_side = None
    original = None
    if _is_saved(a):
        golden_side = open_side(a)
    else:
        original = load_original(a, isolated=isolated, cache=cache)  # type: ignore[arg-type]
    side = open_side(b, device, isolated, **(session_options or {}))
    try:
        return _compare(
            original,
            golden_side,
            side,
            label_a=str(a) if isinstance(a, str | Path) else "original",
            inputs=inputs,
            seeds=list(seeds),
            dims=dims,
            precision=precision_of(side) if precision == "auto" else precision,
            overrides=overrides or {},
            dead_rows=dead_rows,
            wants=Wants(localise, bisect, reduce, second_shape, dead_rows, tensors),
            replay=replay,
            say=say,
        )
    finally:
        side.close()
        if original is not None:
            original.close()


def _check_choice(what: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise UsageError(
            f"unknown-{what}", f"no {what} {value!r}", hint=f"use one of {', '.join(allowed)}"
        )


def _is_saved(source: Source) -> bool:
    if isinstance(source, str | Path):
        return Path(source).suffix.lower() == ".npz"
    return isinstance(source, Mapping)


def _compare(
    original: Original | None,
    golden_side: Side | None,
    side: Side,
    *,
    label_a: str,
    inputs: Mapping[str, Array] | None,
    seeds: list[int],
    dims: Mapping[str, int] | None,
    precision: str,
    overrides: Mapping[str, Override],
    dead_rows: str,
    wants: Wants,
    replay: str | None,
    say: Tell,
) -> DiffReport:
    notes: list[str] = []
    cases, described, used_seeds = _cases(original, side, inputs, seeds, dims, wants, notes, say)
    for number, case in enumerate(cases):
        say(f"comparing {case.label} ({number + 1} of {len(cases)})")
        if original is not None:
            golden = original.run(case.feeds)
            emulated, emulated_in = original.emulated(case.feeds, golden, precision)
            live = live_rows(original, case.feeds, golden)
        else:
            assert golden_side is not None
            golden = golden_side.run(case.feeds)
            emulated, emulated_in, live = {}, "", {}
        _check_names(overrides, golden)
        other = side.run(case.feeds)
        if number == 0 and side.device in ("sim", "ascend"):
            notes += _repeatability(other, side.run(case.feeds))
        pairs, more = pair_outputs(golden, other)
        notes += [note for note in more if note not in notes]
        for name, array in pairs:
            if array is None:
                text = f"the other side has no output {name}"
                case.verdicts.append(TensorVerdict(name, "fail", (text,), ratio=math.inf))
                continue
            case.verdicts.append(
                judge(
                    name,
                    golden[name],
                    array,
                    emulated.get(name),
                    precision,
                    factors=MODEL,
                    override=overrides.get(name) or overrides.get("*"),
                    live_rows=live.get(name),
                    dead_policy=dead_rows,
                    emulated_in=emulated_in or None,
                    logits=_looks_like_logits(name, golden[name]),
                )
            )
        if case.ratio >= max(c.ratio for c in cases[: number + 1]):
            for earlier in cases[:number]:
                earlier.outputs, earlier.golden = {}, {}
            case.outputs, case.golden = other, golden
    if original is None:
        notes.append("no original to emulate: limits are a fixed multiple of the unit roundoff")
    report = DiffReport(
        verdict=worst_of([v for case in cases for v in case.verdicts]),
        a=label_a,
        b=side.label,
        device=side.device,
        precision=precision,
        outputs=_worst_of_each(cases),
        seeds=used_seeds,
        inputs=described,
        inputs_sha256=inputs_digest(cases[0].feeds),
        replay=replay or _replay(label_a, side.label, used_seeds, dims),
        cases=cases,
        notes=notes,
    )
    if original is not None and side.model is not None:
        explain(report, original, side.model, wants, say, side.base_dir)
    return report


def _cases(
    original: Original | None,
    side: Side,
    inputs: Mapping[str, Array] | None,
    seeds: list[int],
    dims: Mapping[str, int] | None,
    wants: Wants,
    notes: list[str],
    say: Tell,
) -> tuple[list[Case], str, list[int]]:
    if inputs is not None:
        return [Case("given inputs", inputs)], "given", []
    if original is None:
        if side.saved is None:
            raise UsageError(
                "inputs-needed",
                "saved outputs do not say which inputs made them",
                hint="give the inputs with --inputs",
            )
        return [Case("saved outputs", {})], "saved outputs", []
    if side.saved is not None:
        raise UsageError(
            "inputs-needed",
            "saved outputs do not say which inputs made them",
            hint="give the same inputs with --inputs (omfuse diff --save-inputs writes them)",
        )
    say("choosing inputs")
    plan = input_plans.plan_inputs(original.model, dims)
    plan = _fit_to_session(plan, side, dims or {})
    plan = input_plans.settle(plan, original.run, dims, seeds[0] if seeds else 0)
    notes += [f"inputs tried before: {line}" for line in plan.tried]
    cases = [Case(f"seed {seed}", plan.make(seed)) for seed in seeds]
    if wants.second_shape and not dims and plan.sizes and side.device == "host":
        other = input_plans.second_shape(plan, original.run)
        if other is not None:
            sizes = ", ".join(f"{k}={v}" for k, v in other.sizes.items())
            cases.append(Case(f"seed 0 at {sizes}", other.make(0)))
        else:
            notes.append("no second legal shape found for the symbolic dims")
    return cases, plan.describe(), list(seeds)


def _fit_to_session(
    plan: input_plans.InputPlan, side: Side, wanted: Mapping[str, int]
) -> input_plans.InputPlan:
    """Take sizes that a compiled side fixes: those of its shapes, or of its first gear."""
    from dataclasses import replace

    sizes = dict(plan.sizes)
    fixed = {i.name: i.shape for i in side.session.inputs} if side.session else {}
    defaults = getattr(side.session, "default_dims", None)
    if defaults is not None and getattr(side.session, "mode", "") != "dynamic" and not wanted:
        fixed.update(defaults({}))
    for role in plan.roles:
        for dim, size in zip(role.dims, fixed.get(role.name, ()), strict=False):
            if isinstance(size, int) and size > 0 and dim.text in sizes:
                sizes[dim.text] = size
    return replace(plan, sizes=sizes)


def _looks_like_logits(name: str, array: Array) -> bool:
    named = any(word in name.lower() for word in ("logit", "score", "prob", "class"))
    return named and is_float(array.dtype) and array.ndim >= 1 and array.shape[-1] >= 2


def _repeatability(first: Mapping[str, Array], again: Mapping[str, Array]) -> list[str]:
    return [
        f"not repeatable: two runs on the same inputs differ in {name}"
        for name, array in first.items()
        if array.tobytes() != again[name].tobytes()
    ]


def _check_names(overrides: Mapping[str, Override], golden: Mapping[str, Array]) -> None:
    for name in overrides:
        if name != "*" and name not in golden:
            raise UsageError(
                "unknown-output",
                f"no output is called {name!r}",
                hint=f"the outputs are: {', '.join(golden)}",
            )


def _worst_of_each(cases: Sequence[Case]) -> list[TensorVerdict]:
    worst: dict[str, TensorVerdict] = {}
    for case in cases:
        for verdict in case.verdicts:
            kept = worst.get(verdict.name)
            rank = (VERDICTS[verdict.verdict], verdict.ratio)
            if kept is None or rank > (VERDICTS[kept.verdict], kept.ratio):
                worst[verdict.name] = verdict
    return list(worst.values())


def _replay(a: str, b: str, seeds: Sequence[int], dims: Mapping[str, int] | None) -> str:
    words = ["omfuse", "diff", a, b]
    for seed in seeds:
        words += ["--seed", str(seed)]
    for name, size in (dims or {}).items():
        words += ["--dim", f"{name}={size}"]
    return shlex.join(words)


__all__ = ["diff"]
