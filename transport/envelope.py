"""Signed objects that travel, and may be relayed by anybody: author | signature | statement | attachment.

    key 32 | signature 64 | statement length u16 | statement | attachment (the rest)

The transport checks the width, the domain, the network and the signature; what a statement means is the node's
business. The attachment is NOT signed by the author: whoever reads it checks it against the statement.
Not here: who relays what to whom (the node decides).
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from transport import statement as st
from transport.errors import Malformed
from transport.framing import Kind, encode_frame
from transport.identity import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, PublicKey, verify
from transport.limits import ENVELOPE_BYTES_MAX, SEEN_ENTRIES_MAX, SEEN_SECONDS, STATEMENT_BYTES_MAX

_PREFIX: Final = PUBLIC_KEY_BYTES + SIGNATURE_BYTES + 2


@dataclass(frozen=True, slots=True)
class Envelope:
    author: PublicKey
    signature: bytes
    statement: bytes
    attachment: bytes = b""

    @property
    def kind(self) -> int:
        """The statement's tag."""
        return self.statement[len(st.DOMAIN)]

    @property
    def body(self) -> bytes:
        """The statement's, behind its kind and network."""
        return self.statement[st.HEADER_BYTES :]

    def encode(self) -> bytes:
        length = struct.pack(">H", len(self.statement))
        return b"".join((self.author, self.signature, length, self.statement, self.attachment))

    def frame(self) -> bytes:
        """Ready for Swarm.publish."""
        return encode_frame(Kind.ENVELOPE, self.encode())

    @classmethod
    def decode(cls, data: bytes) -> Envelope:
        """Strict on every width, the domain and the kind; does not verify. Raises Malformed."""
        if len(data) > ENVELOPE_BYTES_MAX:
            raise Malformed(f"an envelope of {len(data)} bytes")
        if len(data) < _PREFIX:
            raise Malformed("an envelope that ends early")
        (length,) = struct.unpack_from(">H", data, _PREFIX - 2)
        end = _PREFIX + length
        if length > STATEMENT_BYTES_MAX or end > len(data):
            raise Malformed(f"an envelope with a statement of {length} bytes")
        signed = data[_PREFIX:end]
        kind, _, _ = st.parse(signed)
        if kind in st.TRANSPORT_KINDS:
            raise Malformed(f"an envelope with the transport's own kind 0x{kind:02x}")
        key = PublicKey(data[:PUBLIC_KEY_BYTES])
        return cls(key, data[PUBLIC_KEY_BYTES : _PREFIX - 2], signed, data[end:])

    def chain_id(self) -> st.ChainId:
        return st.parse(self.statement)[1]

    def is_authentic(self) -> bool:
        """Whether the author signed the statement (35 us)."""
        return verify(self.author, self.statement, self.signature)


class SeenCache:
    """Which envelopes were verified lately, by hash, so that copies cost a look-up and no signature check.

    A copy soon after another is an echo (several peers relay the same vote) and is dropped. A later copy is a
    retransmission: the node may have had no use for the first one (it was behind), so it is handed up again, marked
    as not the first. Only authentic envelopes are remembered, so nobody can make us deaf to one in advance.
    """

    __slots__ = ("_handed_up_at",)

    def __init__(self) -> None:
        self._handed_up_at: OrderedDict[bytes, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._handed_up_at)

    def is_echo(self, digest: bytes, now: float) -> bool:
        """Whether to drop it: a copy was handed up less than SEEN_SECONDS ago."""
        at = self._handed_up_at.get(digest)
        return at is not None and now - at < SEEN_SECONDS

    def is_known(self, digest: bytes) -> bool:
        """Whether it needs no signature check."""
        return digest in self._handed_up_at

    def remember(self, digest: bytes, now: float) -> None:
        """It was verified and handed up; the oldest entries make room."""
        self._handed_up_at[digest] = now
        self._handed_up_at.move_to_end(digest)
        while len(self._handed_up_at) > SEEN_ENTRIES_MAX:
            self._handed_up_at.popitem(last=False)
