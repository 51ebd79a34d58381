"""Compressed files: all of what is in them, or one line that says why not."""

import bz2
import gzip
import io
import lzma
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from model import limits
from model.errors import CorpusError
from model.text import unpacking
from model.text.census import Census
from model.text.unpacking import pieces_of, unpacked

TEXT = b"".join(b"line %d of a text\n" % number for number in range(50_000))
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zstd": zstandard.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}
EACH = pytest.mark.parametrize("name", PACKERS)


def in_pieces(data: bytes, size: int = 1000) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def unpack(data: bytes, size: int = 1000) -> bytes:
    return b"".join(unpacked(in_pieces(data, size), "file"))


@EACH
@pytest.mark.parametrize("size", [16, 977, 1 << 18])
def test_what_was_packed_comes_out(name: str, size: int) -> None:
    text = TEXT[:20_000] if size == 16 else TEXT
    assert unpack(PACKERS[name](text), size) == text


@EACH
def test_several_packed_one_after_the_other_are_one(name: str) -> None:
    pack = PACKERS[name]
    assert unpack(pack(TEXT[:5000]) + pack(b"") + pack(TEXT[5000:])) == TEXT


@EACH
def test_what_was_packed_again_comes_out_and_what_was_packed_without_end_does_not(name: str) -> None:
    data = TEXT[:5000]
    for pack in (PACKERS[name], gzip.compress, PACKERS[name], zstandard.compress):
        assert unpack(data) == TEXT[:5000]
        data = pack(data)
    with pytest.raises(CorpusError, match="file: packed more than 3 times over"):
        unpack(data)
    damaged = gzip.compress(PACKERS[name](TEXT[:5000])[:-20])
    with pytest.raises(CorpusError, match=rf"file \({name} in gzip\): (cut short|damaged)"):
        unpack(damaged)


def test_a_bomb_in_a_bomb_is_measured_against_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "UNPACKED_FREE_BYTES", 1 << 20)
    data = gzip.compress(gzip.compress(bytes(1 << 20) + TEXT[:20_000]) * 2)
    with pytest.raises(CorpusError, match=r"file \(gzip in gzip\): .* this may be a bomb"):
        unpack(data)


@pytest.mark.parametrize("name", ["gzip", "xz"])
def test_zeros_may_fill_up_the_end(name: str) -> None:
    assert unpack(PACKERS[name](TEXT) + bytes(512)) == TEXT


def test_what_is_not_packed_stays_as_it_is() -> None:
    assert unpack(TEXT) == TEXT and unpack(b"") == b""


@EACH
@pytest.mark.parametrize("cut", [-1, -9, -500, 40])
def test_a_file_that_was_cut_short_is_one_line(name: str, cut: int) -> None:
    with pytest.raises(CorpusError, match=rf"file \({name}\): (cut short|damaged)") as caught:
        unpack(PACKERS[name](TEXT)[:cut])
    assert caught.value.hint


@EACH
def test_a_damaged_file_is_one_line(name: str) -> None:
    data = bytearray(PACKERS[name](TEXT))
    for place in range(len(data) // 2, len(data) // 2 + 40):
        data[place] ^= 0xFF
    with pytest.raises(CorpusError, match=rf"file \({name}\): (damaged|cut short)"):
        unpack(bytes(data))


def test_rubbish_behind_a_file_is_damage() -> None:
    with pytest.raises(CorpusError, match="damaged"):
        unpack(gzip.compress(TEXT) + b"rubbish")


def bomb(name: str, size: int) -> bytes:
    """Zeros, packed."""
    zeros = bytes(1 << 20)
    if name == "gzip":
        packer = zlib.compressobj(9, wbits=31)
        return b"".join(packer.compress(zeros) for _ in range(size >> 20)) + packer.flush()
    packed = io.BytesIO()
    with zstandard.ZstdCompressor().stream_writer(packed, closefd=False) as writer:
        for _ in range(size >> 20):
            writer.write(zeros)
    return packed.getvalue()


@pytest.mark.parametrize("name", ["gzip", "zstd"])
def test_a_bomb_is_one_line_and_takes_no_memory(name: str) -> None:
    data = bomb(name, 3 * limits.UNPACKED_FREE_BYTES)
    assert len(data) * 250 < 2 * limits.UNPACKED_FREE_BYTES
    given = 0
    tracemalloc.start()
    try:
        with pytest.raises(CorpusError, match="may be a bomb") as caught:
            for piece in unpacked(in_pieces(data, limits.PIECE_BYTES), "file"):
                given += len(piece)
        assert tracemalloc.get_traced_memory()[1] < 80 << 20
    finally:
        tracemalloc.stop()
    assert limits.UNPACKED_FREE_BYTES - (64 << 20) <= given < 2.2 * limits.UNPACKED_FREE_BYTES
    assert "unpack it" in caught.value.hint


def test_how_much_may_come_out_of_little() -> None:
    """Less than the free bytes from nothing at all, and then the ratio; below it, any amount."""
    free = bomb("gzip", limits.UNPACKED_FREE_BYTES)
    assert len(unpack(free, limits.PIECE_BYTES)) == limits.UNPACKED_FREE_BYTES
    with pytest.raises(CorpusError, match="bomb"):
        unpack(bomb("gzip", limits.UNPACKED_FREE_BYTES + (1 << 20)), limits.PIECE_BYTES)
    noise = gzip.compress(bytes(range(256)) * 2048, 0)  # as large as what is in it
    fits = limits.UNPACKED_RATIO_MAX * len(noise) * 3 // 4
    assert len(unpack(noise + bomb("gzip", fits), limits.PIECE_BYTES)) > limits.UNPACKED_FREE_BYTES * 5 // 4
    with pytest.raises(CorpusError, match="bomb"):
        unpack(noise + bomb("gzip", 2 * fits), limits.PIECE_BYTES)


@pytest.mark.parametrize("name", ["zstd", "xz"])
def test_what_needs_a_larger_window_is_refused(name: str) -> None:
    def packed(window: int) -> bytes:
        if name == "xz":
            return lzma.compress(TEXT, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": window}])
        wanted = zstandard.ZstdCompressionParameters(window_log=window.bit_length() - 1)
        packer = zstandard.ZstdCompressor(compression_params=wanted).compressobj()
        return packer.compress(TEXT) + packer.flush()

    assert unpack(packed(limits.UNPACKING_MEMORY_MAX // 2)) == TEXT
    with pytest.raises(CorpusError, match="damaged"):
        unpack(packed(limits.UNPACKING_MEMORY_MAX * 2))


def test_a_file_is_read_in_pieces_and_counted(tmp_path: Path) -> None:
    path, census = tmp_path / "text", Census()
    path.write_bytes(TEXT)
    pieces = list(pieces_of(path, census))
    assert b"".join(pieces) == TEXT and census.bytes_read == len(TEXT)
    assert max(map(len, pieces)) == limits.PIECE_BYTES
    with pytest.raises(CorpusError, match="cannot be read"):
        list(pieces_of(tmp_path / "missing", census))
