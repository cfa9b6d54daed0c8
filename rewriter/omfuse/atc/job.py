"""What one compile is asked to do and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omfuse.atc.process import Tick


@dataclass(frozen=True)
class Job:
    """One compile: a model for one SoC with one set of shapes.

    Attributes:
        model: path of the ONNX file.
        output: path of the ``.om`` to write.
        soc: soc_version, case does not matter.
        device: ``ascend`` for the real ATC, ``sim`` for the simulated one.
        shape: texts of ``--shape``.
        precision: name of a preset.
        attention: ``custom``, ``prompt-flash`` or ``score``.
        opset: version to lower to, 0 keeps the model's, None chooses.
        mask_fill: value for mask constants that overflow fp16; None leaves them.
        settings: ATC flags from project file and ``--set``, later ones win.
        keep_domains: foreign domains with parser plug-ins of the user.
        cann: CANN folder instead of searching.
        op_paths: operator packages to put in front of ``ASCEND_CUSTOM_OPP_PATH``.
        timeout: seconds for ATC.
        parallel: operators that ATC may compile at once.
        log_dir: where run folders are made.
        use_cache: look up and store results by content.
        checked: apply the rules before ATC starts; off for a newer ATC that allows more.
        dry_run: prepare everything and stop before starting ATC.
    """

    model: Path
    output: Path
    soc: str
    device: str = "ascend"
    shape: tuple[str, ...] = ()
    precision: str = "fp16"
    attention: str = "custom"
    opset: int | None = None
    mask_fill: float | None = -10000.0
    settings: tuple[tuple[str, Any], ...] = ()
    keep_domains: tuple[str, ...] = ()
    cann: Path | None = None
    op_paths: tuple[Path, ...] = ()
    timeout: float | None = None
    parallel: int | None = None
    log_dir: Path | None = None
    use_cache: bool = True
    checked: bool = True
    dry_run: bool = False


@dataclass
class CompileResult:
    """One finished compile.

    Attributes:
        output: the ``.om``; None after a dry run.
        soc: soc_version.
        device: ``ascend`` or ``sim``; a ``sim`` result is simulated and runs on no chip.
        command: the ATC command, ready to paste into a shell.
        cached: whether the result came from the cache.
        seconds: time of this call, of ATC itself when not cached.
        attention: FlashAttention nodes in the ATC form.
        shape_kind: ``static``, ``batch-gears``, ``dims-gears``, ``image-gears`` or ``range``.
        notes: what was decided and why.
        warnings: what may go wrong later.
        manifest: the JSON file beside the ``.om``.
        run_folder: logs and reports of ATC; None when cached.
        cann: version of CANN, empty when unknown or simulated.
        info: what the ``.om`` reader found.
    """

    output: Path | None
    soc: str
    device: str
    command: str
    cached: bool = False
    seconds: float = 0.0
    attention: list[str] = field(default_factory=list)
    shape_kind: str = "static"
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    manifest: Path | None = None
    run_folder: Path | None = None
    cann: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "output": None if self.output is None else str(self.output),
            "soc": self.soc,
            "device": self.device,
            "simulated": self.device == "sim",
            "cached": self.cached,
            "seconds": round(self.seconds, 3),
            "attention": len(self.attention),
            "shape_kind": self.shape_kind,
            "notes": self.notes,
            "warnings": self.warnings,
            "command": self.command,
            "cann": self.cann,
            "manifest": None if self.manifest is None else str(self.manifest),
            "run_folder": None if self.run_folder is None else str(self.run_folder),
            "om": dict(self.info),
        }


@dataclass
class Progress:
    """Where a caller hears of progress: ``stage`` names the step, ``tick`` is from ATC."""

    stage: Callable[[Job, str], None] = lambda job, text: None
    tick: Callable[[Job, Tick], None] = lambda job, tick: None


def output_names(output: Path, socs: Sequence[str], variants: Sequence[str]) -> list[Path]:
    """Name the outputs of several compiles: ``model.om`` becomes ``model.<soc>.<variant>.om``.

    ``{soc}`` and ``{variant}`` in the name say where they go instead.
    """
    names = []
    for soc in socs:
        for variant in variants:
            text, tail = str(output), ""
            if len(socs) > 1 and "{soc}" not in text:
                tail += f".{soc.lower()}"
            if len(variants) > 1 and "{variant}" not in text:
                tail += f".{variant}"
            text = text.replace("{soc}", soc.lower()).replace("{variant}", variant)
            path = Path(text)
            names.append(path.with_name(path.stem + tail + (path.suffix or ".om")))
    return names
