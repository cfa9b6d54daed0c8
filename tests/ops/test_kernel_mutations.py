"""Each feature of the kernel off by one line must fail, and each removed wait must be found.

All mutants live in one library, compiled from a copy of the sources in which ``MUTANT(k)`` chooses
the wrong text at run time: one compilation for all of them.
"""

from __future__ import annotations

import ctypes
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.ops.kernel_cases import Case, judge

from omfuse.ops import emulator

SWITCH = 'extern "C" __attribute__((visibility("default"))) int omfuse_mutant;\n'


@dataclass(frozen=True)
class Mutant:
    """One change of the kernel's text, and a case that must notice it."""

    name: str
    file: str
    right: str
    wrong: str
    case: Case
    arch: str = "910b"
    says: str = ""  # pattern of the violation; empty: the numbers are wrong
    after: str = ""  # text before the place

    def apply(self, number: int, root: Path) -> None:
        """Write both texts, chosen at run time, into the copy."""
        path = root / "flash_attention" / "op_kernel" / self.file
        text = path.read_text("utf-8")
        start = text.find(self.after)
        # Lines may be folded anywhere between two words.
        place = re.compile(r"\s+".join(re.escape(word) for word in self.right.split()))
        found = place.search(text, max(start, 0))
        assert start >= 0, f"{self.name}: {self.after!r} is not in {self.file}"
        assert found, f"{self.name}: {self.right!r} is not in {self.file}"
        if self.right.rstrip().endswith(";"):
            both = f"if (MUTANT({number})) {{ {self.wrong} }} else {{ {self.right} }}"
        else:
            both = f"(MUTANT({number}) ? ({self.wrong}) : ({self.right}))"
        path.write_text(text[: found.start()] + both + text[found.end() :], "utf-8")


RACE = r"without waiting for|which nothing has written|is set twice"
CAUSAL = Case("causal", q_len=50, kv_len=77, attrs={"causal": "bottom_right"})
WINDOW = Case("window", q_len=60, kv_len=60, attrs={"window_left": 8, "window_right": 4})
LENGTHS = Case("lengths", batch=2, lengths=(77, 40))
STEPS = Case("steps", heads=1, kv_heads=1, q_len=40, kv_len=2040)
UNIFORM = Case("uniform", q_len=77, kv_len=50,
               attrs={"causal": "bottom_right", "masked_rows": "uniform"})  # fmt: skip
ZERO = Case("zero", batch=2, lengths=(77, 0), attrs={"masked_rows": "zero"})

