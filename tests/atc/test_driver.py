from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.atc.compiling import Maker
from tests.atc.conftest import DONE, GOOD, START

import omfuse
from omfuse.atc.driver import AtcError, AtcRun, run_atc
from omfuse.atc.environment import child_environment, find_toolchain, read_version
from omfuse.atc.om.summary import describe_om
from omfuse.atc.options.fields import AtcOptions
from omfuse.atc.process import Tick, run_program
from omfuse.atc.reports import FusionPass, read_fusion_result
from omfuse.errors import NotAvailableError, ToolchainError, UsageError


def drive(home: Path, tmp_path: Path, **more: object) -> AtcRun:
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "out").mkdir()
    (folder / "model.onnx").write_bytes(b"model" * 20)
    options = AtcOptions(
        model=folder / "model.onnx", output=folder / "out" / "m", soc_version="Ascend310P3"
    )
    toolchain = find_toolchain("ascend", home)
    env = child_environment(toolchain, os.environ, folder)
    return run_atc(toolchain, options, folder, env, verify=describe_om, **more)  # type: ignore[arg-type]


def failure(home: Path, tmp_path: Path, **more: object) -> AtcError:
    with pytest.raises(AtcError) as caught:
        drive(home, tmp_path, **more)
    return caught.value


def test_a_good_run(fake_cann: Maker, tmp_path: Path) -> None:
    run = drive(fake_cann(), tmp_path)
    assert run.om.name == "m.om"
    assert [part["bytes"] for part in run.info["partitions"]] == [3, 64]
    assert "run success" in (tmp_path / "work" / "atc.log").read_text("utf-8")
    assert "--framework=5" in (tmp_path / "work" / "command.txt").read_text("utf-8")


PASSES = {"FlashAttentionFusionPass": {"match_times": "6", "effect_times": "4"},
          "SoftmaxFusionPass": {"match_times": "0", "effect_times": "0"},
          "ConvBnPass": {"match_times": "9", "effect_times": "9"}}  # fmt: skip
REPORTS = [
    [{"graph_fusion": PASSES, "session_and_graph_id": "0_1", "ub_fusion": {}}],
    {"graph_fusion": PASSES, "graph_id": "0_1"},
    [{"session_and_graph_id": "0_1", "fusion": {"graph_fusion": PASSES}}],
]


