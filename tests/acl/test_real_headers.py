"""Our table of the C interface against the real headers of a torch-npu wheel.

The wheel is fetched from the package index into a temporary folder and never kept; every difference
in a signature, a constant or a struct is an error of the C compiler.
"""

import ctypes
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from omfuse.acl import code_names, codes, constants, prototypes
from omfuse.acl.code_names import name_of

pytestmark = pytest.mark.slow
STRUCTS = {
    "aclmdlIODims": prototypes.IODims,
    "aclmdlIODimsRange": prototypes.IODimsRange,
    "aclmdlBatch": prototypes.BatchGears,
    "aclmdlHW": prototypes.ImageGears,
}


@pytest.fixture(scope="module")
def headers(tmp_path_factory) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("no gcc")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "-d", str(folder)]
    done = subprocess.run([*command, "torch-npu"], capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        pytest.skip(f"no torch-npu wheel: {done.stderr.strip().splitlines()[-1:]}")
    with zipfile.ZipFile(wheels[0]) as archive:
        found = [n for n in archive.namelist() if n.endswith("/include/acl/acl.h")]
        assert found
        root = found[0][: -len("acl/acl.h")]
        archive.extractall(folder, [n for n in archive.namelist() if n.startswith(f"{root}acl/")])
    return folder / root


def c_text(change=None) -> str:
    lines = ["#include <stddef.h>", '#include "acl/acl.h"', '#include "acl/acl_mdl.h"']
    for name, signature in prototypes.SIGNATURES.items():
        text = signature.text + ";"
        lines.append(text if change is None else change(name, text))
    for name, value in constants.enumerators():
        if name == "ACL_SUCCESS":
            continue  # a variable, which no assertion of C may read
        lines.append(f'_Static_assert((int){name} == {value}, "{name}");')
    for name, kind in STRUCTS.items():
        size = f"sizeof({name}) == {ctypes.sizeof(kind)}"
        lines.append(f'_Static_assert({size}, "size of {name}");')
        for field, *_ in kind._fields_:
            offset = getattr(kind, field).offset
            lines.append(f'_Static_assert(offsetof({name}, {field}) == {offset}, "{field}");')
    for code, name in ((0, "FLOAT"), (1, "FLOAT16"), (9, "INT64"), (12, "BOOL"), (27, "BF16")):
        lines.append(f'_Static_assert((int)ACL_{name} == {code}, "{name}");')
    return "\n".join([*lines, ""])


def compile_c(text: str, headers: Path) -> subprocess.CompletedProcess:
    command = ["gcc", "-std=gnu11", "-fsyntax-only", "-x", "c", "-", f"-I{headers}"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False)


def test_signatures_constants_and_structs_are_those_of_the_headers(headers):
    done = compile_c(c_text(), headers)
    errors = [line for line in done.stderr.splitlines() if "error" in line]
    assert done.returncode == 0, "\n".join(errors[:10])
    assert len(prototypes.SIGNATURES) > 90
    assert len(constants.enumerators()) > 15


def test_names_of_codes_are_those_of_the_headers(headers):
    # As C++: there the constants of the headers may stand in an assertion.
    lines = ['#include "acl/acl.h"', '#include "acl/error_codes/rt_error_codes.h"']
    lines.append('#include "acl/error_codes/ge_error_codes.h"')
    lines += [f"static_assert(int({name_of(n)}) == {n});" for n in code_names.NAMES]
    command = ["g++", "-std=c++17", "-fsyntax-only", "-x", "c++", "-", f"-I{headers}"]
    for text, right in (
        ("\n".join(lines), True),
        ("\n".join(lines).replace("== 1", "== 2"), False),
    ):
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        assert (done.returncode == 0) == right, done.stderr[:2000]
    assert set(codes.MEANINGS) <= set(code_names.NAMES)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("aclrtMemcpy", "size_t destMax", "uint32_t destMax"),
        ("aclrtStreamWaitEvent", "(aclrtStream stream", "(int32_t stream"),
        ("aclmdlGetInputSizeByIndex", "size_t aclmdl", "uint32_t aclmdl"),
        ("aclmdlExecute", "aclmdlDataset *output", "const aclmdlDataset *output"),
    ],
)
def test_a_wrong_signature_is_seen(name, old, new, headers):
    def change(which: str, text: str) -> str:
        if which != name:
            return text
        assert old in text
        return text.replace(old, new, 1)

    done = compile_c(c_text(change), headers)
    assert done.returncode != 0
    assert f"conflicting types for ‘{name}’" in done.stderr.replace("'", "’").replace("`", "‘")