FEATURES = [
    Mutant("scale 2 % off", "fa_softmax.h", "late_ ? tiling->scale : 1.0f",
           "tiling->scale * 1.02f", STEPS),
    Mutant("maximum without the last columns", "fa_vector.h", "Smaller(window * kWindow, last)",
           "Smaller(window * kWindow, last - 4)",
           Case("large", kv_len=448, scale=1.0, spread=3.0)),
    Mutant("maximum not scaled at the end", "fa_softmax.h",
           "AscendC::Muls(max, max, tiling_->scale, static_cast<int32_t>(rows * kLane));", "",
           Case("lse", lse=True)),
    Mutant("no padding of keys", "fa_mask.h",
           "FillColumns(scores, step.count, step.countPad, rows, MinusInfinity());", "",
           Case("pad")),
    Mutant("lengths ignored", "fa_schedule.h",
           "Most(0, Least(valid, lengths_.GetValue(task_.batch)))", "valid", LENGTHS),
    Mutant("keys beyond the length not masked", "fa_mask.h",
           "static_cast<int64_t>(step.valid) - step.begin", "1000000",
           Case("lengths", batch=2, lengths=(77, 40), attrs={"masked_rows": "uniform"})),
    Mutant("causal one late", "fa_bounds.h", "position + 1", "position + 2", CAUSAL,
           after="Upper(scores, "),
    Mutant("causal top left for bottom right", "fa_bounds.h",
           "position += static_cast<int64_t>(step.valid) - t.qLen;", "", CAUSAL),
    Mutant("window left one short", "fa_bounds.h", "position - t.windowLeft",
           "position - t.windowLeft + 1", WINDOW),
    Mutant("window right one wide", "fa_bounds.h", "position + t.windowRight + 1",
           "position + t.windowRight + 2", WINDOW),
    Mutant("blocks skipped too early", "fa_schedule.h",
           "Least(high, lastQuery + offset + 1)", "Least(high, lastQuery + offset - 15)", CAUSAL),
    Mutant("bias not added", "fa_mask.h", "AscendC::Add(scores, scores, wide, all);", "",
           Case("bias", batch=2, bias=(2, 2, 33, 77))),
    Mutant("bias of the first row", "fa_mask.h", "headIndex * head + row * query",
           "headIndex * head", Case("bias", batch=2, bias=(2, 2, 33, 77))),
    Mutant("bias of a row ignored", "fa_mask.h",
           "AscendC::Add(part, part, values, static_cast<int32_t>(column));", "",
           Case("rows", batch=2, bias=(2, 2, 33, 1), sink=True)),
    Mutant("mask of a row turned round", "fa_mask.h", "mask_.GetValue(at) ? Infinity() : drop_",
           "mask_.GetValue(at) ? drop_ : Infinity()",
           Case("rows", mask=(1, 1, 33, 1), attrs={"masked_rows": "zero"})),
    Mutant("lse of the last step", "fa_softmax.h",
           "AscendC::FusedMulAdd(sums, alpha, narrow, stats);",
           "AscendC::Adds(sums, narrow, 0.0f, stats);",
           Case("lse", q_len=40, kv_len=1500, lse=True)),
    Mutant("mask ignored", "fa_mask.h", "AscendC::Min(scores, scores, wide, all);", "",
           Case("mask", mask=(1, 1, 33, 77))),
    Mutant("halves of the mask swapped", "fa_mask.h", "(shared ? 0 : row * 32) + side * kFractal",
           "(shared ? 0 : row * 32) + (1 - side) * kFractal", Case("mask", mask=(1, 1, 33, 77))),
    Mutant("softcap off", "fa_softmax.h", "AscendC::Muls(scores, scores, -cap, all);",
           "AscendC::Muls(scores, scores, -0.98f * cap, all);",
           Case("softcap", scale=1.0, attrs={"softcap": 5.0})),
    Mutant("sink ignored", "fa_output.h", "StartsWithSink(*tiling_, step) ? 1.0f : 0.0f", "0.0f",
           Case("sink", sink=True)),
    Mutant("sink of another head", "fa_softmax.h", "SinkOf(step.unit)", "SinkOf(0)",
           Case("sink", sink=True)),
    Mutant("zero policy lost", "fa_output.h",
           "AscendC::Maxs(RowSums(0), RowSums(0), 1.0e-30f, "
           "static_cast<int32_t>(rows * kFractal));", "", ZERO),
    Mutant("uniform policy lost", "fa_mask.h",
           "tiling->maskedRows == kRowsUniform ? Lowest() : MinusInfinity()", "MinusInfinity()",
           UNIFORM),
    Mutant("old output not rescaled", "fa_output.h", "Widen(wide, alpha[row * kLane], rows);",
           "Widen(wide, alpha[row * kLane], rows, 1.01f);", STEPS),
    Mutant("wrong key head", "fa_schedule.h", "task->unit / t.group", "task->unit % t.kvHeads",
           Case("gqa", heads=6, kv_heads=2, q_len=100)),
    Mutant("wrong packed row", "fa_output.h", "query %= t.qLen;", "query = 0;",
           Case("packed", heads=8, kv_heads=2, q_len=3)),
    Mutant("scores at fp32 places", "fa_vector_core.h",
           "(step.rowsPad - rows) * blocks", "(step.rowsPad - rows) * 2",
           Case("half", q_len=70, kv_len=300, attrs={"inner_precision": "fp16"})),
    Mutant("split parts not weighted", "fa_split.h",
           "output->ScalePart(chunk, beta, row, rows);", "",
           Case("split", heads=1, kv_heads=1, q_len=1, kv_len=2100)),
    Mutant("lse without maximum", "fa_output.h", "AscendC::Add(logs, logs, max, stats);", "",
           Case("lse", lse=True)),
    Mutant("row stride of the output", "fa_output.h",
           "static_cast<uint64_t>(query) * t.oRowStride",
           "static_cast<uint64_t>(query) * t.valueDepth",
           Case("bsh", q_len=200, layout="BSH")),
    Mutant("value columns from the start", "fa_cube_core.h",
           "column", "0", Case("wide", value_depth=256), after="cube_.LoadValues(values, keys, "),
    Mutant("depth parts not added", "fa_cube_core.h", "first == 0", "true", Case("deep", depth=256),
           after="cube_.Multiply(ScoreResult"),
    Mutant("twice counted tail of the depth", "fa_coupled.h",
           "(1ull << (kFractal - t.depth % kFractal)) - 1", "0ull", Case("odd", depth=59),
           arch="310p"),
    Mutant("tail of the row", "fa_output.h", "at + t.valueDepth - kFractal",
           "at + whole * kFractal - kFractal", Case("odd", depth=59), arch="310p"),
    Mutant("what follows a short query", "fa_coupled.h", "ShortKeys() ? Foreign() : repeated",
           "0ull", Case("nan", depth=8), arch="310p"),
    Mutant("what follows a short row", "fa_output.h",
           "0xFFFFull & ~((1ull << tiling_->valueDepth) - 1)", "0x8000ull",
           Case("short", depth=8), arch="310p"),
    Mutant("last row one place off", "fa_output.h", "at + kFractal - end_",
           "at + kFractal - end_ - 1", Case("short", depth=8), arch="310p"),
    Mutant("rows of another order", "fa_schedule.h", "t.oRowStride > t.valueDepth", "false",
           Case("short", depth=8, layout="BSH", heads=4, kv_heads=4, q_len=300, batch=2),
           arch="310p", after="inline void Describe"),
]  # fmt: skip
WAITS = [
    Mutant("keys used before they came", "fa_cube_core.h",
           "WaitFlag<HardEvent::MTE2_MTE1>(flag);", "", Case("w"), says=RACE),
    Mutant("probabilities used before they came", "fa_cube_core.h",
           "AscendC::CrossCoreWaitFlag(kProbsReady);", "", Case("w"), says=RACE),
    Mutant("parts used before they came", "fa_vector_core.h",
           "AscendC::CrossCoreWaitFlag(chunk ? kPartsReady : kScoresReady);", "", Case("w"),
           says=RACE),
    Mutant("result used before it was there", "fa_cube_core.h",
           "WaitFlag<HardEvent::M_FIX>(flag);", "", Case("w"), says=RACE),
    Mutant("result overwritten while read", "fa_cube_core.h",
           "WaitFlag<HardEvent::FIX_M>(ScoreFlag(block));", "", STEPS, says=RACE),
    Mutant("keys overwritten while read", "fa_cube_core.h",
           "WaitFlag<HardEvent::MTE1_MTE2>(flag);", "", STEPS, says=RACE,
           after="inline void LoadKeys"),
    Mutant("added before it was there", "fa_cube.h",
           "if (rows / kFractal * (columns / kFractal) < kSmallProduct) PipeBarrier<PIPE_M>();",
           "", Case("few rows", q_len=1, kv_len=300), says="without a PipeBarrier"),
    Mutant("widened scores overwritten while read", "fa_vector_core.h", "Barrier();", "",
           Case("half", q_len=70, kv_len=1300, attrs={"inner_precision": "fp16"}), says=RACE,
           after="if (tiling_->innerHalf) {"),
    Mutant("no barrier between vector instructions", "fa_vector.h", "Barrier();", "", STEPS,
           says=RACE),
    Mutant("scores used before they were there", "fa_coupled.h",
           "WaitFlag<HardEvent::M_V>(result);", "", Case("w"), arch="310p",
           says=RACE),
    Mutant("probabilities used before they came", "fa_coupled.h",
           "WaitFlag<HardEvent::MTE3_MTE1>(turn);", "", Case("w"), arch="310p",
           says=RACE),
    Mutant("short keys used before they came", "fa_coupled.h",
           "WaitFlag<HardEvent::MTE2_V>(kKeyStagingFlag);", "", Case("w", depth=8), arch="310p",
           says=RACE),
    Mutant("added before the output was clear", "fa_output.h", "PipeBarrier<PIPE_MTE3>();", "",
           Case("w", depth=8), arch="310p", says=RACE),
    Mutant("last row read before it was there", "fa_output.h",
           "WaitFlag<HardEvent::V_S>(EVENT_ID0);", "", Case("w", depth=8), arch="310p", says=RACE),
    Mutant("part overwritten while read", "fa_coupled.h", "WaitFlag<HardEvent::V_M>(2);", "",
           STEPS, arch="310p", says=RACE),
]  # fmt: skip
EVERY = [*FEATURES, *WAITS]