@pytest.mark.parametrize("report", REPORTS, ids=["list", "one", "nested"])
def test_what_passes_did_to_attention_is_told(
    fake_cann: Maker, tmp_path: Path, report: object
) -> None:
    body = f"open('fusion_result.json', 'w').write({json.dumps(report)!r})\n"
    run = drive(fake_cann(GOOD + body), tmp_path)
    assert run.fusions == [FusionPass("FlashAttentionFusionPass", "0_1", 6, 4)]
    every = read_fusion_result(tmp_path / "work" / "fusion_result.json", every=True)
    assert [f.name for f in every] == ["FlashAttentionFusionPass", "ConvBnPass"]


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", '{"a": {"match_times": "x"}}', "[" * 100_000])
def test_a_report_of_passes_may_be_anything(fake_cann: Maker, tmp_path: Path, text: str) -> None:
    body = f"open('fusion_result.json', 'w').write({text!r})\n"
    assert drive(fake_cann(GOOD + body), tmp_path).fusions == []


def test_the_host_suffix_and_outside_weights_are_found(fake_cann: Maker, tmp_path: Path) -> None:
    body = (
        START
        + """
import os
write_om(flags["output"] + "_linux_aarch64.om", b"x")
os.mkdir(os.path.dirname(flags["output"]) + "/weight")
open(os.path.dirname(flags["output"]) + "/weight/weight_1", "wb").write(b"w")
"""
        + DONE
    )
    run = drive(fake_cann(body), tmp_path)
    assert run.om.name == "m_linux_aarch64.om"
    assert [p.name for p in run.extra_files] == ["weight"]


NOT_GOOD = [
    (START + DONE, "atc-no-om"),
    (START + 'open(flags["output"] + ".om", "wb").close()\n' + DONE, "atc-no-om"),
    (START + 'open(flags["output"] + ".om", "wb").write(b"x" * 999)\n' + DONE, "atc-bad-om"),
    (GOOD + "sys.exit(1)", "atc-silent"),
    (GOOD.replace("ATC run success", "ATC ended"), "atc-silent"),
    (START + "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "atc-crashed"),
    (START + "import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "atc-killed"),
    (START + "sys.exit(137)", "atc-killed"),
    (
        "import sys\nsys.stderr.write(\"ERROR: unknown command line flag 'foo'\\n\")\n"
        "sys.exit(255)",
        "atc-arguments",
    ),
]


@pytest.mark.parametrize(("body", "code"), NOT_GOOD)
def test_anything_less_than_success_is_a_failure(
    fake_cann: Maker, tmp_path: Path, body: str, code: str
) -> None:
    error = failure(fake_cann(body), tmp_path)
    assert error.code == code
    assert error.exit_code == 3
    assert error.hint
    assert error.as_dict()["log"].endswith("atc.log")


FAIL = "ATC run failed, Please check the detail log, Try 'atc --help' for more information"


def saying(text: str) -> str:
    return START + f"print({FAIL!r})\nprint({text!r})\nsys.exit(255)\n"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("E20101: Value [Ascend310P] for parameter [--soc_version] is invalid.", "atc-e20101"),
        ("E19999: Inner Error!\nEZ3003: [PID: 1] 2026-01-01-00:00:00.1 No supported Ops kernel",
         "atc-ez3003"),
        ("[PID: 1] 2026-01-01-00:00:00.1 Invalid_Argument(E10001): bad", "atc-e10001"),
    ],
)  # fmt: skip
def test_the_code_of_atc_leads_and_advice_follows(
    fake_cann: Maker, tmp_path: Path, text: str, code: str
) -> None:
    error = failure(fake_cann(saying(text)), tmp_path)
    assert error.code == code
    assert "cause:" in (error.hint or "")
    assert error.messages


def test_operators_without_parser_are_grouped(fake_cann: Maker, tmp_path: Path) -> None:
    report = {
        "result": "failed",
        "op": [
            {"name": f"/l{i}/Gelu", "type": "ai.onnx::20::Gelu", "result": "failed",
             "cause": [{"code": 1, "message": "The type is not supported."}]}
            for i in range(3)
        ]
        + [{"name": "a", "type": "ai.onnx::20::FlashAttention", "result": "failed",
            "cause": [{"code": 1, "message": "The type is not supported."}]},
           {"name": "b", "type": "ai.onnx::20::Add", "result": "success"}],
    }  # fmt: skip
    body = (
        START
        + f"import json\njson.dump({report!r}, open('check_result.json', 'w'))\n"
        + saying("E13010: No parser for Op [/l0/Gelu, optype [ai.onnx::20::Gelu]].").removeprefix(
            START
        )
    )
    error = failure(fake_cann(body), tmp_path, opset=20)
    assert [(u.key, len(u.nodes)) for u in error.unsupported] == [
        ("ai.onnx::20::Gelu", 3),
        ("ai.onnx::20::FlashAttention", 1),
    ]
    assert "older opset" in error.unsupported[0].advice
    assert "omfuse op install" in error.unsupported[1].advice
    assert "ai.onnx::20::Gelu x3" in (error.hint or "")


def test_without_a_report_the_messages_are_grouped(fake_cann: Maker, tmp_path: Path) -> None:
    text = "".join(
        f"E19010: No parser is registered for Op [n{i}, optype [ai.onnx::17::Foo]].\n"
        for i in range(2)
    )
    error = failure(fake_cann(saying(text)), tmp_path)
    assert [(u.key, u.nodes) for u in error.unsupported] == [("ai.onnx::17::Foo", ("n0", "n1"))]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text("utf-8").split(")")[1].split()[0] != "Z"


def wait_until(true: Callable[[], bool]) -> bool:
    for _ in range(1000):
        if true():
            return True
        time.sleep(0.02)
    return False


TREE = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open("pids", "w").write(f"{os.getpid()} {child.pid}\\n")
print("compiling", flush=True)
time.sleep(600)
"""


def test_a_timeout_ends_the_whole_group(fake_cann: Maker, tmp_path: Path) -> None:
    error = failure(fake_cann(TREE), tmp_path, timeout=2.0)
    assert error.code == "atc-timeout"
    pids = [int(p) for p in (tmp_path / "work" / "pids").read_text("utf-8").split()]
    assert wait_until(lambda: not any(alive(p) for p in pids))


def test_a_deaf_child_is_killed(tmp_path: Path) -> None:
    body = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    outcome = run_program(
        [sys.executable, "-c", body], tmp_path, os.environ, tmp_path / "log", timeout=1.0
    )
    assert outcome.timed_out
    assert outcome.code == -signal.SIGKILL


def test_progress_reports_the_last_line(tmp_path: Path) -> None:
    body = "import time; print('first', flush=True); time.sleep(1); print('second', flush=True)"
    ticks: list[Tick] = []
    outcome = run_program(
        [sys.executable, "-c", body], tmp_path, os.environ, tmp_path / "log", None, ticks.append
    )
    assert outcome.output == "first\nsecond\n"
    lines = [t.last_line for t in ticks]
    assert "first" in lines
    assert lines[-1] == "second"
    assert [t.seconds for t in ticks] == sorted(t.seconds for t in ticks)


def test_a_compiler_left_behind_does_not_hang_the_run(tmp_path: Path) -> None:
    body = (
        "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', "
        "'import time; time.sleep(600)']); print(p.pid)"
    )
    outcome = run_program([sys.executable, "-c", body], tmp_path, os.environ, tmp_path / "log")
    assert outcome.code == 0
    assert wait_until(lambda: not alive(int(outcome.output)))


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_an_interrupt_ends_atc_and_everything_below(
    fake_cann: Maker, tmp_path: Path, plain: Path, sign: signal.Signals, jobs: str
) -> None:
    home = fake_cann(TREE)
    command = [
        *(sys.executable, "-m", "omfuse", "compile", str(plain), "-o", str(tmp_path / "o.om")),
        *("--soc", "310P3", "--shape", "batch=1", "--shape", "seq=8", "--cann", str(home)),
        *("--jobs", jobs),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    runs = tmp_path / "runs"
    assert wait_until(lambda: any(p.read_text("utf-8").endswith("\n") for p in runs.glob("*/pids")))
    (pids_file,) = runs.glob("*/pids")
    process.send_signal(sign)
    process.communicate(timeout=60)
    assert process.returncode == 130
    pids = [int(p) for p in pids_file.read_text("utf-8").split()]
    assert wait_until(lambda: not any(alive(p) for p in pids))
    assert not (tmp_path / "o.om").exists()


def test_a_program_that_cannot_start_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ToolchainError) as caught:
        run_program(["/no/such/program"], tmp_path, os.environ, tmp_path / "log")
    assert caught.value.code == "cannot-start"
    assert threading.active_count() < 20


# Environment


def test_cann_is_found_in_order(
    fake_cann: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = fake_cann()
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr("omfuse.atc.environment.USUAL_HOMES", ())
    with pytest.raises(NotAvailableError) as missing:
        find_toolchain("ascend")
    assert missing.value.exit_code == 4
    for word in ("--cann", "--device sim", "omfuse bundle"):
        assert word in (missing.value.hint or "")
    with pytest.raises(UsageError):
        find_toolchain("ascend", tmp_path)
    monkeypatch.setattr("omfuse.atc.environment.USUAL_HOMES", (str(home),))
    assert find_toolchain("ascend").home == home
    monkeypatch.setattr("omfuse.atc.environment.USUAL_HOMES", ())
    monkeypatch.setenv("PATH", f"{home}/bin:/usr/bin:/bin")
    assert find_toolchain("ascend").home == home
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setenv("ASCEND_TOOLKIT_HOME", str(home))
    found = find_toolchain("ascend")
    assert (found.version, found.inner_version, found.major) == ("8.1.RC1", "7.7.0.1.238", 8)


def test_versions_are_read_from_each_kind_of_file(tmp_path: Path) -> None:
    assert read_version(tmp_path) == ("", "")
    (tmp_path / "compiler").mkdir()
    (tmp_path / "compiler" / "version.info").write_text("Version=7.6.0.1.220\n", "utf-8")
    assert read_version(tmp_path) == ("8.0.0", "7.6.0.1.220")
    (tmp_path / "x86_64-linux").mkdir()
    info = "package_name=toolkit\nversion=9.0.0\ninnerversion=9.0.0\n"
    (tmp_path / "x86_64-linux" / "ascend_toolkit_install.info").write_text(info, "utf-8")
    assert read_version(tmp_path) == ("9.0.0", "9.0.0")


def test_the_child_gets_what_set_env_would_set(fake_cann: Maker, tmp_path: Path) -> None:
    home = fake_cann()
    (home / "lib64").mkdir()
    (home / "python" / "site-packages").mkdir(parents=True)
    base = {"PATH": "/usr/bin", "LD_LIBRARY_PATH": "/mine", "ASCEND_WORK_PATH": "/shared"}
    toolchain = find_toolchain("ascend", home)
    env = child_environment(toolchain, base, tmp_path, (Path("/ops/a"),))
    assert env["LD_LIBRARY_PATH"].split(":") == [str(home / "lib64"), "/mine"]
    assert env["PYTHONPATH"] == str(home / "python" / "site-packages")
    assert env["PATH"] == f"{home / 'bin'}:/usr/bin"
    assert env["ASCEND_OPP_PATH"] == str(home / "opp")
    assert env["ASCEND_CUSTOM_OPP_PATH"] == "/ops/a"
    assert "ASCEND_WORK_PATH" not in env, "a shared one lets parallel runs clash"
    assert base["PATH"] == "/usr/bin"


@pytest.mark.parametrize("code", ["E20001", "E40021", "EB0000", "E90003", "EZ3003", "E50012"])
def test_failures_of_one_operator_name_each_gear(
    fake_cann: Maker, plain: Path, tmp_path: Path, code: str
) -> None:
    home = fake_cann(saying(f"{code}: Op [/a/b] failed"))
    with pytest.raises(AtcError) as caught:
        omfuse.compile(
            plain, tmp_path / "m.om", "310P3", shape={"batch": [1, 4], "seq": 8}, cann=home
        )
    assert "--shape 'q=4,2,8,8'" in (caught.value.hint or "")


def test_a_program_that_the_loader_refuses(fake_cann: Maker, tmp_path: Path) -> None:
    text = "atc: error while loading shared libraries: liba.so: no"
    body = f"import sys; print({text!r}); sys.exit(127)"
    error = failure(fake_cann(body), tmp_path)
    assert "liba.so" in error.message
    assert "devlib" in (error.hint or "")


def test_an_old_model_is_told_to_go_up(fake_cann: Maker, tmp_path: Path) -> None:
    text = "E19010: No parser is registered for Op [a, optype [ai.onnx::6::Relu]]."
    error = failure(fake_cann(saying(text)), tmp_path, opset=6)
    assert "begin at opset 8" in error.unsupported[0].advice
