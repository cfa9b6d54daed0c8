"""The stages of a pipeline: rewrite, compare on the host, compile for each chip, compare there."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omfuse._version import __version__
from omfuse.atc.cache import file_digest, make_key
from omfuse.errors import OmfuseError, OutputError
from omfuse.pipeline import page
from omfuse.pipeline.estimates import estimates
from omfuse.pipeline.settings import DiffSettings, Settings
from omfuse.pipeline.state import State, write_text

if TYPE_CHECKING:
    from omfuse.atc.job import CompileResult, Job
    from omfuse.diff.report import DiffReport

Tell = Callable[[str], None]


@dataclass
class Target:
    """One chip: compile, estimate, and comparison of its ``.om`` with the original."""

    soc: str
    compile: dict[str, Any] | None = None
    diff: dict[str, Any] | None = None
    estimate: list[dict[str, Any]] = field(default_factory=list)
    error: dict[str, Any] | None = None
    exit_code: int = 0

    @property
    def passed(self) -> bool:
        """Tell whether the ``.om`` was made and computes the same."""
        return self.diff is not None and self.diff["verdict"] == "pass"


@dataclass
class PipelineResult:
    """What every stage answered.

    Attributes:
        settings: what was asked.
        fused: the rewritten model.
        rewrite: fields of ``omfuse.rewrite/1``.
        host: ``omfuse.diff/1`` of the rewritten model against the original.
        targets: one entry a chip.
        required: whether ``require`` was met.
        page: the summary page.
        reused: stages taken over from an earlier run.
        seconds: wall time.
    """

    settings: Settings
    fused: Path
    rewrite: dict[str, Any]
    host: dict[str, Any]
    targets: list[Target] = field(default_factory=list)
    required: bool = True
    page: Path | None = None
    reused: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Tell whether all that was asked for is there and computes the same."""
        good = self.host["verdict"] == "pass" and all(target.passed for target in self.targets)
        return good and self.required

    @property
    def exit_code(self) -> int:
        """Return 0, 1 for a wrong answer, or the code of the worst failure."""
        failed = max((target.exit_code for target in self.targets), default=0)
        return failed or int(not self.passed)

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form, schema ``omfuse.pipeline/1``."""
        return {
            "schema": "omfuse.pipeline/1",
            "model": str(self.settings.model),
            "device": self.settings.device,
            "simulated": self.settings.device == "sim",
            "verdict": "pass" if self.passed else "fail",
            "fused": str(self.fused),
            "rewrite": self.rewrite,
            "required": self.required,
            "host": self.host,
            "targets": [{**asdict(target), "passed": target.passed} for target in self.targets],
            "page": None if self.page is None else str(self.page),
            "reused": self.reused,
            "seconds": round(self.seconds, 3),
        }


def run_pipeline(settings: Settings, tell: Tell | None = None) -> PipelineResult:
    """Rewrite, compare, compile and compare again; a chip that fails does not stop the others.

    Everything is written below ``settings.output``: the fused model, one ``.om`` a chip, and
    ``report/index.html``.  Stages whose inputs are the same are taken over.

    Raises:
        ModelError: the model cannot be read.
        UsageError: a setting is wrong, no chip is named.
        OutputError: the folder cannot be written.
    """
    started, say = time.monotonic(), tell or (lambda text: None)
    from omfuse.atc.layers import make_jobs

    source = _Source(settings)
    jobs = make_jobs(
        source.fused,
        settings.output / f"{settings.model.stem}.{{soc}}.om",
        settings.compile,
        settings.fixed,
        config=settings.config,
    )
    source.prepare()
    say("rewriting")
    rewritten = source.stage("rewrite", source.rewrite_key(), source.rewrite)
    say("comparing in onnxruntime")
    key = source.diff_key(file_digest(source.fused), "host")
    host = source.stage("host", key, lambda: source.compare(source.fused, "host", None))
    result = PipelineResult(settings, source.fused, rewritten, host)
    result.required = _met(settings.require, rewritten)
    for job in jobs:
        result.targets.append(_target(job, source, say))
    result.reused = source.reused
    result.seconds = time.monotonic() - started
    result.page = settings.output / "report" / "index.html"
    write_text(result.page, page.render(result.as_dict()))
    return result


def _met(require: int | str | None, rewritten: dict[str, Any]) -> bool:
    if require is None:
        return True
    if require == "all":
        return bool(rewritten["fused"]) and not rewritten["declined"]
    return int(rewritten["fused"]) >= int(require)


def _target(job: Job, source: _Source, say: Tell) -> Target:
    target = Target(job.soc)
    try:
        say(f"compiling for {job.soc}")
        compiled = source.compile(job)
        target.compile = compiled.as_dict()
        if compiled.cached:
            source.reused.append(f"compile {job.soc}")
        assert compiled.output is not None
        om = compiled.output
        if job.attention == "custom":
            target.estimate = estimates(source.fused, compiled.info["attention"], job.soc)
        say(f"comparing {om.name}")
        key = source.diff_key(file_digest(om), job.device)
        target.diff = source.stage(
            f"diff {job.soc}", key, lambda: source.compare(om, job.soc, job.device)
        )
    except OmfuseError as error:
        target.error, target.exit_code = error.as_dict(), error.exit_code
    return target


class _Source:
    """The original and its output folder, with the stages that start from them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.folder = settings.output
        self.fused = self.folder / f"{settings.model.stem}.fused.onnx"
        self.reused: list[str] = []
        self._files: list[Path] = []

    def prepare(self) -> None:
        try:
            (self.folder / "report").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                "cannot-write", error.strerror or str(error), str(self.folder), "choose another -o"
            ) from error
        self._digest = _model_digest(self.settings.model)
        self._state = State(self.folder, self.settings.resume)

    def stage(self, name: str, key: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Take over a finished stage or run it."""
        answer = self._state.finished(name, key)
        if answer is not None:
            self.reused.append(name)
            return dict(answer)
        self._files = []
        answer = work()
        self._state.finish(name, key, self._files, answer)
        return answer

    def rewrite_key(self) -> str:
        return make_key({"version": __version__, "model": self._digest})

    def rewrite(self) -> dict[str, Any]:
        import omfuse
        from omfuse import api

        result = omfuse.rewrite(self.settings.model)
        api.save(result, self.settings.model, self.fused)
        self._files = [self.fused]
        return result.as_dict()

    def compile(self, job: Job) -> CompileResult:
        from omfuse.atc.compile import run_job

        return run_job(replace(job, model=self.fused))

    def diff_key(self, judged: str, device: str) -> str:
        parts = {"version": __version__, "model": self._digest, "judged": judged}
        return make_key({**parts, "device": device, "diff": asdict(self.settings.diff)})

    def compare(self, judged: Path, name: str, device: str | None) -> dict[str, Any]:
        from omfuse.diff.compare import diff

        options: DiffSettings = self.settings.diff
        overrides = _override(options)
        report = diff(
            self.settings.model,
            judged,
            seeds=options.seeds,
            dims=dict(options.dims),
            precision=options.precision,
            dead_rows=options.dead_rows,
            device=device,
            overrides=overrides,
            replay=self._replay(judged, device),
        )
        return {**report.as_dict(), "page": self._page(report, name)}

    def _replay(self, judged: Path, device: str | None) -> str:
        options = self.settings.diff
        words = ["omfuse", "diff", str(self.settings.model), str(judged)]
        words += ["--device", device] if device else []
        for seed in options.seeds:
            words += ["--seed", str(seed)]
        for name, size in options.dims:
            words += ["--dim", f"{name}={size}"]
        if options.precision != "auto":
            words += ["--precision", options.precision]
        for name in ("budget", "atol", "rtol"):
            value = getattr(options, name)
            words += [f"--{name}", f"{value:g}"] if value is not None else []
        return shlex.join([*words, "--dead-rows", options.dead_rows])

    def _page(self, report: DiffReport, name: str) -> str | None:
        """Write the report of one comparison; without the plotting library there is none."""
        if find_spec("matplotlib") is None:
            return None
        from omfuse.diff import html

        path = self.folder / "report" / f"{name.lower()}.html"
        html.write(report, path)
        self._files = [*self._files, path]
        return path.name


def _override(options: DiffSettings) -> dict[str, Any]:
    from omfuse.diff.verdict import Override

    if options.budget is None and options.atol is None and options.rtol is None:
        return {}
    return {"*": Override(budget=options.budget, atol=options.atol, rtol=options.rtol)}


def _model_digest(path: Path) -> list[str]:
    """Hash the file and the weight files that it names.

    Raises:
        ModelError: the model cannot be read.
    """
    from omfuse.graph.model_io import external_tensors, load_model, location_of

    model = load_model(path)
    places = sorted({location_of(tensor) for tensor in external_tensors(model)})
    return [file_digest(path), *(file_digest(path.parent / place) for place in places)]
