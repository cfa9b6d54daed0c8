"""Everything that is decided before ATC starts: model, shapes, options, form, rules."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from omfuse.atc import cache, precision, runfolder
from omfuse.atc.config import SocConfig, load_soc
from omfuse.atc.environment import Toolchain
from omfuse.atc.form.casts import wide_bias
from omfuse.atc.form.make import AtcForm, FormOptions, make_form
from omfuse.atc.form.save import save_form
from omfuse.atc.job import Job
from omfuse.atc.options import rules as atc_rules
from omfuse.atc.options.fields import FIELD_NAMES, AtcOptions, apply_settings
from omfuse.atc.options.flags import FLAGS
from omfuse.atc.options.io_rules import PLAIN_PATH
from omfuse.atc.options.problem import OptionsError, RuleContext
from omfuse.atc.shapes.plan import plan_shapes
from omfuse.atc.shapes.shape_plan import ShapePlan
from omfuse.errors import ModelError, UsageError
from omfuse.graph.model_io import check_external, follow_links

_NAME_MAX = 255  # bytes of a file name


@dataclass
class Prepared:
    """Everything decided before ATC starts; ``weights`` is the folder of external data."""

    job: Job
    soc: SocConfig
    model: onnx.ModelProto
    weights: Path
    plan: ShapePlan
    options: AtcOptions
    notes: list[str]
    warnings: list[str]


def prepare(job: Job) -> Prepared:
    """Read the model, choose shapes and lay the options; raises for everything unusable."""
    soc = load_soc(job.soc)
    model = load_model(job.model)
    weights = follow_links(model, job.model)
    inputs = graph_inputs(model)
    settings = [*soc.atc.items(), *job.settings]
    options = apply_settings(AtcOptions(soc_version=soc.name), settings)
    plan = _shape_plan(job, inputs, options)
    precision.check_preset(job.precision, soc)
    _check_output(job)
    for folder in job.op_paths:
        if not folder.is_dir():
            raise UsageError(
                "bad-op-path",
                "no such folder",
                where=str(folder),
                hint="--op-path names the vendor folder of an operator package",
            )
    return Prepared(job, soc, model, weights, plan, options, list(plan.reasons), list(soc.notes))


def _shape_plan(
    job: Job, inputs: Mapping[str, Sequence[int | str | None]], options: AtcOptions
) -> ShapePlan:
    given = [n for n in ("input_shape", "input_shape_range") if getattr(options, n) is not None]
    if given and job.shape:
        raise UsageError(
            "two-shapes",
            f"shapes come both from --shape and from --set {given[0]}",
            hint="use --shape alone; it writes the flags",
        )
    if given:
        return ShapePlan("given", {}, [f"shapes as given in {given[0]}"], {})
    return plan_shapes(inputs, job.shape, aipp=options.insert_op_conf is not None)


def load_model(path: Path) -> onnx.ModelProto:
    """Load a model without its external data.

    Raises:
        ModelError: ``no-model``, ``not-onnx``, ``external-data-missing`` and alike.
    """
    if not path.is_file():
        raise ModelError("no-model", "no such file", where=str(path), hint="correct the path")
    if path.suffix.lower() == ".om":
        raise ModelError(
            "not-onnx",
            "this is a compiled .om already",
            where=str(path),
            hint="`omfuse inspect` shows it, `omfuse run` runs it; compile takes the .onnx",
        )
    with path.open("rb") as stream:
        if stream.read(40).startswith(b"version https://git-lfs"):
            raise ModelError(
                "not-onnx",
                "this is a Git LFS pointer, not the model",
                where=str(path),
                hint="git lfs pull",
            )
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:
        raise ModelError(
            "not-onnx",
            f"truncated or not an ONNX model: {type(error).__name__}",
            where=str(path),
            hint="export it again, or copy it again in binary mode",
        ) from None
    if not model.HasField("graph") or not (model.graph.node or model.graph.output):
        raise ModelError(
            "not-onnx",
            "the file holds no graph (ATC E16004)",
            where=str(path),
            hint="export it again",
        )
    check_external(model, path)
    return model


def graph_inputs(model: onnx.ModelProto) -> dict[str, list[int | str | None]]:
    """Return the real inputs of a model with their dims: a number, a symbol, or None."""
    weights = {t.name for t in model.graph.initializer}
    found: dict[str, list[int | str | None]] = {}
    for info in model.graph.input:
        if info.name in weights:
            continue
        dims: list[int | str | None] = []
        for dim in info.type.tensor_type.shape.dim:
            if dim.HasField("dim_value") and dim.dim_value >= 0:
                dims.append(dim.dim_value)
            else:
                dims.append(dim.dim_param or None)
        found[info.name] = dims
    return found


def _check_output(job: Job) -> None:
    manifest = f"{job.output.stem}.manifest.json"
    if max(len(os.fsencode(name)) for name in (job.output.name, manifest)) > _NAME_MAX:
        raise UsageError(
            "bad-output",
            "the name is too long (ATC E10021)",
            where=f"{str(job.output)[:80]}...",
            hint="choose a shorter -o",
        )
    if job.output.suffix.lower() != ".om":
        raise UsageError(
            "bad-output", f"{job.output.name} does not end with .om", where="-o", hint="-o model.om"
        )
    if job.output.is_dir():
        raise UsageError(
            "bad-output", "the output is a folder", where=str(job.output), hint="name a file"
        )
    if job.output.resolve() == job.model.resolve():
        raise UsageError(
            "bad-output",
            "output and model are the same file",
            where=str(job.output),
            hint="-o model.om",
        )
    if not job.dry_run:
        runfolder.check_writable(job.output)


def form_of(ready: Prepared) -> AtcForm:
    """Make the ATC form that a job asks for."""
    job = ready.job
    keeps = _keeps_dtypes(ready)
    # Where the bias of attention is cast to fp16, masks must survive that as well.
    clamp = precision.clamps_masks(job.precision) or (keeps and not wide_bias(ready.soc))
    options = FormOptions(
        attention=job.attention,
        opset=job.opset,
        mask_fill=job.mask_fill if clamp else None,
        keep_domains=job.keep_domains,
        shapes=ready.plan.concrete if ready.plan.kind == "static" else {},
        keep_dtypes=keeps,
    )
    return make_form(ready.model, options, ready.soc, ready.weights)


def _keeps_dtypes(ready: Prepared) -> bool:
    """Tell whether the precision mode in force leaves every dtype alone."""
    given = ready.options.precision_mode or ready.options.precision_mode_v2
    if given is None:
        return ready.job.precision == "origin"
    return given in ("must_keep_origin_dtype", "origin")


def final_options(ready: Prepared, form: AtcForm, folder: Path, carry: bool = False) -> AtcOptions:
    """Write model and option files into the run folder and complete the options.

    Args:
        ready: what was decided.
        form: the model that ATC reads.
        folder: the run folder.
        carry: copy every file that a flag names, because the folder goes to another machine.
    """
    (folder / "out").mkdir()
    path = save_form(form.model, ready.weights, folder)
    chosen = ready.options
    preset = precision.plan_precision(ready.job.precision, form.model, ready.soc)
    own_mode = chosen.precision_mode is not None or chosen.precision_mode_v2 is not None
    flags = precision.write_files(preset, folder)
    if own_mode:
        flags.pop("precision_mode", None)
        ready.notes.append("precision mode as given with --set; the preset's own mode is left out")
    else:
        ready.notes += preset.reasons
    for name in sorted(n for n in flags if getattr(chosen, n) is not None):
        ready.notes.append(f"{name} as given with --set; the one of the preset is left out")
    flags = {k: v for k, v in flags.items() if getattr(chosen, k) is None}
    shapes = {k: v for k, v in ready.plan.flags.items() if getattr(chosen, k) is None}
    options = apply_settings(_settled(chosen, folder, carry), {**flags, **shapes}.items())
    stem = runfolder.make_plain(ready.job.output.stem)
    return options.replace(model=path, output=folder / "out" / stem)


def _settled(options: AtcOptions, folder: Path, carry: bool) -> AtcOptions:
    """Make paths absolute, since ATC runs elsewhere; what it may not reach is copied along."""
    changes: dict[str, Path] = {}
    for name in FIELD_NAMES:
        value = getattr(options, name)
        if not isinstance(value, Path) or not str(value):
            continue
        real = value.expanduser().absolute()
        if not FLAGS[name].is_path:
            changes[name] = value if carry else real
            continue
        if real.exists() and (carry or not PLAIN_PATH.match(str(real.resolve()))):
            copy = folder / runfolder.make_plain(f"{name}{value.suffix}")
            cache.copy_any(real, copy)
            real = copy
        changes[name] = real
    return options.replace(**changes)


def check_rules(ready: Prepared, options: AtcOptions, toolchain: Toolchain, form: AtcForm) -> None:
    """Check every rule of ATC; warnings go to the job's list.

    Raises:
        OptionsError: when a rule is broken and the job is checked.
    """
    inputs = {
        name: [d if isinstance(d, int) else "?" for d in dims]
        for name, dims in graph_inputs(ready.model).items()
    }
    graph = form.model.graph
    nodes = {node.name: len(node.output) for node in graph.node}
    tensors = frozenset(name for node in graph.node for name in node.output)
    context = RuleContext(ready.soc, toolchain.major, inputs, nodes, tensors)
    found = atc_rules.check(options, context)
    errors = [rule for rule in found if rule.severity == "error"]
    if errors and ready.job.checked:
        raise OptionsError(errors)
    ready.warnings += [str(rule) + (f"; {rule.hint}" if rule.hint else "") for rule in found]
