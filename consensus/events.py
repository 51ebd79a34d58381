"""What can happen to the engine. Facts that the driver reports, already verified where that says so."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from consensus.block import Block
from consensus.certificate import Certificate
from consensus.chain import ChainState
from consensus.evidence import Evidence
from consensus.identifiers import Digest
from consensus.messages import Message


class TimerKind(StrEnum):
    PROPOSE = "propose"
    SYNC = "sync"
    PREPARE = "prepare"
    COMMIT = "commit"
    REBROADCAST = "rebroadcast"


@dataclass(frozen=True, slots=True)
class Timer:
    """Names one alarm. The engine ignores an alarm that it no longer waits for, so none need be cancelled."""

    kind: TimerKind
    height: int
    view: int  # REBROADCAST: how many went before


@dataclass(frozen=True, slots=True)
class Begin:
    """The driver is ready to carry out effects. Any other first event begins as well."""


@dataclass(frozen=True, slots=True)
class StartHeight:
    """Agree on this height now; ignored unless it is the next one and the engine is idle."""

    height: int


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """A decoded message whose signature the transport has verified."""

    message: Message


@dataclass(frozen=True, slots=True)
class CertificateReceived:
    """A decoded certificate, nothing verified."""

    certificate: Certificate


@dataclass(frozen=True, slots=True)
class BlockReceived:
    """An answer to FetchBlock, nothing verified."""

    block: Block


@dataclass(frozen=True, slots=True)
class TimerFired:
    timer: Timer


@dataclass(frozen=True, slots=True)
class BlockBuilt:
    """The answer to BuildBlock: a block made with `build_block`, whose payloads are durable and whose root was computed."""

    height: int
    view: int
    block: Block


@dataclass(frozen=True, slots=True)
class BlockChecked:
    """The answer to CheckBlock. `ok`: every listed payload is held and the root was reproduced."""

    block_hash: Digest
    ok: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Synced:
    """Block sync has verified, applied and stored everything up to this state."""

    state: ChainState


@dataclass(frozen=True, slots=True)
class DelaysMeasured:
    """delay_seconds: p99 one-way delay, queueing included; check_seconds: for fetching and recomputing a block.  # rule T1"""

    delay_seconds: float
    check_seconds: float


@dataclass(frozen=True, slots=True)
class EvidenceReceived:
    """Evidence from a peer, or from our own store after a restart; nothing verified."""

    evidence: Evidence


Event: TypeAlias = (
    Begin
    | StartHeight
    | MessageReceived
    | CertificateReceived
    | BlockReceived
    | TimerFired
    | BlockBuilt
    | BlockChecked
    | Synced
    | DelaysMeasured
    | EvidenceReceived
)
