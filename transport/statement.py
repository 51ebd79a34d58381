"""The bytes that are signed: DOMAIN | kind | chain id | body, all fixed width and big-endian.

One domain for the protocol and one tag per kind, so that no signature is valid for another purpose or another network.
The signed bytes are the wire form. consensus/ implements the same convention for its own kinds; the two libraries
share this comment, not code.
"""

from __future__ import annotations

from typing import Final, NewType

from transport.errors import Malformed

ChainId = NewType("ChainId", bytes)

DOMAIN: Final = b"p2pnode-sig-v1\0\0"
CHAIN_ID_BYTES: Final = 32
# What a joiner writes that has not seen a genesis yet. No SHA-256 of a genesis is zero.
NO_CHAIN: Final = ChainId(bytes(CHAIN_ID_BYTES))

PEER_RECORD: Final = 0x20
HELLO: Final = 0x30
# Kinds that belong to the transport: an envelope must not carry them.
TRANSPORT_KINDS: Final = range(0x20, 0x40)

HEADER_BYTES: Final = len(DOMAIN) + 1 + CHAIN_ID_BYTES


def make_statement(kind: int, chain_id: bytes | None, body: bytes) -> bytes:
    """The bytes to sign; `chain_id` None stands for `none yet`."""
    return b"".join((DOMAIN, bytes((kind,)), NO_CHAIN if chain_id is None else chain_id, body))


def parse(data: bytes) -> tuple[int, ChainId, bytes]:
    """Kind, chain id and body of a statement; raises Malformed."""
    if len(data) < HEADER_BYTES:
        raise Malformed(f"a statement of {len(data)} bytes")
    if not data.startswith(DOMAIN):
        raise Malformed("a statement of another domain")
    return data[len(DOMAIN)], ChainId(data[HEADER_BYTES - CHAIN_ID_BYTES : HEADER_BYTES]), data[HEADER_BYTES:]


def chain_text(chain_id: bytes | None) -> str:
    """A chain id for people: twelve digits, or `none yet`."""
    return "none yet" if chain_id is None or chain_id == NO_CHAIN else chain_id.hex()[:12]
