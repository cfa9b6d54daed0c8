"""The contract of libascendcl on a real board; the simulated library passes the same tests.

Skipped without ``/dev/davinci*``.  ``OMFUSE_HW_LIB=sim`` runs them on the simulated library.
``OMFUSE_HW_OM`` names a static .om of the board for the tests that need a model, and
``OMFUSE_HW_RECORD`` a JSON file to which the codes seen are written.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from omfuse.acl.library import AclLibrary

SIMULATED = os.environ.get("OMFUSE_HW_LIB") == "sim"
BOARD = bool(list(Path("/dev").glob("davinci[0-9]*")))
seen: dict[str, int] = {}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if BOARD or SIMULATED:
        return
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="no /dev/davinci*: not a board"))


@pytest.fixture(scope="session")
def library() -> AclLibrary:
    if SIMULATED:
        from omfuse.sim.device import simulated_device

        device = simulated_device()
        device.reset()
        return AclLibrary(device.path, share_symbols=False)
    from omfuse.acl.library import open_library

    return open_library()


@pytest.fixture(scope="session")
def started(library: AclLibrary) -> Iterator[AclLibrary]:
    assert library.status("aclInit", None) in (0, 100002)
    assert library.status("aclrtSetDevice", 0) == 0
    yield library
    library.status("aclrtResetDevice", 0)
    library.status("aclFinalize")
    target = os.environ.get("OMFUSE_HW_RECORD")
    if target:
        soc = library.value("aclrtGetSocName")
        record = {
            "soc": soc.decode() if soc else None,
            "library": str(library.path),
            "simulated": SIMULATED,
            "codes": dict(sorted(seen.items())),
        }
        Path(target).write_text(json.dumps(record, indent=1) + "\n")


@pytest.fixture
def code(started: AclLibrary):
    """Call a function under a name for the record, and return its code."""

    def call(name: str, function: str, *args: object) -> int:
        seen[name] = started.status(function, *args)
        started.recent_message()
        return seen[name]

    return call


@pytest.fixture(scope="session")
def model(started: AclLibrary, tmp_path_factory: pytest.TempPathFactory) -> str:
    named = os.environ.get("OMFUSE_HW_OM")
    if named:
        return named
    if not SIMULATED:
        pytest.skip("OMFUSE_HW_OM names no static .om of this board")
    import onnx

    import omfuse
    from omfuse.sim.atc.inprocess import atc_in_process

    folder = tmp_path_factory.mktemp("hw")
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[2,4] a, float[2,4] b) => (float[2,4] total) { total = Add(a, b) }
    """
    with atc_in_process(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMFUSE_RUN_DIR", str(folder / "runs"))
        target = folder / "m.om"
        source = onnx.parser.parse_model(text)
        omfuse.compile(source, target, "Ascend310P3", device="sim", use_cache=False)
    return str(target)
