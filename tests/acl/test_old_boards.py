"""What a board needs: Python 3.8 and numpy, nothing else of this package's dependencies."""

import ast
import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import omfuse

ROOT = Path(omfuse.__file__).parent
AT_THE_TOP = ("__init__.py", "_version.py", "errors.py", "session.py", "session_protocol.py")
ON_BOARDS = sorted(
    [
        *(ROOT / "acl").glob("*.py"),
        *(ROOT / name for name in AT_THE_TOP),
        *(ROOT / "host" / name for name in ("__init__.py", "frames.py", "tensors.py")),
        *(ROOT / "sim" / name for name in ("__init__.py", "model_text.py", "payload.py")),
    ]
)
# Subscripts of these fail when they are evaluated by Python 3.8; in annotations they are text.
NEW_GENERICS = {"dict", "list", "tuple", "set", "frozenset", "type", "deque", "Queue"}
ABSTRACT = {"Callable", "Iterable", "Iterator", "Mapping", "Sequence"}
NEW_CALLS = {"removeprefix", "removesuffix", "waitstatus_to_exitcode", "pairwise", "bit_count"}


class Evaluated(ast.NodeVisitor):
    """Collect what Python 3.8 evaluates and does not know."""

    def __init__(self, tree: ast.Module) -> None:
        self.found: list[str] = []
        self.abstract = {
            alias.asname or alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module == "collections.abc"
            for alias in node.names
        }
        self.visit(tree)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for part in (*node.decorator_list, *node.args.defaults, *node.args.kw_defaults, *node.body):
            if part is not None:
                self.visit(part)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        name = getattr(node.value, "id", getattr(node.value, "attr", ""))
        if name in NEW_GENERICS or (name in ABSTRACT and name in self.abstract):
            self.found.append(f"{name}[...] in line {node.lineno}")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if name in NEW_CALLS:
            self.found.append(f"{name}() in line {node.lineno}")
        if name == "zip" and any(keyword.arg == "strict" for keyword in node.keywords):
            self.found.append(f"zip(strict=) in line {node.lineno}")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        dicts = (ast.Dict, ast.DictComp)
        if isinstance(node.op, ast.BitOr) and isinstance(node.left, dicts):
            self.found.append(f"dict | dict in line {node.lineno}")
        self.generic_visit(node)


@pytest.mark.parametrize("path", ON_BOARDS, ids=lambda path: str(path.relative_to(ROOT)))
def test_syntax_and_evaluated_types_of_python_3_8(path):
    tree = ast.parse(path.read_text("utf-8"), feature_version=(3, 8))
    futures = [n for n in tree.body if isinstance(n, ast.ImportFrom) and n.module == "__future__"]
    annotated = any(isinstance(n, (ast.AnnAssign, ast.arg)) for n in ast.walk(tree))
    assert futures or not annotated
    found = Evaluated(tree).found
    if path.name == "tensors.py":  # of the host device; only its dtypes are used on boards
        found = [text for text in found if not text.startswith("zip")]
    assert found == []


def test_the_check_sees_what_python_3_8_does_not_know():
    text = """
from collections.abc import Callable
A = Callable[[int], int]
B = dict[str, int]
c: dict[str, int] = {}
for x in zip([], [], strict=True): "a".removeprefix("b")
def f(x: list[int] = []) -> dict[str, int]: return {1: 2} | {}
"""
    assert len(Evaluated(ast.parse(text)).found) == 5


def python_3_8() -> str:
    """Return a Python 3.8 of this machine, or skip."""
    named = [os.environ.get("OMFUSE_PYTHON38", ""), "python3.8"]
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    named += [str(path) for path in sorted(root.glob("versions/3.8.*/bin/python"))]
    for name in filter(None, named):
        with contextlib.suppress(OSError):
            if subprocess.run([name, "-c", ""], capture_output=True, check=False).returncode == 0:
                return name
    pytest.skip("no Python 3.8 here; OMFUSE_PYTHON38 names one")


@pytest.mark.slow
def test_a_session_of_every_mode_on_python_3_8_with_numpy_alone(om, device, tmp_path):
    subprocess.run([python_3_8(), "-m", "venv", str(tmp_path / "v")], check=True)
    python = str(tmp_path / "v" / "bin" / "python")
    done = subprocess.run(
        [python, "-m", "pip", "install", "-q", "numpy"], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("numpy cannot be installed here")
    modes = ("static", "batch", "image", "dims", "dynamic", "open")
    command = [python, str(Path(__file__).with_name("old_python.py")), str(device.path)]
    done = subprocess.run(
        [*command, *(str(om(mode)) for mode in modes)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT.parent)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "python": [3, 8],
        "modes": [*modes[:4], "dynamic", "dynamic"],
        "leaks": [],
        "violations": [],
        "foreign": [],
    }


NUMPY_ALONE = """
import sys
allowed = {"numpy", "omfuse", "ml_dtypes"} | set(sys.stdlib_module_names)
class Guard:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in allowed:
            raise ModuleNotFoundError(f"not on a board: {name}", name=name)
sys.meta_path.insert(0, Guard())
import omfuse.acl
from omfuse.acl import bench, batches, device_session, isolated, library, pipeline, pool, worker
from omfuse.errors import ModelError, NotAvailableError
from omfuse.session import open_session
try:
    open_session(sys.argv[1], "ascend")
except ModelError as error:
    print(error.code)
library.open_library = None
try:
    from omfuse.acl.opening import real_library
    omfuse.acl.opening.open_library()
except NotAvailableError as error:
    print(error.code)
loaded = {name.split(".")[0] for name in sys.modules}
print(sorted(loaded & {"onnx", "onnxruntime", "typer", "rich", "google", "onnx_graphsurgeon"}))
"""


def test_numpy_is_all_that_sessions_need(om, device, tmp_path):
    env = {k: v for k, v in os.environ.items() if not k.startswith(("ASCEND", "ACL"))}
    done = subprocess.run(
        [sys.executable, "-c", NUMPY_ALONE, str(om("static"))],
        capture_output=True,
        text=True,
        env={**env, "LD_LIBRARY_PATH": ""},
        check=False,
    )
    assert done.stdout.splitlines() == ["simulated-om", "acl-not-found", "[]"], done.stderr
