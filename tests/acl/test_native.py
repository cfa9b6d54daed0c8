"""The simulated library as native code: both flavours, sanitizers, the contract of the boards."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
import sim_files

from omfuse.acl import prototypes
from omfuse.acl.device_session import DeviceSession
from omfuse.acl.library import AclLibrary, candidates, open_library
from omfuse.errors import NotAvailableError
from omfuse.host import native
from omfuse.sim.build import FLAVOURS, build_library

ROOT = Path(__file__).resolve().parents[2]

EVERYTHING = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import sim_files
from omfuse.acl.device_session import DeviceSession
from omfuse.acl.library import AclLibrary
from omfuse.errors import OmfuseError
from omfuse.sim.device import simulated_device
device = simulated_device(sanitize=True)
library = AclLibrary(device.path, share_symbols=False)
folder = Path(sys.argv[2])
for mode, make in sim_files.PAYLOADS.items():
    path = sim_files.write(folder / f"{mode}.om", make())
    for settings in ({}, {"threads": 1}, {"reorder": 1}):
        device.configure(threads=0, reorder=0)
        device.configure(**settings)
        with DeviceSession(path, library, "sim") as session:
            one = sim_files.feeds(2)
            session.run(one)
            list(session.map([one] * 5, 3))
            session.bind("total", "a")
            session.run(one)
            session.run({"b": one["b"]})
        report = device.report()
        assert report["leaks"] == report["violations"] == [], report
    device.configure(threads=0, reorder=0)
    for nth in range(1, 140, 3):
        device.reset()
        device.fault("*", nth, 500002, "injected")
        try:
            with DeviceSession(path, library, "sim") as session:
                session.run(one)
        except OmfuseError:
            pass
        device.clear_faults()
print("clean")
"""


