from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omfuse.atc import messages as m
from omfuse.atc.options.flags import FLAGS

START = "ATC start working now, please wait for a moment.\n"
FAIL = "ATC run failed, Please check the detail log, Try 'atc --help' for more information\n"


def in_era(era: int, code: str, text: str, name: str = "Some_Name") -> str:
    """Write a message the way a release of ATC prints it."""
    stamp = "2026-01-02-10:11:12.345.678"
    head = {
        7: f"{code}: {text}",
        8: f"{code}: [PID: 4711] {stamp} {text}",
        9: f"[PID: 4711] {stamp} {name}({code}): {text}",
    }[era]
    return (
        f"{head}\n        Possible Cause: a cause.\n        Solution: a solution.\n"
        f"        TraceBack (most recent call last):\n        first frame\n        second frame\n"
    )


ERAS = pytest.mark.parametrize("era", [7, 8, 9])


@ERAS
def test_a_message_of_each_era(era: int) -> None:
    text = "No parser for Op [/attn/FlashAttention, optype [ai.onnx::17::FlashAttention]]."
    (found,) = m.parse_messages(START + "...\n" + FAIL + in_era(era, "E13010", text))
    assert found.code == "E13010"
    assert found.text == text
    assert found.cause == "a cause."
    assert found.solution == "a solution."
    assert found.trace == ("first frame", "second frame")
    assert found.subject == "/attn/FlashAttention"
    assert found.op_type == "ai.onnx::17::FlashAttention"
    assert found.name == ("Some_Name" if era == 9 else "")


@ERAS
def test_the_headline_is_the_first_code_that_is_not_inner(era: int) -> None:
    inner = "E19999: Inner Error!\nE19999  [Call] failed [FUNC:Run][FILE:x.cc][LINE:3]\n"
    output = (
        FAIL
        + inner
        + in_era(era, "EZ3003", "No kernel for Op [a]")
        + in_era(era, "E20001", "later")
    )
    found = m.parse_messages(output)
    assert [x.code for x in found] == ["E19999", "EZ3003", "E20001"]
    head = m.headline(found)
    assert head is not None
    assert head.code == "EZ3003"
    assert "FUNC:Run" in found[0].trace[0]


def test_only_inner_errors_still_give_a_headline() -> None:
    head = m.headline(m.parse_messages("E19999: Internal Error!\nAn unknown error occurred.\n"))
    assert head is not None
    assert head.code == "E19999"
    assert m.headline([]) is None


def test_a_warning_is_no_headline() -> None:
    found = m.parse_messages(
        in_era(8, "W11001", "Op [a] misses the library") + in_era(8, "E10001", "x")
    )
    assert found[0].warning
    head = m.headline(found)
    assert head is not None
    assert head.code == "E10001"


def test_progress_dots_before_a_message_do_not_hide_it() -> None:
    (found,) = m.parse_messages("......E10054: required parameter [--model] is empty\n")
    assert found.code == "E10054"
    assert found.subject == "model"


def test_log_lines_do_not_become_part_of_a_message() -> None:
    output = "E10001: bad value\n[ERROR] GE(1,atc.bin):2026 noise\nmore noise\n"
    (found,) = m.parse_messages(output)
    assert found.text == "bad value"


def test_every_entry_is_complete_and_tells_what_to_do() -> None:
    codes = m.known_codes()
    assert len(codes) >= 110
    for code in codes:
        assert re.fullmatch(r"[EW][0-9A-Z][0-9A-F]{4}", code)
        advice = m.advise(code, "subject")
        assert advice.title
        assert advice.cause
        assert advice.fix
        assert "{" not in advice.fix
        for flag in re.findall(r"--set (\w+)=", advice.fix):
            assert flag in FLAGS, f"{code} speaks of a flag that ATC does not have"


def test_older_codes_share_the_advice_of_their_new_name() -> None:
    for old, new in (("E19010", "E13010"), ("EZ9010", "E13010"), ("E19009", "E13009")):
        assert m.advise(old).fix == m.advise(new).fix
    assert "unsupported" in m.advise("E19010").flags


@pytest.mark.parametrize("code", ["E50012", "E61234", "E90017", "EB0500", "EZ1234", "E40777"])
def test_codes_of_a_component_are_explained_by_it(code: str) -> None:
    advice = m.advise(code, "/conv")
    assert "/conv" in advice.fix
    assert "no entry" not in advice.cause
    assert code not in m.known_codes()


def test_an_unknown_code_says_so() -> None:
    assert "no entry" in m.advise("E77777").cause


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("ERROR: unknown command line flag 'foo'", "foo"),
        ("ERROR: flag '--model' is missing its argument; flag description: x", "model"),
        ("ERROR: Non-option parameter: xyz", "xyz"),
        ("ERROR: input argument value is empty or command line format is invalid", "command line"),
        ("atc.bin: error while loading shared libraries: liba.so: cannot open", "finds no liba.so"),
    ],
)
def test_trouble_of_the_command_line_reader(line: str, words: str) -> None:
    found = m.parser_trouble(line + "\n" + START + FAIL)
    assert found is not None
    assert words in found[0]
    assert m.parser_trouble(START) is None


@given(
    st.lists(st.sampled_from(["E10001", "EZ3003", "E19999", "W11001", "E13010"]), max_size=6),
    st.sampled_from([7, 8, 9]),
)
def test_all_messages_are_found_in_order(codes: list[str], era: int) -> None:
    output = START + "...\n" + FAIL + "".join(in_era(era, c, "text") for c in codes)
    assert [x.code for x in m.parse_messages(output)] == codes


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=300))
def test_any_output_can_be_read(output: str) -> None:
    m.headline(m.parse_messages(output))
    m.parser_trouble(output)


def test_an_inner_error_gives_its_first_line() -> None:
    (found,) = m.parse_messages(
        "E19999: Inner Error!\n"
        "E19999  [Call][Fn] The opset of domain[x] has no version.[FUNC:F][FILE:a.cc][LINE:7]\n"
    )
    assert found.detail == "[Call][Fn] The opset of domain[x] has no version."
    (named,) = m.parse_messages("E10001: text\n  TraceBack (most recent call last):\n  frame\n")
    assert named.detail == ""


@pytest.mark.parametrize(
    "head",
    [
        "E13010: text",
        "E13010:text",
        "E13010: [PID: 4711] 2026-01-02-10:11:12.345.678 text",
        "E13010: [PID: 4711] 2026-01-02 10:11:12.345 text",
        "[PID: 4711] 2026-01-02-10:11:12.345.678 Not_Supported(E13010): text",
        "[PID: 4711] 2026-01-02 10:11:12 Not_Supported(E13010): text",
        "[PID:4711] Not_Supported(E13010): text",
        "Not_Supported(E13010): text",
        "...Not_Supported(E13010): text",
    ],
)
def test_the_stamp_of_a_message_may_differ(head: str) -> None:
    (found,) = m.parse_messages(START + head + "\n        Solution: do it\n")
    assert (found.code, found.text, found.solution) == ("E13010", "text", "do it")
