"""Attributes of models, operators and tensors, also with compressed names.

An ``.om`` may replace attribute names by numbers: the key is then a zero byte and the index as
digits to the base 127, least first, each one more than its value; texts of listed attributes are
indexes too.  The lists are attributes of the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from omfuse.atc.om import wire
from omfuse.atc.om.wire import Budget, WireError, fields, signed, text

COMPRESS_VERSION = "om_compress_version"
NAME_LIST = "attr_name_enum"
VALUE_LIST = "attr_value_enum"
USES_TEXT = "attrs_use_string_value"
_BASE = 127
_LIST, _S, _I, _F, _B, _BT, _FUNC, _TD, _T, _G = 1, 2, 3, 4, 5, 7, 10, 11, 12, 13
_LIST_LIST_INT, _DT, _LIST_LIST_FLOAT, _EXPRESSION = 14, 15, 16, 17
_LIST_MEMBERS = {1: 2, 2: 3, 3: 4, 4: 5, 5: 7, 10: 12}  # val_type -> field of the member


@dataclass(frozen=True)
class Message:
    """An attribute value that is itself a message, left unread."""

    kind: str
    data: memoryview


@dataclass(frozen=True)
class NameTable:
    """The lists behind compressed names, empty for a model that has none."""

    names: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    uses_text: tuple[bool, ...] = ()
    outer: NameTable | None = None

    def name_of(self, key: bytes) -> tuple[str, bool]:
        """Return the name of a key and whether its texts are indexes."""
        if not key.startswith(b"\0") or len(key) > 6:
            return key.decode("utf-8", errors="backslashreplace"), False
        index = sum((byte - 1) * _BASE**place for place, byte in enumerate(key[1:]))
        if not 0 <= index < len(self.names):
            raise WireError(f"attribute name {index} of {len(self.names)} is not listed")
        name, listed = self.names[index], index < len(self.uses_text) and self.uses_text[index]
        if name.startswith("\0") and self.outer is not None:
            # Models inside a dynamic one were compressed twice; the outer list has the names.
            return self.outer.name_of(name.encode())[0], listed
        return name, listed

    def text_of(self, index: int) -> str:
        """Return a listed text."""
        if not 0 <= index < len(self.values):
            raise WireError(f"attribute text {index} of {len(self.values)} is not listed")
        return self.values[index]


def encode_index(index: int) -> bytes:
    """Return the key of a listed name."""
    digits = bytearray(b"\0")
    while True:
        index, digit = divmod(index, _BASE)
        digits.append(digit + 1)
        if not index:
            return bytes(digits)


class AttrMap(Mapping[str, Any]):
    """Attributes by name; values are decoded when asked for.

    Args:
        entries: map entries as they stand in the file.
        names: for compressed names.
        budget: of the file.
    """

    def __init__(self, entries: list[memoryview], names: NameTable, budget: Budget) -> None:
        self._names, self._budget = names, budget
        self._raw: dict[str, tuple[memoryview, bool]] = {}
        for entry in entries:
            key, value = b"", entry[:0]
            for number, _, _, raw in fields(entry, budget):
                if number == 1:
                    key = bytes(raw)
                elif number == 2:
                    value = raw
            name, listed = names.name_of(key)
            self._raw[name] = (value, listed)

    def __getitem__(self, name: str) -> Any:
        raw, listed = self._raw[name]
        value = read_value(raw, self._budget)
        if not listed:
            return value
        if isinstance(value, list):
            return [self._names.text_of(i) if isinstance(i, int) else i for i in value]
        return self._names.text_of(value) if isinstance(value, int) else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._raw)

    def __len__(self) -> int:
        return len(self._raw)

    def text(self, name: str) -> str:
        """Return a text attribute, empty when absent or of another type."""
        value = self.get(name)
        return value if isinstance(value, str) else ""

    def number(self, name: str) -> int | None:
        """Return an integer attribute, None when absent or of another type."""
        value = self.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def texts(self, name: str) -> list[str]:
        """Return the texts of a list attribute."""
        value = self.get(name)
        return [v for v in value if isinstance(v, str)] if isinstance(value, list) else []

    def numbers(self, name: str) -> list[int]:
        """Return the integers of a list attribute."""
        value = self.get(name)
        return [v for v in value if isinstance(v, int)] if isinstance(value, list) else []


def read_value(data: memoryview, budget: Budget) -> Any:
    """Decode one attribute value: text, number, bool, list, or an unread :class:`Message`."""
    found: Any = None
    for number, kind, value, raw in fields(data, budget):
        if number == _S:
            found = text(raw)
        elif number in (_I, _DT):
            found = signed(value)
        elif number == _F:
            found = wire.floats(kind, raw, budget)[0] if len(raw) == 4 else 0.0
        elif number == _B:
            found = bool(value)
        elif number == _BT:
            found = bytes(raw)
        elif number == _LIST:
            found = _read_list(raw, budget)
        elif number in (_LIST_LIST_INT, _LIST_LIST_FLOAT):
            found = _nested(raw, budget, number == _LIST_LIST_INT)
        elif number == _EXPRESSION:
            found = text(raw)
        elif number in _MESSAGES:
            found = Message(_MESSAGES[number], raw)
    return found


_MESSAGES = {_FUNC: "attributes", _TD: "tensor description", _T: "tensor", _G: "graph"}


def _read_list(data: memoryview, budget: Budget) -> list[Any]:
    members: dict[int, list[Any]] = {}
    kind_of_list = 0
    for number, kind, value, raw in fields(data, budget):
        into = members.setdefault(number, [])
        if number == 20:
            kind_of_list = value
        elif number == 2:
            into.append(text(raw))
        elif number in (3, 12):
            into += wire.integers(kind, value, raw, budget)
        elif number == 4:
            into += wire.floats(kind, raw, budget)
        elif number == 5:
            into += [bool(v) for v in wire.integers(kind, value, raw, budget)]
        elif number == 7:
            into.append(bytes(raw))
        elif number in (8, 9, 10, 11):
            into.append(Message(_LIST_MESSAGES[number], raw))
    chosen = _LIST_MEMBERS.get(kind_of_list)
    if chosen is not None and chosen in members:
        return members[chosen]
    return next((v for n, v in sorted(members.items()) if n != 20 and v), [])


_LIST_MESSAGES = {8: "tensor description", 9: "tensor", 10: "graph", 11: "attributes"}


def _nested(data: memoryview, budget: Budget, whole: bool) -> list[list[Any]]:
    rows: list[list[Any]] = []
    for number, _, _, raw in fields(data, budget):
        if number != 1:
            continue
        row: list[Any] = []
        for inner, kind, value, packed in fields(raw, budget):
            if inner == 1 and whole:
                row += wire.integers(kind, value, packed, budget)
            elif inner == 1:
                row += wire.floats(kind, packed, budget)
        rows.append(row)
    return rows


def table_of(
    entries: list[memoryview], budget: Budget, outer: NameTable | None = None
) -> NameTable:
    """Return the name table that a model's own attributes (never compressed) hold."""
    attrs = AttrMap(entries, NameTable(), budget)
    if attrs.number(COMPRESS_VERSION) is None:
        return NameTable()
    flags = attrs.get(USES_TEXT)
    return NameTable(
        tuple(attrs.texts(NAME_LIST)),
        tuple(attrs.texts(VALUE_LIST)),
        tuple(bool(v) for v in flags) if isinstance(flags, list) else (),
        outer,
    )


