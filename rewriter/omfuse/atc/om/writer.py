"""Write an ``.om``: header, partition table, partitions; whole or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from omfuse.atc.om.layout import Header, table_bytes


@dataclass(frozen=True)
class Part:
    """One partition to write; ``data`` may come in pieces."""

    kind: int
    data: Sequence[bytes]

    @property
    def size(self) -> int:
        """Bytes of all pieces."""
        return sum(len(piece) for piece in self.data)


def om_pieces(header: Header, models: Sequence[Sequence[Part]]) -> list[bytes]:
    """Return the file in pieces.

    Args:
        header: its length and number of models are set here.
        models: the partitions of each model; several follow one another.
    """
    pieces: list[bytes] = []
    for parts in models:
        pieces.append(table_bytes([(part.kind, part.size) for part in parts], header.large))
        for part in parts:
            pieces += part.data
    length = sum(map(len, pieces))
    return [replace(header, length=length, models=len(models)).to_bytes(), *pieces]


def write_om(path: Path, header: Header, models: Sequence[Sequence[Part]]) -> None:
    """Write the file beside its place and move it there.

    Raises:
        OSError: the disk refuses.
    """
    with tempfile.NamedTemporaryFile(
        "wb", dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as sink:
        try:
            sink.writelines(om_pieces(header, models))
            sink.flush()
            Path(sink.name).chmod(0o644)
            Path(sink.name).replace(path)
        except BaseException:
            Path(sink.name).unlink(missing_ok=True)
            raise