@pytest.mark.slow
def test_address_and_undefined_behaviour_sanitizers(tmp_path):
    tool = native.compiler()
    runtime = [
        subprocess.run(
            [tool, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    if not all(Path(path).is_absolute() for path in runtime):
        pytest.skip("no sanitizer runtimes")
    env = {
        **os.environ,
        "LD_PRELOAD": ":".join(runtime),
        # The interpreter and onnxruntime keep memory to the end; our ledger looks for leaks.
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0:exitcode=66",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    }
    command = [sys.executable, "-c", EVERYTHING, str(Path(__file__).parent), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == "clean"


def test_both_flavours_have_the_functions_they_should(device):
    for flavour in FLAVOURS:
        library = AclLibrary(build_library(flavour), share_symbols=False)
        for name in prototypes.SIGNATURES:
            assert library.has(name) == (flavour >= 90 or name not in prototypes.SINCE_9), name


OLD = """
import sys
sys.path.insert(0, sys.argv[1])
import sim_files
from omfuse.acl.device_session import DeviceSession
from omfuse.acl.library import AclLibrary
from omfuse.sim.device import simulated_device
device = simulated_device(81)
library = AclLibrary(device.path, share_symbols=False)
session = DeviceSession(sys.argv[2], library, "sim")
print(session.run(sim_files.feeds(2)).keys() == {"total", "twice"})
session.close()
names = [entry[2] for entry in device.report()["trace"]]
print(names[-1], device.report()["leaks"], device.report()["violations"])
"""


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_an_old_runtime_lacks_only_comfort(mode, om, device):
    command = [sys.executable, "-c", OLD, str(Path(__file__).parent), str(om(mode))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["True", "aclFinalize [] []"], done.stderr


def test_a_missing_function_names_the_feature(device):
    library = AclLibrary(build_library(81), share_symbols=False)
    with pytest.raises(NotAvailableError) as caught:
        library.status("aclFinalizeReference", ctypes.byref(ctypes.c_uint64()))
    assert caught.value.code == "acl-function-missing"
    assert "aclFinalizeReference" in caught.value.message


def test_the_library_is_found_by_the_environment(tmp_path, monkeypatch):
    for name in ("ACL_LIB", "ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME", "LD_LIBRARY_PATH"):
        monkeypatch.delenv(name, raising=False)
    toolkit = tmp_path / "cann" / "lib64"
    stub = tmp_path / "cann" / "devlib"
    split = tmp_path / "new" / "lib64"
    for folder in (toolkit, stub, split):
        folder.mkdir(parents=True)
    (toolkit / "libascendcl.so").write_text("")
    (stub / "libascendcl.so").write_text("")
    for name in ("libacl_rt.so", "libacl_mdl.so"):
        (split / name).write_text("")
    monkeypatch.setenv("ASCEND_HOME_PATH", str(tmp_path / "cann"))
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{stub}:{split}")
    found = list(candidates())
    assert (toolkit / "libascendcl.so",) in found
    assert (split / "libacl_rt.so", split / "libacl_mdl.so") in found
    assert not any("devlib" in str(path) for paths in found for path in paths)
    with pytest.raises(NotAvailableError) as caught:
        open_library()
    assert caught.value.code == "acl-not-loadable"
    assert "set_env.sh" in caught.value.hint
    monkeypatch.setenv("ACL_LIB", str(toolkit))
    assert list(candidates()) == [(toolkit / "libascendcl.so",)]
    monkeypatch.setenv("ACL_LIB", "libascendcl.so.1")  # for the loader to find
    assert list(candidates()) == [(Path("libascendcl.so.1"),)]


def test_a_library_that_is_not_there_is_named(tmp_path, monkeypatch):
    for name in ("ACL_LIB", "ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME", "LD_LIBRARY_PATH"):
        monkeypatch.delenv(name, raising=False)

    def problem():
        with pytest.raises(NotAvailableError) as caught:
            open_library()
        assert caught.value.code == "acl-not-found"
        return caught.value

    monkeypatch.setenv("ACL_LIB", str(tmp_path))
    assert (problem().message, problem().where) == ("ACL_LIB names no library", str(tmp_path))
    monkeypatch.setenv("ACL_LIB", str(tmp_path / "none.so"))
    assert problem().message == "ACL_LIB names a missing file"
    assert "unset it" in problem().hint
    monkeypatch.delenv("ACL_LIB")
    stub = tmp_path / "devlib"
    stub.mkdir()
    (stub / "libascendcl.so").write_text("")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(stub))
    assert f"only the stub for compiling in {stub}" in problem().message
    assert "set_env.sh" in problem().hint


class Half:
    """A library that exports a part of another."""

    def __init__(self, whole, models):
        self.whole, self.models = whole, models

    def __getattr__(self, name):
        if name.startswith("aclmdl") != self.models:
            raise AttributeError(name)
        return getattr(self.whole, name)


def test_the_two_libraries_of_newer_releases(om, device, tmp_path, monkeypatch):
    """The runtime has no model functions, the facade only those: both are looked into."""
    for name in ("libacl_rt.so", "libacl_mdl.so"):
        (tmp_path / name).symlink_to(device.path)
    monkeypatch.setenv("ACL_LIB", str(tmp_path))
    library = open_library()
    assert library.path == tmp_path / "libacl_rt.so"
    runtime, models = library._handles
    library._handles = [Half(runtime, False), Half(models, True)]
    with DeviceSession(om("static"), library, "sim") as session:
        session.run(sim_files.feeds(2))
    assert library.has("aclmdlExecute")
    assert library.has("aclrtMalloc")
    library._handles = [Half(runtime, False)]
    assert not library.has("aclmdlExecute")


def test_the_override_opens_any_library(om, device, monkeypatch):
    monkeypatch.setenv("ACL_LIB", str(device.path))
    library = open_library()
    with DeviceSession(om("static"), library, "sim") as session:
        assert session.mode == "static"


def test_the_contract_of_the_boards_holds_here(tmp_path, device):
    """The same tests that a board runs, on the simulated library."""
    env = {**os.environ, "OMFUSE_HW_LIB": "sim", "OMFUSE_HW_RECORD": str(tmp_path / "codes.json")}
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "tests/hw"], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "skipped" not in done.stdout
    assert (tmp_path / "codes.json").exists()