# ---- writing


def write_value(value: Any) -> bytes:
    """Encode one attribute value: bool, int, float, str, bytes or a flat list of one of them."""
    if isinstance(value, bool):
        return wire.put_some_int(_B, int(value))
    if isinstance(value, int):
        return wire.put_some_int(_I, value)
    if isinstance(value, float):
        return wire.put_float(_F, value)
    if isinstance(value, str):
        return wire.put_bytes(_S, wire.encode_text(value))
    if isinstance(value, bytes):
        return wire.put_bytes(_BT, value)
    if isinstance(value, Message):
        number = next(n for n, kind in _MESSAGES.items() if kind == value.kind)
        return wire.put_bytes(number, bytes(value.data))
    return wire.put_bytes(_LIST, _write_list(list(value)))


def _write_list(values: list[Any]) -> bytes:
    if not values:
        return b""
    first = values[0]
    if isinstance(first, str):
        return wire.put_texts(2, values) + wire.put_int(20, 1)
    if isinstance(first, bool):
        return wire.put_ints(5, values) + wire.put_int(20, 4)
    if isinstance(first, int):
        return wire.put_ints(3, values) + wire.put_int(20, 2)
    if isinstance(first, float):
        return wire.put_floats(4, values) + wire.put_int(20, 3)
    raise TypeError(f"no list attribute of {type(first).__name__}")


class NameCollector:
    """Collects names and texts while operators are written, for a model with compressed names."""

    def __init__(self) -> None:
        self.names: dict[str, int] = {}
        self.values: dict[str, int] = {}
        self.uses_text: list[bool] = []

    def key_of(self, name: str, is_text: bool) -> bytes:
        """Return the key of a name whose texts are listed as well.

        A name stands for texts or for other values, never both: the first use decides.
        """
        if name not in self.names:
            self.names[name] = len(self.names)
            self.uses_text.append(is_text)
        return encode_index(self.names[name])

    def index_of(self, value: str) -> int:
        """Return the number of a text."""
        return self.values.setdefault(value, len(self.values))

    def model_attributes(self) -> dict[str, Any]:
        """Return the attributes that a model needs to be read again."""
        return {
            COMPRESS_VERSION: 1,
            NAME_LIST: list(self.names),
            VALUE_LIST: list(self.values),
            USES_TEXT: self.uses_text,
        }


def write_map(
    number: int, attrs: Mapping[str, Any], collector: NameCollector | None = None
) -> bytes:
    """Encode an attribute map as field ``number``, with listed names if there is a collector."""
    out = []
    for name, value in attrs.items():
        if collector is None:
            key, stored = name.encode(), value
        else:
            texts = value if isinstance(value, list) else [value]
            is_text = bool(texts) and all(isinstance(v, str) for v in texts)
            key, stored = collector.key_of(name, is_text), value
            if collector.uses_text[collector.names[name]] and is_text:
                indexes = [collector.index_of(v) for v in texts]
                stored = indexes if isinstance(value, list) else indexes[0]
            elif collector.uses_text[collector.names[name]]:
                key = name.encode()  # under the number it would be read as a listed text
        entry = wire.put_bytes(1, key) + wire.put_bytes(2, write_value(stored))
        out.append(wire.put_bytes(number, entry))
    return b"".join(out)
