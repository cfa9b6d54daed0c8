"""Find libascendcl, open it, call it.

Every function has its argument and result types from :mod:`omfuse.acl.prototypes`; ctypes drops
the interpreter lock during each call.  A function is resolved when it is first used, so that an
old runtime lacks only the feature that needs it.
"""

from __future__ import annotations

import ctypes
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

from omfuse.acl.codes import AclError
from omfuse.acl.prototypes import SIGNATURES
from omfuse.errors import NotAvailableError

_ROOTS = ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME", "ASCEND_NNRT_HOME")
_USUAL = (
    "/usr/local/Ascend/cann",
    "/usr/local/Ascend/ascend-toolkit/latest",
    "/usr/local/Ascend/nnrt/latest",
    "/usr/local/Ascend/nnae/latest",
)
_SPLIT = ("libacl_rt.so", "libacl_mdl.so")  # what newer CANN splits the library into
_STUBS = frozenset({"devlib", "stub", "stubs"})

Journal = Callable[[int, str], None]


class AclLibrary:
    """An opened libascendcl.

    Args:
        path: the library; with the split libraries, that of the runtime.
        more: further libraries in which to look for functions.
        share_symbols: open with RTLD_GLOBAL, as plug-ins of the real library need it.

    Attributes:
        path: the library.
        calls: number of calls so far.
        last: name of the last function called, from whatever thread.
        journal: told number and name before each call; for a worker that may crash.

    Raises:
        NotAvailableError: ``acl-not-loadable``.
    """

    def __init__(self, path: Path, more: tuple[Path, ...] = (), share_symbols: bool = True) -> None:
        self.path = path
        self.journal: Journal | None = None
        self.last = ""
        self.calls = 0
        self._count = itertools.count(1)
        self._functions: dict[str, Any] = {}
        mode = ctypes.RTLD_GLOBAL if share_symbols else ctypes.DEFAULT_MODE
        try:
            self._handles = [ctypes.CDLL(str(one), mode=mode) for one in (path, *more)]
        except OSError as error:
            raise NotAvailableError(
                "acl-not-loadable",
                f"the ACL library cannot be loaded: {error}",
                where=str(path),
                hint="source set_env.sh of the CANN installation first: it names the folders of "
                "the libraries that this one needs",
            ) from error

    def has(self, name: str) -> bool:
        """Tell whether the runtime has a function."""
        return any(hasattr(handle, name) for handle in self._handles)

    def _function(self, name: str) -> Any:
        function = self._functions.get(name)
        if function is None:
            for handle in self._handles:
                function = getattr(handle, name, None)
                if function is not None:
                    break
            if function is None:
                raise NotAvailableError(
                    "acl-function-missing",
                    f"this runtime has no {name}",
                    where=str(self.path),
                    hint="it is older than the feature: update CANN, or do without it",
                )
            signature = SIGNATURES[name]
            function.argtypes, function.restype = signature.argtypes, signature.restype
            self._functions[name] = function
        self.calls = next(self._count)
        self.last = name
        if self.journal is not None:
            self.journal(self.calls, name)
        return function

    def status(self, name: str, *args: Any) -> int:
        """Call a function and return its ``aclError``."""
        return int(self._function(name)(*args))

    def call(self, name: str, *args: Any, where: str | None = None) -> None:
        """Call a function.

        Raises:
            AclError: when it does not return 0.
        """
        number = int(self._function(name)(*args))
        if number:
            raise AclError(number, name, self.recent_message(), where)

    def value(self, name: str, *args: Any) -> Any:
        """Call a function that returns a value, not a status."""
        return self._function(name)(*args)

    def make(self, name: str, *args: Any) -> int:
        """Call a function that returns a new object.

        Raises:
            AclError: when it returns a null pointer.
        """
        made = self._function(name)(*args)
        if not made:
            raise AclError(0, name, self.recent_message())
        return int(made)

    def recent_message(self) -> str:
        """Return what the library says about the last failure on this thread; reading clears it."""
        if not self.has("aclGetRecentErrMsg"):
            return ""
        raw = self._function("aclGetRecentErrMsg")()
        return raw.decode("utf-8", errors="replace")[:4000] if raw else ""


def candidates() -> Iterator[tuple[Path, ...]]:
    """Yield the libraries to try: the override, the environment, the usual folders."""
    own = os.environ.get("ACL_LIB")
    if own:
        path = Path(own)
        if path.is_dir():
            yield from _in_folder(path)
        elif path.exists() or path.name == own:  # a bare name is for the loader to find
            yield (path,)
        return
    for folder in _folders():
        yield from _in_folder(folder)


def _folders() -> Iterator[Path]:
    seen = set()
    for folder in _named_folders():
        if folder not in seen and not _is_stub(folder):
            seen.add(folder)
            yield folder


def _is_stub(folder: Path) -> bool:
    return bool(_STUBS.intersection(folder.parts))


def _named_folders() -> list[Path]:
    roots = [Path(os.environ[name]) for name in _ROOTS if os.environ.get(name)]
    named = [Path(p) for p in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if p]
    for root in (*roots, *(Path(p) for p in _USUAL)):
        named += [root / "lib64", root / "runtime" / "lib64", root / "acllib" / "lib64"]
    return named


def _in_folder(folder: Path) -> Iterator[tuple[Path, ...]]:
    whole = folder / "libascendcl.so"
    if whole.exists():
        yield (whole,)
    split = tuple(folder / name for name in _SPLIT)
    if all(path.exists() for path in split):
        yield split


def open_library() -> AclLibrary:
    """Open the real library of this machine.

    Raises:
        NotAvailableError: ``acl-not-found`` or ``acl-not-loadable``.
    """
    problem: NotAvailableError | None = None
    for path, *more in candidates():
        try:
            return AclLibrary(path, tuple(more))
        except NotAvailableError as error:
            problem = error
    if problem is not None:
        raise problem
    raise _not_found()


def _not_found() -> NotAvailableError:
    own = os.environ.get("ACL_LIB")
    if own:
        return NotAvailableError(
            "acl-not-found",
            "ACL_LIB names no library" if Path(own).is_dir() else "ACL_LIB names a missing file",
            where=own,
            hint="let it name libascendcl.so or its folder, or unset it to search the usual places",
        )
    text = "no libascendcl.so on this machine"
    stubs = [folder for folder in _named_folders() if _is_stub(folder) and any(_in_folder(folder))]
    if stubs:
        text += f", only the stub for compiling in {stubs[0]}"
    return NotAvailableError(
        "acl-not-found",
        text,
        hint="source set_env.sh of the CANN installation, or name the library with ACL_LIB; "
        "without an NPU use --device sim",
    )
