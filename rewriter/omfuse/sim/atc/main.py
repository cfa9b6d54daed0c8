"""One run of the stand-in: arguments, checks, model, build, in the order of ATC."""

from __future__ import annotations

import json
import os
import platform
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped,unused-ignore]

from omfuse.atc.config import load_soc
from omfuse.atc.om.writer import write_om
from omfuse.sim.atc import failure
from omfuse.sim.atc.arguments import read_arguments
from omfuse.sim.atc.assemble import Built, assemble
from omfuse.sim.atc.checks import check_flags, check_platform, input_path
from omfuse.sim.atc.failure import ArgumentTrouble, AtcFailure, Message, fail
from omfuse.sim.atc.interface import check_dtype_flags, choose_outputs, dtype_name, make_interface
from omfuse.sim.atc.onnx_parser import check_kernels, check_report, parse
from omfuse.sim.atc.plugins import load_registry
from omfuse.sim.atc.shape_flags import ShapeRequest, match_inputs

_FAILED_STATUS = 255


def main(
    argv: Sequence[str],
    env: Mapping[str, str],
    cwd: Path,
    out: TextIO,
    err: TextIO,
    program: str = "atc.bin",
) -> int:
    """Run once and return the exit status."""

    def say(line: str) -> None:
        out.write(line + "\n")
        out.flush()

    era = failure.era_of(env)
    say(failure.START)
    try:
        given = read_arguments(argv)
        if given.get("help") == "true":
            say("usage: atc --model=FILE --framework=5 --output=NAME --soc_version=CHIP ...")
            return 0
        warnings = _run(given, env, cwd, say, " ".join([program, *argv]))
    except ArgumentTrouble as trouble:
        err.write(f"{trouble}\n")
        err.flush()
        for line in failure.print_failure(AtcFailure([]), era):
            say(line)
        return _FAILED_STATUS
    except AtcFailure as found:
        for line in failure.print_failure(found, era):
            say(line)
        return _FAILED_STATUS
    except Exception as error:
        # ATC calls what it did not foresee an inner error; the trace goes to its log.
        traceback.print_exc(file=err)
        text = f"{type(error).__name__}: {' '.join(str(error).split())}"
        for line in failure.print_failure(AtcFailure([Message("E19999", text)], True), era):
            say(line)
        return _FAILED_STATUS
    say(failure.DOTS)
    if env.get("OMFUSE_SIM_ATC_FAULT") != "silent":
        say(failure.SUCCESS)
    for warning in warnings:
        for line in failure.lines_of(warning, era):
            say(line)
    return 0


def _run(
    given: Mapping[str, str], env: Mapping[str, str], cwd: Path, say: object, command: str
) -> list[Message]:
    mode = given.get("mode", "0")
    if mode == "6":
        return _show(given, say)
    if mode == "1":
        return _dump(given)
    if mode == "5":
        return _read_dump(given)
    request = check_flags(given)
    for line in _deprecated(given):
        _say(say, line)
    try:
        return _work(given, request, env, cwd, say, command)
    except AtcFailure as found:
        # Whatever fails from here on is printed after the line of dots.
        raise AtcFailure(found.messages, started=True) from found


