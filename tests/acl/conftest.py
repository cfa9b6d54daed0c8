import gc
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import sim_files
from raw import Raw

from omfuse.host import native


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if native.compiler() is None or not sys.platform.startswith("linux"):
        skip = pytest.mark.skip(reason="the simulated device needs Linux and a C++ compiler")
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(skip)


@pytest.fixture
def device() -> Iterator:
    """The simulated device, whose ledger must be empty at the end of each test."""
    from omfuse.sim.device import simulated_device

    found = simulated_device()
    found.reset()
    yield found
    gc.collect()
    report = found.report()
    found.clear_faults()
    defaults = {
        "reorder": 0, "threads": 0, "exec_us": 0, "async_exec_us": 0, "copy_us": 0, "sticky": 0,
        "stub": 0, "foreign_init": 0, "ddr": 0, "release_hangs": 0, "device_count": 4,
        "memory_bytes": 32 << 30, "max_streams": 1024, "short_input_code": 145000, "soc": "",
        "no_range": 0,
    }  # fmt: skip
    found.configure(**defaults)
    found.reset()
    assert report["leaks"] == []
    assert report["violations"] == []


@pytest.fixture
def om(tmp_path: Path) -> Callable[[str], Path]:
    """Write one of the small models of ``sim_files`` and return its path."""

    def make(mode: str) -> Path:
        path = tmp_path / f"{mode}.om"
        return path if path.exists() else sim_files.write(path, sim_files.PAYLOADS[mode]())

    return make


@pytest.fixture
def raw(device, om):
    return Raw(device, str(om("static")))


@pytest.fixture
def on(raw):
    raw.start()
    yield raw
    raw.stop()
