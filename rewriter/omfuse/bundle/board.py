"""Run a bundle where it was carried: check it, build the operator, compile, run, judge.

Python 3.8, numpy and the standard library only, because boards are often old and offline.
The verdict is the one of ``omfuse diff``, on inputs, golden outputs and emulated runs made at home.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from omfuse.acl.opening import open_om
from omfuse.bundle.answer import explained
from omfuse.diff.verdict import judge
from omfuse.errors import ModelError, NotAvailableError, OmfuseError, ToolchainError, UsageError

MANIFEST = "MANIFEST.sha256"
DESCRIPTION = "bundle.json"
_PLACE = "{folder}"
_BUILD = "op-build-failed.log beside it says why; --opp names a package that is installed already"
_SUCCESS = "ATC run success"
_PLAIN = re.compile(r"[A-Za-z0-9\-._/\u4e00-\u9fa5]+\Z")


def _say(text: str, stream: Any = None) -> None:
    (stream or sys.stdout).write(text + "\n")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; see ``--help``."""
    parser = argparse.ArgumentParser(prog="run.sh", description="Compile, run and judge a bundle.")
    parser.add_argument("--bundle", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--soc", help="one chip of the bundle; all by default")
    parser.add_argument("--device", default="ascend", choices=("ascend", "sim"))
    parser.add_argument("--index", type=int, default=0, help="number of the NPU")
    parser.add_argument("--out", type=Path, help="where results go; BUNDLE/out by default")
    parser.add_argument("--opp", type=Path, help="an installed FlashAttention vendor folder")
    options = parser.parse_args(arguments)
    folder = options.bundle.resolve()
    try:
        return run(
            folder,
            options.soc,
            options.device,
            options.index,
            (options.out or folder / "out").resolve(),
            options.opp,
        )
    except OmfuseError as error:
        _say(f"error[{error.code}]: {error.message}", sys.stderr)
        if error.where:
            _say(f"  --> {error.where}", sys.stderr)
        if error.hint:
            _say(f"  fix: {error.hint}", sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        _say("interrupted", sys.stderr)
        return 130


def run(folder: Path, soc: str | None, device: str, index: int, out: Path, opp: Path | None) -> int:
    """Check, compile, run and judge; return the exit code.

    Raises:
        OmfuseError: ``damaged-bundle``, ``unknown-soc``, ``no-atc``, ``op-build-failed``,
            ``atc-failed`` and those of the session.
    """
    check(folder)
    bundle = json.loads((folder / DESCRIPTION).read_text("utf-8"))
    targets = [t for t in bundle["targets"] if soc is None or t["soc"].lower() == soc.lower()]
    if not targets:
        known = ", ".join(t["soc"] for t in bundle["targets"])
        raise UsageError("unknown-soc", f"the bundle is not for {soc}", hint=f"it is for {known}")
    program = _atc(device)
    out.mkdir(parents=True, exist_ok=True)
    results = []
    for target in targets:
        env = dict(os.environ)
        if bundle["attention"]:
            env["ASCEND_CUSTOM_OPP_PATH"] = str(_operator(folder, target, device, out, opp))
        om = _compile(folder, target, program, out, env)
        results.append(
            {"soc": target["soc"], "om": str(om), **_judged(folder, bundle, om, device, index)}
        )
    passed = all(result["verdict"] == "pass" for result in results)
    document = {
        "schema": "omfuse.board/1",
        "simulated": device == "sim",
        "verdict": "pass" if passed else "fail",
        "targets": results,
    }
    (out / "result.json").write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    note = " (simulated)" if device == "sim" else ""
    _say(f"{document['verdict']}{note}: {out / 'result.json'}")
    return 0 if passed else 1


def check(folder: Path) -> None:
    """Compare every file with the manifest.

    Raises:
        ModelError: ``damaged-bundle`` naming the first file that is wrong.
    """
    try:
        lines = (folder / MANIFEST).read_text("utf-8").splitlines()
    except OSError as error:
        raise ModelError(
            "damaged-bundle", "there is no manifest", str(folder), "copy the whole bundle again"
        ) from error
    for line in lines:
        wanted, name = line.split("  ", 1)
        path = folder / name
        if not path.is_file() or _digest(path) != wanted:
            raise ModelError(
                "damaged-bundle", "a file is missing or was changed", str(path), "copy it again"
            )


def _digest(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            found.update(block)
    return found.hexdigest()


def _operator(
    folder: Path, target: dict[str, Any], device: str, out: Path, given: Path | None
) -> Path:
    """Return the vendor folder of the operator, built from the sources of the bundle if needed."""
    if given is not None:
        return given.resolve()
    if device == "sim":
        from omfuse.sim.package import write_package

        return write_package(out / "opp")
    place = out / f"opp-{target['preset']}"
    ready = sorted((place / "vendors").glob("*")) if place.is_dir() else []
    if ready:
        return ready[0]
    _say(f"building the FlashAttention operator ({target['preset']})")
    built = out / f"op-{target['preset']}"
    build = folder / "op" / "flash_attention" / "build.sh"
    _call(["bash", str(build), target["preset"], "--out", str(built)], "op-build-failed", out)
    packages = sorted(built.glob("*.run"))
    if not packages:
        raise ToolchainError("op-build-failed", "the build left no .run file", str(built), _BUILD)
    command = ["bash", str(packages[0]), "--quiet", f"--install-path={place}"]
    _call(command, "op-build-failed", out)
    ready = sorted((place / "vendors").glob("*"))
    if not ready:
        raise ToolchainError("op-build-failed", "the package installed nothing", str(place), _BUILD)
    return ready[0]


def _atc(device: str) -> list[str]:
    """Return how to start ATC.

    Raises:
        NotAvailableError: ``no-atc``.
    """
    if device == "sim":
        return [sys.executable, "-m", "omfuse.sim.atc"]
    found = shutil.which("atc")
    if found is None:
        raise NotAvailableError(
            "no-atc",
            "ATC is not installed on this machine",
            hint="source CANN's set_env.sh, then run again",
        )
    return [found]


def _compile(
    folder: Path, target: dict[str, Any], program: list[str], out: Path, env: dict[str, str]
) -> Path:
    """Run ATC with the arguments fixed at home.

    Raises:
        UsageError: ``bad-folder`` for a path that ATC refuses.
        ToolchainError: ``atc-failed`` with what ATC said and what to do.
    """
    work: Path = out / target["soc"]
    if not _PLAIN.match(os.path.realpath(str(work))):
        raise UsageError(
            "bad-folder",
            "ATC takes letters, digits and -._/ in a path only (ATC E10001)",
            str(work),
            "move the bundle, or name another folder with --out",
        )
    shutil.rmtree(str(work), ignore_errors=True)
    shutil.copytree(str(folder / target["folder"]), str(work))
    (work / "out").mkdir(exist_ok=True)
    words = [word.replace(_PLACE, str(work)) for word in target["arguments"]]
    _say(f"compiling for {target['soc']}")
    output, status = _started([*program, *words], "atc-failed", work, env)
    if status or _SUCCESS not in output:
        raise explained(output, folder, work / "atc-failed.log")
    made = sorted((work / "out").glob("*.om"))
    if not made:
        raise ToolchainError(
            "atc-failed", "ATC left no .om", str(work / "out"), "check the free space of the disk"
        )
    return made[0]


def _call(command: list[str], code: str, folder: Path) -> None:
    output, status = _started(command, code, folder, None)
    if status:
        lines = output.strip().splitlines()
        raise ToolchainError(
            code,
            f"{Path(command[0]).name} ended with {status}: {' | '.join(lines[-3:])}",
            str(folder / f"{code}.log"),
            "the log has all of it",
        )


def _started(
    command: list[str], code: str, folder: Path, env: dict[str, str] | None
) -> tuple[str, int]:
    """Run a program, keep its output in ``<code>.log`` and return output and status."""
    done = subprocess.run(
        command,
        cwd=str(folder),
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    (folder / f"{code}.log").write_bytes(done.stdout)
    return done.stdout.decode(errors="replace"), done.returncode


def _judged(
    folder: Path, bundle: dict[str, Any], om: Path, device: str, index: int
) -> dict[str, Any]:
    """Run every sample and judge every output."""
    verdicts = []
    with open_om(om, device, index=index) as session:
        for sample in bundle["samples"]:
            feeds = _arrays(folder / sample["inputs"])
            golden, emulated = (
                _arrays(folder / sample["golden"]),
                _arrays(folder / sample["emulated"]),
            )
            live = _arrays(folder / sample["live"]) if sample["live"] else {}
            outputs = session.run(feeds)
            pairs = zip(golden, outputs.values()) if len(golden) == len(outputs) else ()  # noqa: B905
            by_order = dict(pairs)
            for name, wanted in golden.items():
                other = outputs.get(name, by_order.get(name))
                if other is None:
                    raise ModelError("no-output", f"the .om has no output {name}", str(om))
                found = judge(
                    name, wanted, other, emulated.get(name), bundle["precision"],
                    live_rows=live.get(name),
                )  # fmt: skip
                verdicts.append({**found.as_dict(), "sample": sample["name"]})
                ratio = found.ratio
                _say(f"  {sample['name']:<8} {name:<24} {found.verdict}   x limit {ratio:.3g}")
                for reason in found.reasons:
                    _say(f"    {reason}")
    good = all(found["verdict"] == "pass" for found in verdicts)
    return {"verdict": "pass" if good else "fail", "outputs": _plain(verdicts)}


def _plain(value: Any) -> Any:
    """Make a value strict JSON: infinities and NaN become strings."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else str(float(value))
    return value


def _arrays(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Read arrays by name; never pickles."""
    with np.load(str(path), allow_pickle=False) as saved:
        names = saved["names"].tolist()
        return {name: saved[f"array_{number}"] for number, name in enumerate(names)}


if __name__ == "__main__":
    sys.exit(main())
