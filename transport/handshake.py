"""HELLO and ACK: which network, which version, and that both ends mean this very TLS connection.

    both ends:  HELLO = key 32 | signature 64 | statement(0x30, chain id, body) | peer record 171, or nothing
                body  = version u16 | nonce 32 | hash of my leaf 32 | hash of yours 32 | suspected 32 | seen 18 | probe u8
    both ends:  ACK   = SHA-256(client's HELLO | server's HELLO)

HELLO goes out at once, ACK after the other's HELLO was found good: a TLS 1.3 client returns from its handshake before
the server judged its certificate, so only the ACK says that one is accepted. Sans-IO.

The ACK's hash names the connection. `suspected` is the name of an older connection between the same two on which the
sender has heard nothing for a while, or zero: both ends then give it up for the new one. `seen` is the address that the sender
sees at the other end, or zero: talk, from which a node learns its own address where several agree (reachability.py). `probe` is 1
where the dialer only wants to know whether this very node answers there; the connection then ends with BYE right after the ACK.
Rule for editing: version and chain id stay where they are in every later version, or nobody could name the mismatch.
"""

from __future__ import annotations

import enum
import hashlib
import struct
from dataclasses import dataclass
from typing import Final

from transport import statement as st
from transport.address import PACKED_BYTES, Address
from transport.errors import Malformed
from transport.framing import Kind, encode_frame
from transport.identity import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, Identity, verify
from transport.limits import BYE_TEXT_BYTES_MAX
from transport.peerbook import RECORD_BYTES, PeerRecord
from transport.tls import TlsPeer

PROTOCOL_VERSION: Final = 3
NOTHING_SUSPECTED: Final = bytes(32)
_NOTHING_SEEN: Final = bytes(PACKED_BYTES)
_BODY: Final = struct.Struct(">H32s32s32s32s18sB")
_VERSION_AT: Final = PUBLIC_KEY_BYTES + SIGNATURE_BYTES + st.HEADER_BYTES
_HELLO_BYTES: Final = _VERSION_AT + _BODY.size


class Bye(enum.IntEnum):
    """Why a connection is ended; the code on the wire."""

    LEAVING = 0
    DUPLICATE = 1
    MYSELF = 2
    WRONG_NETWORK = 3
    INCOMPATIBLE_VERSION = 4
    FULL = 5
    BANNED = 6
    PROTOCOL = 7
    TIMED_OUT = 8
    TWIN = 9


class Refused(Exception):
    """The handshake ends here. `told` says that the other end said so, and need not hear it from us."""

    def __init__(self, code: Bye, reason: str, *, told: bool = False) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.told = told


@dataclass(frozen=True, slots=True)
class Peer:
    """What HELLO said."""

    chain_id: st.ChainId | None
    record: PeerRecord | None
    suspected: bytes = NOTHING_SUSPECTED
    seen: Address | None = None
    is_probe: bool = False