def _work(
    given: Mapping[str, str],
    request: ShapeRequest,
    env: Mapping[str, str],
    cwd: Path,
    say: object,
    command: str,
) -> list[Message]:
    """Load operators and model, then build."""
    new_parser = env.get("OMFUSE_SIM_ATC_PARSER") == "new"
    registry = load_registry(env, new_parser)
    if given.get("log", "null") != "null" and env.get("ASCEND_SLOG_PRINT_TO_STDOUT") == "1":
        for line in registry.log:
            _say(say, line)
    check_platform(given)
    report = _work_folder(env, cwd) / given.get("check_report", "check_result.json")
    parsed = parse(input_path("model", given["model"]), registry, new_parser, report)
    if given.get("mode") == "3":
        graph = parsed.model.graph
        text = json.dumps(check_report(graph, parsed.model, new_parser, {}), indent=2)
        report.write_text(text, "utf-8")
        return []
    request = match_inputs(request, parsed.inputs, parsed.names)
    choose_outputs(parsed, given)
    check_dtype_flags(parsed, given)
    interface = make_interface(parsed, request, given)
    precision = given.get("precision_mode") or given.get("precision_mode_v2") or "force_fp16"
    soc = load_soc(given["soc_version"])
    dtypes = {n: dtype_name(v.elem_type) for n, v in interface.values.items() if v.elem_type}
    check_kernels(parsed, soc, dtypes, precision)
    _work_files(given, env, cwd)
    _fault(env)
    built = assemble(parsed, interface, given, command)
    _write(built, given, env)
    if given.get("display_model_info") == "1":
        _display(built.attrs, built.modeldef_bytes, say)
    return _warnings(env)


def _say(say: object, line: str) -> None:
    assert callable(say)
    say(line)


def _deprecated(given: Mapping[str, str]) -> Iterator[str]:
    """Yield what ATC prints about flags that it still takes."""
    if "input_shape_range" in given:
        yield "WARNING: --input_shape_range is deprecated, use --input_shape instead."
        yield "WARNING: --input_shape_range overrides --input_shape."
    if "shape_generalized_build_mode" in given:
        yield "NOTE: --shape_generalized_build_mode is deprecated."


def _work_folder(env: Mapping[str, str], cwd: Path) -> Path:
    return Path(env["ASCEND_WORK_PATH"]) if env.get("ASCEND_WORK_PATH") else cwd


def _work_files(given: Mapping[str, str], env: Mapping[str, str], cwd: Path) -> None:
    """Leave what ATC leaves in its working folder."""
    folder = _work_folder(env, cwd)
    meta = Path(given["debug_dir"]) if given.get("debug_dir") else cwd / "kernel_meta"
    meta.mkdir(parents=True, exist_ok=True)
    if given.get("op_debug_level", "0") != "0":
        (meta / "simulated.json").write_text('{"binFileName": "simulated"}\n', "utf-8")
    if given.get("export_compile_stat", "1") != "0":
        passes = {"SimulatedPass": {"match_times": "0", "effect_times": "0"}}
        document = [{"graph_fusion": passes, "session_and_graph_id": "0_0"}]
        (folder / "fusion_result.json").write_text(json.dumps(document, indent=1), "utf-8")


def _fault(env: Mapping[str, str]) -> None:
    """Fail the build as asked."""
    wanted = env.get("OMFUSE_SIM_ATC_FAULT", "")
    if wanted == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if wanted == "hang":
        time.sleep(3600)
    code, _, text = wanted.partition(":")
    if len(code) == 6 and code[0] == "E":
        raise AtcFailure([Message(code, text or f"simulated failure of the build [{code}]")], True)


def _warnings(env: Mapping[str, str]) -> list[Message]:
    wanted = env.get("OMFUSE_SIM_ATC_FAULT", "")
    if wanted.startswith("W") and len(wanted) == 6:
        return [Message(wanted, "simulated warning of the build")]
    return []


def _write(built: Built, given: Mapping[str, str], env: Mapping[str, str]) -> None:
    wanted = env.get("OMFUSE_SIM_ATC_FAULT")
    if wanted == "no-om":
        return
    suffix = ""
    if env.get("OMFUSE_SIM_ATC_SUFFIX") == "1":
        suffix = f"_linux_{given.get('host_env_cpu') or platform.machine()}"
    target = Path(f"{given['output']}{suffix}.om")
    try:
        for name, data in built.files.items():
            beside = target.parent / name
            beside.parent.mkdir(exist_ok=True)
            beside.write_bytes(data)
        write_om(target, built.header, [built.parts])
        if wanted == "bad-om":
            target.write_bytes(target.read_bytes()[:-1])
    except OSError as error:
        raise AtcFailure(
            [Message("E13004", f"Failed to write file [{target}]: {error.strerror}")], True
        ) from None


