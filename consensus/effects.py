"""What the engine asks of the driver. Carried out strictly in order: a Persist is durable before what follows it is done."""

from dataclasses import dataclass
from typing import TypeAlias

from consensus.block import Block
from consensus.certificate import Certificate, CommitCertificate, PrepareCertificate, ViewCertificate
from consensus.chain import BlockTemplate
from consensus.events import Timer
from consensus.evidence import Evidence
from consensus.identifiers import Digest, PublicKey
from consensus.messages import Message
from consensus.record import Record
from consensus.requests import Request


@dataclass(frozen=True, slots=True)
class Persist:
    """Append to the vote log. Durable before the next effect that is not a Persist."""

    record: Record


@dataclass(frozen=True, slots=True)
class Broadcast:
    """To everybody connected, never back to the engine. Loss is allowed."""

    message: Message


@dataclass(frozen=True, slots=True)
class BroadcastCertificate:
    certificate: Certificate


@dataclass(frozen=True, slots=True)
class SetTimer:
    timer: Timer
    seconds: float


@dataclass(frozen=True, slots=True)
class BuildBlock:
    """We propose: add contributions and the root with `build_block(template, ...)`, answer BlockBuilt. Abandoned if not answered."""

    height: int
    view: int
    template: BlockTemplate


@dataclass(frozen=True, slots=True)
class CheckBlock:
    """Fetch the payloads, recompute the root, answer BlockChecked once. The block's form and signatures are already good."""

    block: Block


@dataclass(frozen=True, slots=True)
class FetchBlock:
    """A certificate names this block and we have not got it: ask the holders. Repeated about every second while missing."""

    block_hash: Digest
    height: int
    holders: tuple[PublicKey, ...]


@dataclass(frozen=True, slots=True)
class HeightWanted:
    """The engine is idle and others are already deciding this height: rule (d) of "collect, then agree".

    `proposed`: the block of its first proposal, where nothing but that asks for the height.  # rule H3
    """

    height: int
    proposed: Block | None = None


@dataclass(frozen=True, slots=True)
class Behind:
    """Others have decided past us, up to at least `height` - 1. A claim; only synced blocks are truth."""

    height: int


@dataclass(frozen=True, slots=True)
class Decide:
    """Final. Make both durable before anything else, then apply."""

    block: Block
    certificate: CommitCertificate


@dataclass(frozen=True, slots=True)
class ReportEvidence:
    """New proof of an offence: store it, show it, pass it on."""

    evidence: Evidence


@dataclass(frozen=True, slots=True)
class ReportRequest:
    """A request that is new and that the next block may carry: pass it on, once."""

    request: Request


@dataclass(frozen=True, slots=True)
class KeyElsewhere:
    """Somebody else signs with our key. The engine signs nothing any more; say so, loudly, and restart with one copy only."""

    reason: str


@dataclass(frozen=True, slots=True)
class Forked:
    """A valid decision of another block for a height that we decided: more than f members are faulty. Only people can repair this."""

    height: int
    certificate: CommitCertificate


@dataclass(frozen=True, slots=True)
class Refused:
    """A peer's object was of no use; counted and logged, never a reason to stop listening to its votes."""

    peer: PublicKey | None
    reason: str


Effect: TypeAlias = (
    Persist
    | Broadcast
    | BroadcastCertificate
    | SetTimer
    | BuildBlock
    | CheckBlock
    | FetchBlock
    | HeightWanted
    | Behind
    | Decide
    | ReportEvidence
    | ReportRequest
    | KeyElsewhere
    | Forked
    | Refused
)


def to_all(thing: Message | Certificate) -> Broadcast | BroadcastCertificate:
    match thing:
        case PrepareCertificate() | CommitCertificate() | ViewCertificate():
            return BroadcastCertificate(thing)
        case _:
            return Broadcast(thing)
