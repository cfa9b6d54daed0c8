"""Measure sessions: warm up, run, describe; two of them interleaved.

Times are wall clock around whole runs; sessions on a device also tell how a run divides into
copies and computation.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

UNSTABLE = 0.05  # coefficient of variation from which a measurement is called unstable
_RESAMPLES, _ROUNDS = 1000, 5000  # of the interval; the last rounds are enough


@dataclass
class Plan:
    """How long to measure.

    Attributes:
        warmup_runs: runs before measuring, at least.
        warmup_seconds: time before measuring, at least.
        runs: measured runs, at least.
        seconds: measured time, at least.
        most: measured runs, at most.
    """

    warmup_runs: int = 5
    warmup_seconds: float = 0.2
    runs: int = 20
    seconds: float = 1.0
    most: int = 100_000


@dataclass
class Subject:
    """What is measured: a label, one run, and what the run tells of itself.

    Attributes:
        label: for people.
        run: runs once.
        parts: returns the division of the last run, empty where it is not known.
        memory_used: returns bytes in use, None where it is not known.
        before: bytes in use before the model was loaded, so that the peak is its own.
    """

    label: str
    run: Callable[[], Any]
    parts: Callable[[], Mapping[str, float]] = dict
    memory_used: Callable[[], int | None] = lambda: None
    before: int | None = None
    first: float = 0.0
    seconds: list[float] = field(default_factory=list)
    divided: dict[str, list[float]] = field(default_factory=dict)
    peak: int | None = None

    def once(self) -> float:
        """Run once and return the seconds."""
        started = time.perf_counter()
        self.run()
        return time.perf_counter() - started

    def measure(self) -> float:
        """Run once, keep the seconds."""
        spent = self.once()
        self.seconds.append(spent)
        for name, value in self.parts().items():
            self.divided.setdefault(name, []).append(value)
        return spent

    def start(self) -> None:
        """Make the first run, unless it was made; before another model is loaded."""
        if not self.first:
            self.first = self.once()
            self.look_at_memory()

    def look_at_memory(self) -> None:
        """Keep the largest use of memory seen; right only while no other model is loaded."""
        used = self.memory_used()
        if used is not None:
            self.peak = max(used - (self.before or 0), self.peak or 0)


def measure(
    subjects: Sequence[Subject], plan: Plan, tick: Callable[[float], None] | None = None
) -> None:
    """Measure subjects in turn, in an order that changes sides, so that drift hits all alike.

    Args:
        subjects: one or two.
        plan: how long.
        tick: called with the share that is done, 0 to 1.
    """
    for subject in subjects:
        subject.start()
    _repeat(subjects, Subject.once, plan.warmup_runs, plan.warmup_seconds, plan.most, None)
    _repeat(subjects, Subject.measure, plan.runs, plan.seconds, plan.most, tick)
    if len(subjects) == 1:
        subjects[0].look_at_memory()


def _repeat(
    subjects: Sequence[Subject],
    act: Callable[[Subject], float],
    runs: int,
    seconds: float,
    most: int,
    tick: Callable[[float], None] | None,
) -> None:
    spent, count = 0.0, 0
    while count < most and (count < runs or spent < seconds * len(subjects)):
        order = subjects if count % 2 == 0 else list(reversed(subjects))
        spent += sum(act(subject) for subject in order)
        count += 1
        if tick is not None:
            share = min(count / max(runs, 1), spent / max(seconds * len(subjects), 1e-9))
            tick(min(1.0, share))


def describe(values: Sequence[float]) -> dict[str, float]:
    """Return count, min, mean, p50, p90, p99, max (seconds) and cv of times."""
    data = np.asarray(values, np.float64)
    p50, p90, p99 = (float(v) for v in np.percentile(data, [50, 90, 99]))
    mean = float(data.mean())
    spread = float(data.std(ddof=1)) if data.size > 1 else 0.0
    return {
        "count": int(data.size),
        "min": float(data.min()),
        "mean": mean,
        "p50": p50,
        "p90": p90,
        "p99": p99,
        "max": float(data.max()),
        "cv": spread / mean if mean else 0.0,
    }


def summary(subject: Subject) -> dict[str, Any]:
    """Return everything measured of one subject, with warnings and hints."""
    total = describe(subject.seconds)
    parts = {name: describe(values) for name, values in subject.divided.items()}
    return {
        "first": subject.first,
        "latency": total,
        "throughput": 1.0 / total["mean"] if total["mean"] else math.inf,
        "parts": parts,
        "memory_peak": subject.peak,
        "warnings": _warnings(total),
        "hints": _hints(parts, total),
    }


def _warnings(total: Mapping[str, float]) -> list[str]:
    found = []
    if total["cv"] > UNSTABLE:
        found.append(
            f"unstable: the times vary by {100 * total['cv']:.1f} % (cv); close other work, "
            "measure longer"
        )
    if total["count"] < 100:
        found.append(f"p99 of {total['count']:.0f} runs is close to their maximum")
    return found


def _hints(parts: Mapping[str, Mapping[str, float]], total: Mapping[str, float]) -> list[str]:
    compute = parts.get("compute", {}).get("p50", 0.0)
    found = []
    for name, words in (("h2d", "copying inputs"), ("d2h", "copying outputs")):
        value = parts.get(name, {}).get("p50", 0.0)
        if compute and value >= compute:
            found.append(
                f"bound by {words}: {1e3 * value:.3f} ms against {1e3 * compute:.3f} ms of "
                "computing; keep tensors on the device (bind) or overlap runs (map)"
            )
    known = sum(part.get("p50", 0.0) for part in parts.values())
    if parts and total["p50"] > 0 and known < 0.8 * total["p50"]:
        found.append("bound by the caller: less than 80 % of the time is spent in the session")
    return found


def ratio(a: Subject, b: Subject) -> dict[str, float]:
    """Return how many times faster B is than A: ratio of medians with a 95 % interval.

    The interval is a bootstrap over rounds, each of one run of A and one of B.
    """
    first = np.asarray(a.seconds, np.float64)
    second = np.asarray(b.seconds, np.float64)
    count = min(first.size, second.size, _ROUNDS)
    first, second = first[-count:], second[-count:]
    draw = np.random.default_rng(0)
    many = []
    for _ in range(_RESAMPLES):
        pick = draw.integers(0, count, count)
        many.append(float(np.median(first[pick]) / np.median(second[pick])))
    low, high = (float(v) for v in np.percentile(many, [2.5, 97.5]))
    return {"value": float(np.median(first) / np.median(second)), "low": low, "high": high}
