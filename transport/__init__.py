"""Carries opaque bytes between nodes that do not trust one another. Knows neither rounds nor tensors.

`Swarm` is the whole of it for a node; the rest is what its arguments and events are made of. docs/wire-format.md has
the protocol; limits.py has every bound. Never imports consensus, model or p2pnode.
"""

from transport.address import Address, Scope
from transport.blobs import MemoryBlobs
from transport.content import (
    ContentDigest,
    content_digest,
    digest_of,
    digest_of_hashes,
    leaf_count,
    leaf_hash,
    leaf_hashes,
    leaf_length,
    split,
)
from transport.dialing import DialFailure
from transport.envelope import Envelope
from transport.errors import LocalFault, Malformed, RemoteFault, RequestFailed, RequestRefused, UserError
from transport.events import (
    BootstrapFailed,
    EnvelopeReceived,
    FrameReceived,
    PeerConnected,
    PeerDisconnected,
    PeerInfo,
    ReachabilityChanged,
    Statistics,
    SwarmEvent,
    TwinSeen,
)
from transport.framing import APPLICATION_KIND_MIN, encode_frame
from transport.identity import Identity, NodeId, PublicKey, node_id, short_id, verify
from transport.inbox import Inbox
from transport.limits import LEAF_BYTES
from transport.log import Log
from transport.peerbook import PeerBook
from transport.reachability import Reach, Result, Verdict
from transport.refusals import Refusals
from transport.requests import RequestHandler
from transport.sharing import BlobSource
from transport.statement import ChainId, make_statement
from transport.swarm import Swarm

__all__ = [
    "APPLICATION_KIND_MIN",
    "LEAF_BYTES",
    "Address",
    "BlobSource",
    "BootstrapFailed",
    "ChainId",
    "ContentDigest",
    "DialFailure",
    "Envelope",
    "EnvelopeReceived",
    "FrameReceived",
    "Identity",
    "Inbox",
    "LocalFault",
    "Log",
    "Malformed",
    "MemoryBlobs",
    "NodeId",
    "PeerBook",
    "PeerConnected",
    "PeerDisconnected",
    "PeerInfo",
    "PublicKey",
    "Reach",
    "ReachabilityChanged",
    "Refusals",
    "RemoteFault",
    "RequestFailed",
    "RequestHandler",
    "RequestRefused",
    "Result",
    "Scope",
    "Statistics",
    "Swarm",
    "SwarmEvent",
    "TwinSeen",
    "UserError",
    "Verdict",
    "content_digest",
    "digest_of",
    "digest_of_hashes",
    "encode_frame",
    "leaf_count",
    "leaf_hash",
    "leaf_hashes",
    "leaf_length",
    "make_statement",
    "node_id",
    "short_id",
    "split",
    "verify",
]
