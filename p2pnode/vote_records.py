"""What stands in the vote log: five kinds of records, and the one place that writes and reads them.

    V  an engine's record (``consensus.record``): a statement of ours, or what it rests on
    C  the height, then the envelope of our own CONTRIBUTION
    D  a decision: the block, then its certificate; until the chain file has it for good
    S  the height until whose decision this node signs nothing, because it lost an earlier log
    M  the height that was decided in the home that this key came from

What it is not: the file (``wal``), or what a start makes of the records (``recovery``).

Rules for editing: one byte of kind, then fixed widths, then the rest. What does not decode is damage, never skipped.
"""

from dataclasses import dataclass
from typing import TypeAlias, assert_never

import consensus
import transport


@dataclass(frozen=True, slots=True)
class Signed:
    record: consensus.Record

    @property
    def height(self) -> int:
        return self.record.height


@dataclass(frozen=True, slots=True)
class Announced:
    height: int
    envelope: transport.Envelope


@dataclass(frozen=True, slots=True)
class Decided:
    block: consensus.Block
    certificate: consensus.CommitCertificate

    @property
    def height(self) -> int:
        return self.block.height


@dataclass(frozen=True, slots=True)
class Silent:
    """Until ``height`` is decided."""

    height: int


@dataclass(frozen=True, slots=True)
class Moved:
    """``height`` was decided where this key was before: what it signed up to there may stand in no log any more."""

    height: int


VoteRecord: TypeAlias = Signed | Announced | Decided | Silent | Moved


def encode(record: VoteRecord) -> bytes:
    match record:
        case Signed():
            return b"V" + record.record.encode()
        case Announced():
            return b"C" + record.height.to_bytes(8, "big") + record.envelope.encode()
        case Decided():
            block = record.block.encode()
            return b"D" + len(block).to_bytes(4, "big") + block + record.certificate.encode()
        case Silent():
            return b"S" + record.height.to_bytes(8, "big")
        case Moved():
            return b"M" + record.height.to_bytes(8, "big")
        case _:
            assert_never(record)


def decode(data: bytes) -> VoteRecord:
    """Raises consensus.Malformed."""
    match data[:1]:
        case b"V":
            return Signed(consensus.Record.decode(data[1:]))
        case b"C":
            try:
                return Announced(int.from_bytes(data[1:9], "big"), transport.Envelope.decode(data[9:]))
            except transport.Malformed as problem:
                raise consensus.Malformed(str(problem)) from None
        case b"D":
            end = 5 + int.from_bytes(data[1:5], "big")
            certificate = consensus.decode_certificate(data[end:])
            if not isinstance(certificate, consensus.CommitCertificate):
                raise consensus.Malformed("a decision with a certificate of another kind")
            return Decided(consensus.Block.decode(data[5:end]), certificate)
        case b"S" if len(data) == 9:
            return Silent(int.from_bytes(data[1:9], "big"))
        case b"M" if len(data) == 9:
            return Moved(int.from_bytes(data[1:9], "big"))
        case _:
            raise consensus.Malformed(f"a record of kind {data[:1]!r}")
