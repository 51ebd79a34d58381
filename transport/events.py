"""What the swarm tells the node. Frozen values; nothing here does anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from transport.address import Address
from transport.dialing import DialFailure
from transport.envelope import Envelope
from transport.identity import NodeId, PublicKey
from transport.reachability import Reach
from transport.statement import ChainId

Direction = Literal["outbound", "inbound"]


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """A connected peer. `address` is where it listens if it said so, else where its connection comes from.

    `is_silent`: nothing has come from it for a while, though it was asked; it may be out of reach.
    """

    key: PublicKey
    node_id: NodeId
    address: Address
    listens: bool
    direction: Direction
    chain_id: ChainId | None
    rtt_seconds: float | None
    is_silent: bool = False


@dataclass(frozen=True, slots=True)
class PeerConnected:
    peer: PeerInfo


@dataclass(frozen=True, slots=True)
class PeerDisconnected:
    """Comes after every other event of that peer; then only a PeerConnected can follow."""

    peer: PeerInfo
    reason: str


@dataclass(frozen=True, slots=True)
class EnvelopeReceived:
    """Verified. `is_first` is False for a retransmission of one that was handed up before: use it, do not relay it."""

    peer_key: PublicKey
    envelope: Envelope
    is_first: bool


@dataclass(frozen=True, slots=True)
class FrameReceived:
    """A frame of one of the node's own kinds (0x80 and above), unread."""

    peer_key: PublicKey
    kind: int
    body: bytes


@dataclass(frozen=True, slots=True)
class BootstrapFailed:
    """Told once for each change of class, not for each try."""

    address: Address
    failure: DialFailure
    reason: str


@dataclass(frozen=True, slots=True)
class ReachabilityChanged:
    """Peers have dialed this node back, or tried to, and what is known of its reachability is not what it was."""

    reach: Reach


@dataclass(frozen=True, slots=True)
class TwinSeen:
    """Another process uses this node's key. `witness` says so, and may lie; None where this node met it itself.

    `refused` is True where the witness keeps to that process and turned this one away.
    """

    witness: PublicKey | None
    where: str
    refused: bool


SwarmEvent = (
    PeerConnected
    | PeerDisconnected
    | EnvelopeReceived
    | FrameReceived
    | BootstrapFailed
    | ReachabilityChanged
    | TwinSeen
)


class KindTraffic(NamedTuple):
    """Frames of one kind that were received, and their bytes with their headers."""

    frames: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """Totals since the start; `refused` counts connections that were ended for a fault of the peer."""

    bytes_sent: int
    bytes_received: int
    refused: int
    peers: int
    known: int
    received: Mapping[int, KindTraffic]
