"""An exported chain: genesis, blocks and the last certificate in one file that verifies alone. ``docs/chain-file.md`` has the format.

The certificate of every height but the last is the one that the next block carries, so two nodes that export one chain write the same
bytes, but for the last certificate.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import consensus
from p2pnode.errors import SetUpError
from p2pnode.files import FILES, write_whole
from p2pnode.genesis import Genesis
from p2pnode.verify.chain import Row, Unreadable
from p2pnode.verify.report import Report

MAGIC = b"p2pnode-chain-1\n"
_FAMILY = MAGIC[:14]
_DIGEST_BYTES = 32
BYTES_MAX = 8 << 30  # the file is read at once; eight million heights of four members


@dataclass(frozen=True, slots=True)
class Found:
    """``sealed``: whether the digest at the end is that of the rest."""

    genesis: bytes
    rows: Iterator[Row]
    sealed: bool


def write(path: Path, *, genesis: Genesis, height: int, rows: Iterator[Row]) -> None:
    """Export a chain of so many heights, which the caller knows to be sound. Raises OSError."""
    parts = [MAGIC, _sized(genesis.to_bytes()), height.to_bytes(8, "big")]
    certificate = b""
    for row in rows:
        parts.append(_sized(row.block))
        assert isinstance(row.certificate, bytes)
        certificate = row.certificate
    parts.append(_sized(certificate))
    content = b"".join(parts)
    write_whole(FILES.get(), path, content + hashlib.sha256(content).digest())


def read(path: Path, report: Report) -> Found | None:
    """The parts of an exported chain, or a fault.

    Raises:
        SetUpError: it is no exported chain, or one of a later version.
    """
    if path.stat().st_size > BYTES_MAX:
        raise SetUpError(f"{path}: larger than any exported chain", "name a file that p2pnode verify --export wrote")
    return parse(path.read_bytes(), path, report)


def parse(content: bytes, path: Path, report: Report) -> Found | None:
    """What `read` does with the bytes of the file; raises as it does."""
    sealed = hashlib.sha256(content[:-_DIGEST_BYTES]).digest() == content[-_DIGEST_BYTES:]
    if not content.startswith(MAGIC):
        if sealed and content.startswith(_FAMILY):
            raise SetUpError(f"{path}: an exported chain of a later version", "update p2pnode")
        at = _one_bit_off(content)
        if at is None:
            raise SetUpError(
                f"{path}: neither a node's home nor an exported chain", "name a file that p2pnode verify --export wrote"
            )
        report.fault(path.name, "it does not begin like an exported chain", byte=at)
        return None
    try:
        return _take_apart(content, sealed)
    except _CutShort as problem:
        report.fault(path.name, f"{problem.what} is cut short, or its length is wrong", byte=problem.byte)
        return None


class _CutShort(Exception):
    def __init__(self, what: str, byte: int) -> None:
        super().__init__(what)
        self.what, self.byte = what, byte


def _take_apart(content: bytes, sealed: bool) -> Found:
    at, end = len(MAGIC), len(content) - _DIGEST_BYTES

    def take(count: int, what: str) -> bytes:
        nonlocal at
        if at + count > end:
            raise _CutShort(what, at)
        at += count
        return content[at - count : at]

    def sized(what: str) -> tuple[int, bytes]:
        place = at
        return place, take(int.from_bytes(take(4, what), "big"), what)

    _, genesis = sized("the genesis")
    height = int.from_bytes(take(8, "the number of heights"), "big")
    if height > end:  # not a byte for each
        raise _CutShort("the number of heights", at - 8)
    blocks = [sized(f"block {number}") for number in range(1, height + 1)]
    _, last = sized("the last certificate")
    if at != end:
        raise _CutShort("the end", at)
    return Found(genesis, _rows(blocks, last), sealed)


def _rows(blocks: list[tuple[int, bytes]], last: bytes) -> Iterator[Row]:
    for number, (byte, block) in enumerate(blocks, start=1):
        certificate = last if number == len(blocks) else _certificate_in(*blocks[number])
        yield Row(number, block, certificate, byte)


def _certificate_in(byte: int, block: bytes) -> bytes | Unreadable:
    try:
        certificate = consensus.Block.decode(block).last_certificate
    except ValueError as problem:
        return Unreadable(byte, str(problem))
    return b"" if certificate is None else certificate.encode()


def _one_bit_off(content: bytes) -> int | None:
    """The byte in which the file's first bytes differ by one bit from those of an export."""
    if len(content) < len(MAGIC) + _DIGEST_BYTES:
        return None
    off = [(at, a ^ b) for at, (a, b) in enumerate(zip(content, MAGIC, strict=False)) if a != b]
    return off[0][0] if len(off) == 1 and off[0][1].bit_count() == 1 else None


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data