def _display(attrs: Mapping[str, object], modeldef_bytes: int, say: object) -> None:
    sizes = attrs["om_info_list"]
    assert isinstance(sizes, list)
    lines = [
        "============ Display Model Info start ============",
        f"Original Atc command line: {attrs['atc_cmdline']}",
        f"system   info: atc_version[{attrs['atc_version']}], soc_version[{attrs['soc_version']}],"
        f" framework_type[{attrs['framework_type']}].",
        f"resource info: memory_size[{attrs['memory_size']} B], weight_size"
        f"[{attrs['weight_size']} B], stream_num[{attrs['stream_num']}], event_num"
        f"[{attrs['event_num']}].",
        f"om       info: modeldef_size[{modeldef_bytes} B], weight_data_size[{sizes[0]} B], "
        f"tbe_kernels_size[{sizes[1]} B], cust_aicpu_kernel_store_size[{sizes[2]} B], "
        f"task_info_size[{sizes[3]} B], so_store_size[{sizes[4]} B].",
        "============ Display Model Info end   ============",
    ]
    for line in lines:
        _say(say, line)


def _show(given: Mapping[str, str], say: object) -> list[Message]:
    """Mode 6: show an existing file."""
    from omfuse.atc.om.summary import describe_om
    from omfuse.errors import ModelError

    if "framework" in given:
        raise fail("E10057", "[--framework] cannot be used with mode 6.")
    path = input_path("om", given.get("om", ""))
    try:
        found = describe_om(path)
    except ModelError as error:
        raise fail("E10001", f"Value [{path}] for [--om] is invalid. Reason: {error}") from None
    memory = found["memory"]
    model_def = next(p["bytes"] for p in found["partitions"] if p["name"] == "MODEL_DEF")
    attrs = {
        "atc_cmdline": found["command"],
        "atc_version": found["atc_version"],
        "soc_version": found["soc"],
        "framework_type": found["framework"],
        "memory_size": memory["work_bytes"],
        "weight_size": memory["weight_bytes"],
        "stream_num": memory["streams"],
        "event_num": memory["events"],
        "om_info_list": [*memory["sections"], 0, 0, 0, 0, 0][:5],
    }
    _display(attrs, model_def, say)
    return []


def _read_dump(given: Mapping[str, str]) -> list[Message]:
    """Mode 5: the text of a dumped graph as JSON; only its arguments are simulated."""
    path = input_path("om", given.get("om", ""))
    if not given.get("json"):
        raise fail("E10004", "Value for [--json] is empty.")
    if path.suffix != ".txt":
        raise fail("E10001", f"Value [{path}] for [--om] is invalid. Reason: It is no .txt file.")
    raise fail("E10055", "The simulated ATC has no mode 5.")


def _dump(given: Mapping[str, str]) -> list[Message]:
    """Mode 1: write a model as JSON, an ONNX file with framework 5, otherwise an ``.om``."""
    from google.protobuf import json_format  # type: ignore[import-untyped,unused-ignore]

    from omfuse.atc.om.summary import describe_om
    from omfuse.errors import ModelError

    path = input_path("om", given.get("om", ""))
    if not given.get("json"):
        raise fail("E10004", "Value for [--json] is empty.")
    try:
        if given.get("framework") == "5":
            model = onnx.load(str(path), load_external_data=False)
            text = json_format.MessageToJson(model)
        else:
            text = json.dumps(describe_om(path), indent=1)
    except (ModelError, DecodeError, ValueError) as error:
        raise fail("E13005", f"Failed to parse file [{path}]: {error}") from None
    Path(given["json"]).write_text(text, "utf-8")
    return []


def run() -> int:
    """Run with the arguments and the environment of this process."""
    program = os.environ.get("OMFUSE_SIM_ATC_PROGRAM", "atc.bin")
    return main(sys.argv[1:], os.environ, Path.cwd(), sys.stdout, sys.stderr, program)
