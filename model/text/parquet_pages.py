"""What the pages of a parquet column unpack to, by their own headers, before a library takes memory for them.

The table of contents says it too, and may say anything; a page is unpacked into as much memory as its header asks for. The header is a
struct of Thrift's compact protocol (apache/parquet-format, parquet.thrift: PageHeader; thrift-compact-protocol.md); its bytes follow it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Final

_HEADER_BYTES_MAX: Final = 1 << 20  # two bounds of a column, of texts that should be short, and a few numbers
_DEPTH_MAX: Final = 8  # a header has three
_UNPACKED, _PACKED = 2, 3  # fields of a header
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 12
_INTEGERS: Final = (4, 5, 6)


@dataclass(frozen=True, slots=True)
class Page:
    """Bytes in the file, and as they should come out."""

    packed: int
    unpacked: int


def pages(file: IO[bytes], start: int, end: int) -> Iterator[Page]:
    """All that begin in bytes [start, end) of a file. Raises ValueError where something else stands there, and OSError."""
    while start < end:
        file.seek(start)
        header = _Header(file.read(_HEADER_BYTES_MAX))
        fields = header.struct()
        page = Page(fields.get(_PACKED, -1), fields.get(_UNPACKED, -1))
        if page.packed < 0 or page.unpacked < 0:
            raise ValueError("a page without a size")
        start += header.at + page.packed
        yield page


class _Header:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def struct(self, depth: int = 0) -> dict[int, int]:
        """The integers in it, by the number of their field."""
        found, field = dict[int, int](), 0
        while kind := self._byte():
            field = field + (kind >> 4) if kind >> 4 else self._zigzag()
            value = self._value(kind & 15, depth)
            if value is not None:
                found[field] = value
        return found

    def _value(self, kind: int, depth: int) -> int | None:
        if depth > _DEPTH_MAX:
            raise ValueError("a page's header is nested too deeply")
        if kind in _INTEGERS:
            return self._zigzag()
        if kind == _STRUCT:
            self.struct(depth + 1)
        elif kind in (_LIST, _SET):
            size = self._byte()
            for _ in range(self._varint() if size >> 4 == 15 else size >> 4):
                self._value(_BYTE if size & 15 in (_TRUE, _FALSE) else size & 15, depth + 1)
        elif kind in (_BYTE, _DOUBLE, _BINARY):
            self._skip({_BYTE: 1, _DOUBLE: 8}.get(kind) or self._varint())
        elif kind not in (_TRUE, _FALSE):
            raise ValueError("a page's header is none")
        return None

    def _skip(self, count: int) -> None:
        self.at += count
        if self.at > len(self._data):
            raise ValueError("a page's header is cut short")

    def _byte(self) -> int:
        self._skip(1)
        return self._data[self.at - 1]

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("a page's header has a number without end")

    def _zigzag(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)
