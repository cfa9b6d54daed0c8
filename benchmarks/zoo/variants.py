"""Which exporter, opset, attention call and shapes a case is exported with."""

from __future__ import annotations

from benchmarks.zoo.cases import Case, Dice

TS_OPSETS, DYNAMO_OPSETS = (11, 13, 14, 16, 17), (18, 20, 21, 23)


def variants(case: Case) -> list[tuple[str, int, str, bool]]:
    """The (exporter, opset, attention, dynamic) settings that this case is exported with."""
    dice = Dice(case.family + "/variants")
    chosen: list[tuple[str, int, str, bool]] = []
    for index in range(case.variants):
        exporter = case.exporters[index % len(case.exporters)]
        opsets = case.opsets or (TS_OPSETS if exporter == "ts" else DYNAMO_OPSETS)
        opset = dice.choice(opsets)
        attn = case.attn[index % len(case.attn)] if index else dice.choice(case.attn)
        if attn == "sdpa" and exporter == "ts":
            opset = max(opset, 14)
        dynamic = case.dynamic if case.dynamic is not None else dice.random() < 0.6
        chosen.append((exporter, opset, attn, dynamic))
    return chosen


def variant_name(case: Case, variant: tuple[str, int, str, bool]) -> str:
    exporter, opset, attn, dynamic = variant
    return f"{case.family}__{exporter}{opset}-{attn[0]}-{'d' if dynamic else 's'}"
