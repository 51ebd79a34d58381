"""Who listens where: signed peer records and the flat book that holds them.

A record is signed by the node that it names, so nobody can move another's address; a higher sequence number replaces
a lower one. A record holds one address: a node that is reachable in several scopes signs several, because a signed
record cannot be shown in part and loopback addresses must not leave the machine.

Sans-IO: time is passed in (seconds of the wall clock). Persistent as bytes. Not here: when to dial (dialing.py), what
to ask (pex.py).
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from transport import statement as st
from transport.address import PACKED_BYTES, Address, Scope, may_hear
from transport.errors import Malformed
from transport.identity import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, Identity, PublicKey, verify
from transport.limits import BOOK_ENTRIES_MAX, RECORD_FUTURE_SECONDS_MAX

_BODY: Final = struct.Struct(f">Q{PACKED_BYTES}s")
_STATEMENT_BYTES: Final = st.HEADER_BYTES + _BODY.size
RECORD_BYTES: Final = PUBLIC_KEY_BYTES + SIGNATURE_BYTES + _STATEMENT_BYTES
# Of a saved entry: the record, when a dial last succeeded (0: never), failures since.
_SAVED: Final = struct.Struct(f">{RECORD_BYTES}sdI")
_SAVED_VERSION: Final = b"p2pnode-book-1\n"


@dataclass(frozen=True, slots=True)
class PeerRecord:
    """`key` says that it listens at `address`. `sequence` is milliseconds of its clock at signing."""

    key: PublicKey
    signature: bytes
    chain_id: st.ChainId
    sequence: int
    address: Address

    @classmethod
    def sign(cls, identity: Identity, chain_id: bytes | None, *, sequence: int, address: Address) -> PeerRecord:
        """Raises UserError where the address is a name."""
        signed = st.make_statement(st.PEER_RECORD, chain_id, _BODY.pack(sequence, address.pack()))
        chain = st.ChainId(chain_id or st.NO_CHAIN)
        return cls(identity.public_key, identity.sign(signed), chain, sequence, address)

    def encode(self) -> bytes:
        body = _BODY.pack(self.sequence, self.address.pack())
        return self.key + self.signature + st.make_statement(st.PEER_RECORD, self.chain_id, body)

    @classmethod
    def decode(cls, data: bytes) -> PeerRecord:
        """Strict, but does not verify; raises Malformed."""
        if len(data) != RECORD_BYTES:
            raise Malformed(f"a peer record of {len(data)} bytes")
        kind, chain_id, body = st.parse(data[PUBLIC_KEY_BYTES + SIGNATURE_BYTES :])
        if kind != st.PEER_RECORD:
            raise Malformed(f"a peer record of kind 0x{kind:02x}")
        sequence, packed = _BODY.unpack(body)
        key = PublicKey(data[:PUBLIC_KEY_BYTES])
        signature = data[PUBLIC_KEY_BYTES : PUBLIC_KEY_BYTES + SIGNATURE_BYTES]
        return cls(key, signature, chain_id, sequence, Address.unpack(packed))

    def is_authentic(self) -> bool:
        return verify(self.key, self.encode()[PUBLIC_KEY_BYTES + SIGNATURE_BYTES :], self.signature)


@dataclass(frozen=True, slots=True)
class Entry:
    record: PeerRecord
    succeeded_at: float = 0.0
    failures: int = 0


class PeerBook:
    """At most one entry for each node and scope, at most BOOK_ENTRIES_MAX in all."""

    def __init__(self) -> None:
        self._entries: dict[tuple[PublicKey, Scope], Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(tuple(self._entries.values()))

    def get(self, key: bytes, scope: Scope) -> Entry | None:
        return self._entries.get((PublicKey(key), scope))

    def addresses(self, key: bytes) -> list[Address]:
        """Where a node says that it listens, the narrowest scope first."""
        return [e.record.address for s in Scope if (e := self.get(key, s)) is not None]

    def add(self, record: PeerRecord, *, chain_id: bytes | None, now: float) -> bool:
        """Take a record in if it is news; False for what is known, older, of another network or too far in the future.

        Raises Malformed where the signature is wrong: the one thing that proves a liar. Known records cost no check.
        """
        if chain_id is not None and record.chain_id not in (chain_id, st.NO_CHAIN):
            return False
        if record.sequence / 1000 > now + RECORD_FUTURE_SECONDS_MAX:
            return False
        slot = (record.key, record.address.scope)
        known = self._entries.get(slot)
        if known is not None and known.record.sequence >= record.sequence:
            return False
        if not record.is_authentic():
            raise Malformed("a peer record with a wrong signature")
        if known is not None and known.record.address == record.address:
            self._entries[slot] = replace(known, record=record)
            return False
        if known is None and len(self._entries) >= BOOK_ENTRIES_MAX and not self._make_room():
            return False
        self._entries[slot] = Entry(record)
        return True

    def succeeded(self, key: bytes, address: Address, *, now: float) -> None:
        """An authenticated connection to that address was made."""
        self._update(key, address, succeeded_at=now, failures=0)

    def failed(self, key: bytes, address: Address) -> None:
        entry = self._entries.get((PublicKey(key), address.scope))
        if entry is not None:
            self._update(key, address, failures=entry.failures + 1)

    def forget(self, key: bytes, address: Address) -> None:
        entry = self._entries.get((PublicKey(key), address.scope))
        if entry is not None and entry.record.address == address:
            del self._entries[PublicKey(key), address.scope]

    def keep_only(self, chain_id: bytes) -> None:
        """A network was pinned: records of others go."""
        for slot, entry in list(self._entries.items()):
            if entry.record.chain_id not in (chain_id, st.NO_CHAIN):
                del self._entries[slot]

    def select(
        self, *, scope: Scope, exclude: bytes, connected: Collection[bytes], count: int, rng: Random
    ) -> list[PeerRecord]:
        """Records to tell a peer that is connected from `scope`: only of nodes that we know to be alive.

        Alive means connected now, or reached by our own last dial. More than `count` are sampled at random.
        """
        alive = [
            entry.record
            for entry in self._entries.values()
            if entry.record.key != exclude
            and may_hear(entry.record.address.scope, scope)
            and (entry.record.key in connected or (entry.succeeded_at > 0 and entry.failures == 0))
        ]
        return alive if len(alive) <= count else rng.sample(alive, count)

    def dump(self) -> bytes:
        """The book as bytes for the caller to keep."""
        rows = (_SAVED.pack(e.record.encode(), e.succeeded_at, e.failures) for e in self._entries.values())
        return _SAVED_VERSION + b"".join(rows)

    @classmethod
    def load(cls, data: bytes) -> PeerBook:
        """What dump gave; raises Malformed. Signatures are checked again: the file may have been touched."""
        if not data.startswith(_SAVED_VERSION) or (len(data) - len(_SAVED_VERSION)) % _SAVED.size:
            raise Malformed("not an address book")
        book = cls()
        for row, succeeded_at, failures in _SAVED.iter_unpack(data[len(_SAVED_VERSION) :]):
            record = PeerRecord.decode(row)
            if record.is_authentic() and len(book) < BOOK_ENTRIES_MAX:
                entry = Entry(record, succeeded_at, failures)
                book._entries[record.key, record.address.scope] = entry
        return book

    def _update(self, key: bytes, address: Address, **changes: float) -> None:
        slot = (PublicKey(key), address.scope)
        entry = self._entries.get(slot)
        if entry is not None and entry.record.address == address:
            self._entries[slot] = replace(entry, **changes)  # type: ignore[arg-type]  # failures is an int by callers

    def _make_room(self) -> bool:
        """Drop the worst entry that never worked; an entry that did is never pushed out by a stranger's claim."""
        never = [(entry.failures, slot) for slot, entry in self._entries.items() if entry.succeeded_at == 0]
        if not never:
            return False
        del self._entries[max(never)[1]]
        return True