class Handshake:
    """One end's view of one connection's handshake. `peer` is set once both have accepted, `id` before."""

    def __init__(
        self,
        *,
        identity: Identity,
        leaf_hash: bytes,
        remote: TlsPeer,
        is_client: bool,
        chain_id: st.ChainId | None,
        record: PeerRecord | None,
        nonce: bytes,
        suspected: bytes = NOTHING_SUSPECTED,
        seen: Address | None = None,
        is_probe: bool = False,
        version: int = PROTOCOL_VERSION,
    ) -> None:
        self._remote = remote
        self._is_client = is_client
        self._leaf_hash = leaf_hash
        self._chain_id = chain_id
        self._version = version
        packed = seen.pack() if seen is not None and seen.ip is not None else _NOTHING_SEEN
        body = _BODY.pack(version, nonce, leaf_hash, remote.leaf_hash, suspected, packed, is_probe)
        signed = st.make_statement(st.HELLO, chain_id, body)
        tail = b"" if record is None else record.encode()
        self._hello = identity.public_key + identity.sign(signed) + signed + tail
        self._said: Peer | None = None
        self.id = b""
        self.peer: Peer | None = None

    def start(self) -> bytes:
        """The frame to send first."""
        return encode_frame(Kind.HELLO, self._hello)

    def receive(self, kind: int, body: bytes) -> bytes:
        """Take in one frame, give the bytes to answer with. Raises Refused."""
        match kind:
            case Kind.HELLO if self._said is None:
                self._said = self._check(body)
                first, second = (self._hello, body) if self._is_client else (body, self._hello)
                self.id = hashlib.sha256(first + second).digest()
                return encode_frame(Kind.ACK, self.id)
            case Kind.ACK if self._said is not None:
                if body != self.id:
                    raise Refused(Bye.PROTOCOL, "its ACK is for another handshake")
                self.peer = self._said
                return b""
            case Kind.BYE:
                code, text = decode_bye(body)
                raise Refused(code, text or code.name.lower().replace("_", " "), told=True)
            case _:
                raise Refused(Bye.PROTOCOL, f"a frame of kind 0x{kind:02x} in place of HELLO and ACK")

    def _check(self, hello: bytes) -> Peer:
        key, signature = hello[:PUBLIC_KEY_BYTES], hello[PUBLIC_KEY_BYTES : PUBLIC_KEY_BYTES + SIGNATURE_BYTES]
        signed = hello[PUBLIC_KEY_BYTES + SIGNATURE_BYTES : _HELLO_BYTES]
        try:
            kind, chain_id, body = st.parse(signed)
        except Malformed as error:
            raise Refused(Bye.PROTOCOL, f"its HELLO is {error}") from None
        if kind != st.HELLO or len(body) < 2:
            raise Refused(Bye.PROTOCOL, "its HELLO is something else")
        (version,) = struct.unpack_from(">H", body)
        if version != self._version:
            raise Refused(Bye.INCOMPATIBLE_VERSION, f"it speaks protocol version {version}, this node {self._version}")
        if len(hello) not in (_HELLO_BYTES, _HELLO_BYTES + RECORD_BYTES):
            raise Refused(Bye.PROTOCOL, f"a HELLO of {len(hello)} bytes")
        if key != self._remote.key or not verify(key, signed, signature):
            raise Refused(Bye.PROTOCOL, "its HELLO is not signed by the key of its certificate")
        _, _, its_leaf, my_leaf, suspected, seen, probe = _BODY.unpack(body)
        if its_leaf != self._remote.leaf_hash or my_leaf != self._leaf_hash:
            raise Refused(Bye.PROTOCOL, "its HELLO is for another TLS connection")
        if self._chain_id is not None and chain_id not in (self._chain_id, st.NO_CHAIN):
            theirs, ours = st.chain_text(chain_id), st.chain_text(self._chain_id)
            raise Refused(Bye.WRONG_NETWORK, f"it is on network {theirs}, this node on {ours}")
        if probe > 1:
            raise Refused(Bye.PROTOCOL, f"its HELLO says {probe} for whether it is a probe")
        record = _own_record(hello[_HELLO_BYTES:], key)
        chain = None if chain_id == st.NO_CHAIN else chain_id
        return Peer(chain, record, suspected, seen=_seen(seen), is_probe=bool(probe))


def encode_bye(code: Bye, text: str = "") -> bytes:
    """A BYE frame; long texts are cut."""
    return encode_frame(Kind.BYE, bytes((code,)), text.encode()[:BYE_TEXT_BYTES_MAX])


def decode_bye(body: bytes) -> tuple[Bye, str]:
    """Code and text of a BYE. Unknown codes read as PROTOCOL; the text is made safe to print."""
    try:
        code = Bye(body[0])
    except (IndexError, ValueError):
        code = Bye.PROTOCOL
    text = body[1:].decode(errors="replace")
    return code, "".join(c if c.isprintable() else "?" for c in text)


def _seen(packed: bytes) -> Address | None:
    if packed == _NOTHING_SEEN:
        return None
    try:
        return Address.unpack(packed)
    except Malformed as error:
        raise Refused(Bye.PROTOCOL, f"its HELLO sees {error}") from None


def _own_record(data: bytes, key: bytes) -> PeerRecord | None:
    if not data:
        return None
    try:
        record = PeerRecord.decode(data)
    except Malformed as error:
        raise Refused(Bye.PROTOCOL, f"its HELLO carries {error}") from None
    if record.key != key:
        raise Refused(Bye.PROTOCOL, "its HELLO carries another node's record")
    return record