@pytest.fixture(scope="module")
def mutants(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Build the library of all mutants for both architectures."""
    root = tmp_path_factory.mktemp("mutants")
    for name in ("emulation", "flash_attention"):
        shutil.copytree(emulator.SOURCES / name, root / name)
    common = root / "flash_attention" / "op_kernel" / "fa_common.h"
    text = common.read_text("utf-8")
    macro = "#define MUTANT(number) (omfuse_mutant == (number))\n"
    text = text.replace("namespace omfuse {", SWITCH + macro + "namespace omfuse {", 1)
    common.write_text(text, "utf-8")
    run = root / "emulation" / "src" / "run.cc"
    define = 'extern "C" { __attribute__((visibility("default"))) int omfuse_mutant = 0; }\n'
    run.write_text(run.read_text("utf-8") + define, "utf-8")
    for number, mutant in enumerate(EVERY, 1):
        mutant.apply(number, root)
    return {arch: emulator.build(arch, root) for arch in emulator.ARCHES}


def choose(library: Path, number: int) -> None:
    """Switch one mutant on, 0 = none."""
    ctypes.c_int.in_dll(emulator.load(library), "omfuse_mutant").value = number


@pytest.mark.parametrize("mutant", EVERY, ids=lambda m: f"{m.arch}-{m.name}".replace(" ", "-"))
def test_every_mutant_is_caught(mutant: Mutant, mutants: dict[str, Path]) -> None:
    library = mutants[mutant.arch]
    number = EVERY.index(mutant) + 1
    choose(library, 0)
    assert judge(mutant.case, arch=mutant.arch, library=library, checks=True).ok
    choose(library, number)
    try:
        if mutant.says:
            with pytest.raises(emulator.KernelViolationError) as found:
                judge(mutant.case, arch=mutant.arch, library=library, checks=True, random_seed=3)
            assert re.search(mutant.says, found.value.message)
        else:
            assert not judge(mutant.case, arch=mutant.arch, library=library).ok
    finally:
        choose(library, 0)
