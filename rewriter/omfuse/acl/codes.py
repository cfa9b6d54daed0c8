"""What the numbers mean that ACL returns, and what to do about them.

From the public error tables of the runtime and of graph-engine (``aclError``, ``rt_error_codes``,
``ge_error_codes``) and from reports of users.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from omfuse.acl.code_names import name_of
from omfuse.errors import DeviceError

STUB_MODE = 100039
REPEAT_INIT = 100002
REPEAT_FINALIZE = 100037
UNSUPPORTED = 200001
CONTEXT_NULL = 107002
DEVICE_MEMORY = (207001, 207018, 245000)
OTHER_CHIP = (507008, 545001)  # what a model gives that was compiled for another chip
TIMEOUTS = (107019, 107020, 507046, 507047, 545601)
# The device or the connection to it is gone: nothing works until it is reset.
FATAL = (507010, 507899, 507901, 507014, 507015, 507034, 507035, 507042, 507043, 507044, 507045)


class Meaning(NamedTuple):
    """A short meaning, and a hint."""

    text: str
    hint: str


_RESTART = "restart the process; if it comes back, check the card with `npu-smi info`"
_ENVIRONMENT = "source set_env.sh of the CANN installation, and check `npu-smi info`"
_DESCRIBED = "`omfuse inspect` shows what the model takes"
_KERNEL = (
    "an operator failed on the chip: run `omfuse diff` to find it; the plog files name the task"
)

MEANINGS: dict[int, Meaning] = {
    100000: Meaning("invalid argument", "a shape, index or handle that the model does not have"),
    100001: Meaning("aclInit was not called", "open the session before using it"),
    100002: Meaning(
        "initialized already", "another library of this process started ACL, and keeps it"
    ),
    100003: Meaning("the init configuration cannot be read", "check the path of the JSON file"),
    100011: Meaning("no such model", "the session was closed"),
    100037: Meaning("finalized already", "another library ended ACL in this process"),
    100039: Meaning(
        "this is the stub library for compiling, not the runtime",
        "LD_LIBRARY_PATH or ACL_LIB names a folder `devlib` or `stub`; put the `lib64` of the "
        "CANN runtime before it",
    ),
    100042: Meaning("profiling is on or off already", "do not combine profiling with dump"),
    100043: Meaning("profiling is off already", "do not combine profiling with dump"),
    100044: Meaning("dump is on already", "remove the dump section of the init JSON"),
    100045: Meaning("dump is off already", "start it before it is ended"),
    107000: Meaning("invalid parameter of the runtime", "a size or handle is wrong"),
    107001: Meaning("no device of this number", "`npu-smi info` lists the devices"),
    107002: Meaning(
        "no context on this thread", "the device was reset by another library in this process"
    ),
    107003: Meaning("the stream belongs to another context", "use one session a model"),
    107004: Meaning("the model belongs to another context", "use one session a model"),
    107019: Meaning("waited too long", "give a larger timeout"),
    107020: Meaning("a task took too long", _KERNEL),
    145000: Meaning(
        "invalid argument of the executor",
        "an input or the work memory is too small; models with open shapes share no work memory",
    ),
    145001: Meaning("the executor is not initialised", "open the session before using it"),
    145002: Meaning("the model file cannot be read", "check the path and the permissions"),
    145003: Meaning("no such model is loaded", "the session was closed"),
    145006: Meaning("the model file is damaged or no .om", "copy it again, compare the checksums"),
    145007: Meaning("an address inside the model file is wrong", "copy it or compile it again"),
    145009: Meaning("the model is loaded already", "close the other session first"),
    145011: Meaning("the shape input has no memory", "open the session anew"),
    145012: Meaning("dims do not match the model", "`omfuse inspect` shows the dims"),
    145013: Meaning("this gear was not compiled", "`omfuse inspect` shows the gears"),
    145014: Meaning("the image preprocessing (AIPP) does not fit", _DESCRIBED),
    145015: Meaning("the image preprocessing (AIPP) does not fit", _DESCRIBED),
    145016: Meaning("the image preprocessing (AIPP) does not fit", _DESCRIBED),
    145020: Meaning("the format of an input does not fit", _DESCRIBED),
    145021: Meaning("the shape of an input does not fit", _DESCRIBED),
    145022: Meaning("the dtype of an input does not fit", _DESCRIBED),
    200000: Meaning("host memory is used up", "free memory"),
    200001: Meaning("not supported by this runtime", "update CANN, or avoid the option"),
    200005: Meaning("a handle is not what it should be", "the session was closed"),
    200006: Meaning("this runtime lacks the feature", "update CANN, or avoid the option"),
    207000: Meaning("the chip does not support it", "avoid the option, or use another chip"),
    207001: Meaning("device memory is used up", "smaller shapes, fewer models at once"),
    207003: Meaning(
        "a number overflowed on the chip",
        "`omfuse diff` finds the node; compile it with --precision mixed or protected",
    ),
    207004: Meaning("no device", _ENVIRONMENT),
    207006: Meaning("no permission", "add the user to the group HwHiAiUser"),
    207008: Meaning("no stream is left", "close sessions that are not used"),
    207018: Meaning("device memory is used up", "smaller shapes, fewer models at once"),
    245000: Meaning("the executor found no memory", "smaller shapes, fewer models at once"),
    300000: Meaning("a limit of the library is reached", "fewer sessions or streams at once"),
    500000: Meaning("internal error", "the plog files say more"),
    500001: Meaning("internal failure", "the plog files say more, often a missing package"),
    500002: Meaning("graph-engine failed", "the plog files say more"),
    500003: Meaning("the runtime failed", "the plog files say more"),
    500004: Meaning("the driver failed", _ENVIRONMENT),
    500005: Meaning("profiling failed", "run without it"),
    507000: Meaning("internal error of the runtime", "the plog files say more"),
    507007: Meaning("the context cannot be released", "the device was never set"),
    507008: Meaning("wrong SoC version", "compile the model for this chip"),
    507010: Meaning("the device stopped answering", _RESTART),
    507011: Meaning("the model failed while running", _KERNEL),
    507013: Meaning("a copy touched memory that is not there", _RESTART),
    507014: Meaning("an AI core timed out", _KERNEL),
    507015: Meaning("an AI core raised an exception", _KERNEL),
    507017: Meaning("an AI CPU timed out", _KERNEL),
    507018: Meaning("an AI CPU raised an exception", _KERNEL),
    507033: Meaning(
        "the device cannot be opened",
        "permissions, a container without /dev/davinciN, or driver and firmware that do not fit",
    ),
    507034: Meaning("a vector core timed out", _KERNEL),
    507035: Meaning("a vector core raised an exception", _KERNEL),
    507046: Meaning("the stream did not finish in time", "give a larger timeout"),
    507047: Meaning("the event did not happen in time", "give a larger timeout"),
    507899: Meaning("internal error of the driver", _RESTART),
    507901: Meaning("the connection to the device is closed", _RESTART),
    545000: Meaning("internal error of the executor", "the plog files say more"),
    545001: Meaning(
        "the model cannot be loaded",
        "it was compiled for another chip, or by a newer CANN than this runtime",
    ),
    545009: Meaning("the model cannot be unloaded", "the plog files say more"),
    545601: Meaning("the run took too long", "give a larger timeout"),
}


MEANINGS.update(
    dict.fromkeys(
        range(100016, 100020),
        Meaning(
            "a model, resource or operator is not what it should be", "the plog files say more"
        ),
    )
)
MEANINGS.update(
    dict.fromkeys(
        range(507042, 507046), Meaning("a kernel left the memory of its tensors", _KERNEL)
    )
)
# By thousands, for numbers without an entry of their own.
FAMILIES: dict[int, Meaning] = {
    100: Meaning("refused by the ACL library", "the plog files say more"),
    107: Meaning("refused by the runtime", "the plog files say more"),
    145: Meaning("refused by the executor", "`omfuse inspect` shows what the model takes"),
    200: Meaning("the ACL library lacks a resource", "fewer sessions at once"),
    207: Meaning("the runtime lacks a resource", "fewer sessions at once"),
    245: Meaning("the executor lacks a resource", "smaller shapes, fewer models at once"),
    345: Meaning("a part of the model file cannot be used", "copy it or compile it again"),
    507: Meaning("internal error of the runtime", "the plog files say more"),
    545: Meaning("internal error of the executor", "the plog files say more"),
}


def meaning_of(number: int) -> Meaning | None:
    """Return the meaning of a number, if need be by its component; None when nothing is known."""
    return MEANINGS.get(number) or FAMILIES.get(number // 1000)


class AclError(DeviceError):
    """A call of libascendcl failed; ``code`` is ``acl-<number>``.

    Attributes:
        number: what the call returned; 0 when a pointer came back null.
        function: the C function.
        said: the library's own message, may be empty.
    """

    def __init__(
        self, number: int, function: str, said: str = "", where: str | None = None, more: str = ""
    ) -> None:
        meaning = meaning_of(number)
        what = f"{function} returned {number}" if number else f"{function} returned nothing"
        if name_of(number):
            what += f" {name_of(number)}"
        if meaning is not None:
            what += f" ({meaning.text})"
        first = next((line.strip() for line in said.splitlines() if line.strip()), "")
        if first:
            what += f": {first[:300]}"
        if more:
            what += f"; {more}"
        hint = meaning.hint if meaning else "the plog files say more"
        if os.path.isdir(plog_folder()):  # noqa: PTH112
            hint += f"; logs: {plog_folder()}"
        super().__init__(f"acl-{number}", what, where, hint)
        self.number = number
        self.function = function
        self.said = said
        self.final = self.fatal or number in TIMEOUTS

    @property
    def fatal(self) -> bool:
        """The device is gone until it is reset."""
        return self.number in FATAL


def plog_folder() -> str:
    """Return where CANN writes the log of this process."""
    root = os.environ.get("ASCEND_PROCESS_LOG_PATH")
    return root or os.path.join(os.path.expanduser("~"), "ascend", "log", "debug", "plog")  # noqa: PTH111, PTH118
