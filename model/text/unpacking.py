"""The bytes of a file, piece by piece, out of gzip, zstd, bzip2 or xz, whatever its name says.

Nobody knows how much comes out of a compressed file before it has come: each piece is bounded, and a file that grows beyond all
measure is refused (RATIO_MAX), as is one that was cut short or damaged: what it lacks would be missing without anybody's knowing.
"""

import bz2
import lzma
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Final, Protocol

from model.errors import CorpusError
from model.limits import PACKED_TIMES_MAX, PIECE_BYTES, UNPACKED_FREE_BYTES, UNPACKED_RATIO_MAX, UNPACKING_MEMORY_MAX
from model.text.census import Census, megabytes

SUFFIXES: Final = (".gz", ".gzip", ".zst", ".zstd", ".bz2", ".xz", ".lzma")
_ZSTD_STEP: Final = 1024  # of input; a block of 4 bytes may give 128 KiB
_DAMAGED_HINT: Final = "fetch the file again, or leave it out"
_LARGE_HINT: Final = "if that is what it should be, unpack it and give the unpacked file"


def pieces_of(path: Path, census: Census) -> Generator[bytes, None, None]:
    """The file as it lies on the disk. Raises CorpusError."""
    try:
        with path.open("rb", buffering=0) as file:
            while piece := file.read(PIECE_BYTES):
                census.bytes_read += len(piece)
                yield piece
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error.strerror})", "check who owns it, and its disk") from None


def unpacked(pieces: Iterable[bytes], name: str) -> Generator[bytes, None, None]:
    """What is in a compressed file, also one that was packed again; any other as it is. Raises CorpusError."""
    fed, names = _Fed(pieces), list[str]()
    source = iter(fed)
    while True:
        first = next(source, b"")
        found = next((each for each in _FORMATS if first.startswith(each[1])), None)
        if found is None:
            return _again(first, source)
        names.append(found[0])
        if len(names) > PACKED_TIMES_MAX:
            raise CorpusError(f"{name}: packed more than {PACKED_TIMES_MAX} times over", _LARGE_HINT)
        source = _guarded(found[2], _again(first, source), fed, name=f"{name} ({' in '.join(reversed(names))})")


class _Fed:
    """Counts what the file has, however often it was packed."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self.bytes = 0
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self.bytes += len(piece)
            yield piece


def _guarded(
    unpack: Callable[[Iterable[bytes]], Iterator[bytes]], pieces: Iterable[bytes], fed: "_Fed", *, name: str
) -> Generator[bytes, None, None]:
    given = 0
    try:
        for piece in unpack(pieces):
            given += len(piece)
            if given > UNPACKED_FREE_BYTES and given > UNPACKED_RATIO_MAX * fed.bytes:
                what = f"{megabytes(given)} came out of {megabytes(fed.bytes)}, and there is more"
                raise CorpusError(f"{name}: {what}; this may be a bomb", _LARGE_HINT)
            if piece:
                yield piece
    except EOFError:
        raise CorpusError(f"{name}: cut short after {megabytes(given)} of text", _DAMAGED_HINT) from None
    except (zlib.error, OSError, ValueError, lzma.LZMAError) as error:
        if isinstance(error, CorpusError):
            raise
        raise CorpusError(f"{name}: damaged after {megabytes(given)} of text ({error})", _DAMAGED_HINT) from None


def _again(first: bytes, rest: Iterator[bytes]) -> Generator[bytes, None, None]:
    if first:
        yield first
        first = b""  # which is large where it was packed
    yield from rest


def _gunzip(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """RFC 1952: members one after the other; zeros may fill up the end."""
    member = zlib.decompressobj(31)
    for piece in pieces:
        rest = piece
        while rest:
            if member.eof:
                rest = rest.lstrip(b"\0")
                if not rest:
                    break
                member = zlib.decompressobj(31)
            yield member.decompress(rest, PIECE_BYTES)
            rest = member.unused_data if member.eof else member.unconsumed_tail
    if not member.eof:
        yield member.flush()
    if not member.eof:
        raise EOFError


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


def _streams(make: Callable[[], _Decompressor]) -> Callable[[Iterable[bytes]], Iterator[bytes]]:
    """bzip2 and xz: streams one after the other."""

    def unpack(pieces: Iterable[bytes]) -> Iterator[bytes]:
        stream = make()
        for piece in pieces:
            rest = piece
            while True:
                if stream.eof:
                    rest = rest.lstrip(b"\0")  # the padding of xz
                    if not rest:
                        break
                    stream = make()
                yield stream.decompress(rest, PIECE_BYTES)
                rest = stream.unused_data if stream.eof else b""
                if not rest and (stream.eof or stream.needs_input):
                    break
        if not stream.eof:
            raise EOFError

    return unpack


def _unzstd(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """RFC 8878: frames one after the other. The library bounds no output, so little goes in at a time."""
    import zstandard

    def make() -> "zstandard.ZstdDecompressionObj":
        return zstandard.ZstdDecompressor(max_window_size=UNPACKING_MEMORY_MAX).decompressobj()

    frame, fresh = make(), True
    try:
        for piece in pieces:
            for start in range(0, len(piece), _ZSTD_STEP):
                rest = piece[start : start + _ZSTD_STEP]
                while rest:
                    if frame.eof:
                        frame = make()
                    yield frame.decompress(rest)
                    fresh, rest = False, frame.unused_data if frame.eof else b""
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from None
    if not frame.eof and not fresh:
        raise EOFError


def _xz() -> _Decompressor:
    return lzma.LZMADecompressor(memlimit=UNPACKING_MEMORY_MAX)


_FORMATS: Final = (
    ("gzip", b"\x1f\x8b", _gunzip),
    ("zstd", b"\x28\xb5\x2f\xfd", _unzstd),
    ("bzip2", b"BZh", _streams(bz2.BZ2Decompressor)),
    ("xz", b"\xfd7zXZ\0", _streams(_xz)),
)
