"""Who listens where: signed peer records, and the book that holds them in two tables.

A record is signed by the node that it names, so nobody can move another's address; a higher sequence number replaces
a lower one. A record holds one address: a node that is reachable in several scopes signs several, because a signed
record cannot be shown in part and loopback addresses must not leave the machine.

What somebody told us is `new` until a dial of our own has reached it and its key has proved itself; then it is `tried`. Whoever
floods us with addresses fills a few buckets of `new` (buckets.py), and pushes nothing out of `tried`: where a bucket of that
is full, its oldest entry is dialed before anything takes its place. Members of the committee are let in always, and never
put out: there are only so many of them, and an evening without a link must not cost a network its addresses.

Sans-IO: time is passed in (seconds of the wall clock, which may jump: it decides nothing but who makes room). Persistent as
bytes. Not here: when to dial (dialing.py), what to ask (pex.py), what to answer (exchange.py).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from transport import limits
from transport import statement as st
from transport.address import PACKED_BYTES, Address, Scope, may_hear
from transport.buckets import KEY_BYTES, BucketKey, Slot, Table
from transport.errors import Malformed
from transport.identity import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, Identity, PublicKey, verify
from transport.machine import random_bytes
from transport.netgroup import netgroup

_BODY: Final = struct.Struct(f">Q{PACKED_BYTES}s")
_STATEMENT_BYTES: Final = st.HEADER_BYTES + _BODY.size
RECORD_BYTES: Final = PUBLIC_KEY_BYTES + SIGNATURE_BYTES + _STATEMENT_BYTES
# Of a saved entry: the record, when a dial last succeeded (0: never), failures since and when the last one was, when it was last
# heard of, whether it is in `tried`, and the netgroup of who told it.
_SAVED: Final = struct.Struct(f">{RECORD_BYTES}sdIdd?10p")
_SAVED_VERSION: Final = b"p2pnode-book-2\n"
_SAVED_ANCHOR: Final = struct.Struct(f">{PUBLIC_KEY_BYTES}sB")
_SAVED_HEAD: Final = struct.Struct(f">{KEY_BYTES}sB")
_DIGEST_BYTES: Final = 32


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
    """One node's address in one scope. Times are of the wall clock."""

    record: PeerRecord
    succeeded_at: float = 0.0  # when a dial of ours last reached it; 0: never at this address
    failures: int = 0  # since then, of those that count
    failed_at: float = 0.0  # when the last one that counts was
    heard_at: float = 0.0  # when somebody last told us of it
    is_tried: bool = False
    source: bytes = b""  # the netgroup of who told us first
    places: tuple[int, ...] = ()  # its buckets of `new`, or the one of `tried`

    @property
    def slot(self) -> Slot:
        return self.record.key, self.record.address.scope

    def is_hopeless(self, now: float) -> bool:
        """Not worth another dial: it never answered, or has not for a week and many dials."""
        if self.succeeded_at == 0:
            return self.failures >= limits.FAILURES_UNPROVEN_MAX
        return self.failures >= limits.FAILURES_PROVEN_MAX and now - self.succeeded_at > limits.ADDRESS_SECONDS_MAX

    def is_stale(self, now: float) -> bool:
        """First to make room. Dialed all the same: a network that was off for a month is stale to all of its nodes."""
        return self.is_hopeless(now) or now - max(self.heard_at, self.succeeded_at) > limits.ADDRESS_SECONDS_MAX


class PeerBook:
    """At most one entry for each node and scope. `members` are never put out; `anchors` are what a restart dials first."""

    def __init__(self, key: bytes | None = None) -> None:
        self._key = BucketKey(random_bytes(KEY_BYTES) if key is None else key)
        self._rng = Random(self._key.key)  # noqa: S311  (which of several buckets: nobody gains by guessing it)
        self._entries: dict[Slot, Entry] = {}
        self._new = Table()
        self._tried = Table()
        self._tests: dict[Slot, Slot] = {}  # who wants into a full bucket of `tried`, and whose place that would be
        self.changes = 0  # how many addresses have come and gone, so that nobody need look for what has not
        self.members: frozenset[bytes] = frozenset()
        self.anchors: tuple[Slot, ...] = ()

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(tuple(self._entries.values()))

    @property
    def tried(self) -> int:
        """How many of its addresses a dial of ours has reached."""
        return len(self._tried)

    def get(self, key: bytes, scope: Scope) -> Entry | None:
        return self._entries.get((PublicKey(key), scope))

    def of(self, key: bytes) -> list[Entry]:
        """All of one node, the narrowest scope first."""
        return [entry for scope in Scope if (entry := self.get(key, scope)) is not None]

    def addresses(self, key: bytes) -> list[Address]:
        """Where a node says that it listens, the narrowest scope first."""
        return [entry.record.address for entry in self.of(key)]

    # --- what is told, and what is found out -----------------------------------------------------------------------

    def add(self, record: PeerRecord, *, source: Address, chain_id: bytes | None, now: float) -> bool:
        """Take a record in if it is news; False for what is known, older, of another network or too far in the future,
        and where there is no room for it. `source` is where the one is who told it.

        Raises Malformed where the signature is wrong: the one thing that proves a liar. Known records cost no check.
        """
        if chain_id is not None and record.chain_id not in (chain_id, st.NO_CHAIN):
            return False
        if record.sequence / 1000 > now + limits.RECORD_FUTURE_SECONDS_MAX:
            return False
        known = self._entries.get((record.key, record.address.scope))
        if known is not None and known.record.sequence >= record.sequence:
            self._heard_again(known, record, netgroup(source), now)
            return False
        if not record.is_authentic():
            raise Malformed("a peer record with a wrong signature")
        if known is not None and known.record.address == record.address:
            self._entries[known.slot] = replace(known, record=record, heard_at=now)
            return False
        if known is not None:  # it has moved: what was known of the old address says nothing of the new one
            self._drop(known)
        return self._place(Entry(record, heard_at=now, source=netgroup(source)), now)

    def succeeded(self, key: bytes, address: Address, *, now: float) -> None:
        """A dial of ours was answered there, by that key."""
        entry = self._at(key, address)
        if entry is None:
            return
        entry = self._entries[entry.slot] = replace(entry, succeeded_at=now, failures=0, heard_at=now)
        self._tests = {one: other for one, other in self._tests.items() if other != entry.slot}
        if not entry.is_tried:
            self._promote(entry)

    def failed(self, key: bytes, address: Address, *, now: float) -> bool:
        """A dial of ours was not answered, though others are. True where the address is given up for it."""
        entry = self._at(key, address)
        if entry is None:
            return False
        if entry.failures == 0 or not 0 <= now - entry.failed_at < limits.FAILURE_SECONDS_MIN:
            entry = self._entries[entry.slot] = replace(entry, failures=entry.failures + 1, failed_at=now)
        for challenger in [one for one, other in self._tests.items() if other == entry.slot]:
            del self._tests[challenger]
            if entry.is_tried:
                entry = self._demote(entry, now)
            if challenger in self._entries:
                self._promote(self._entries[challenger])
        if self._entries.get(entry.slot) is not entry:
            return True
        if entry.is_hopeless(now) and entry.record.key not in self.members:
            self._drop(entry)
            return True
        return False

    def forget(self, key: bytes, address: Address) -> None:
        entry = self._at(key, address)
        if entry is not None and entry.record.key not in self.members:
            self._drop(entry)

    def keep_only(self, chain_id: bytes) -> None:
        """A network was pinned: records of others go."""
        for entry in self:
            if entry.record.chain_id not in (chain_id, st.NO_CHAIN):
                self._drop(entry)

    # --- whom to dial, and of whom to tell -------------------------------------------------------------------------

    def candidates(self, rng: Random) -> Iterator[Entry]:
        """Everything, in the order in which strangers are best dialed: of `tried` and of `new` in turn, out of any bucket."""
        seen: set[Slot] = set()

        def unseen(table: Table) -> Iterator[Entry]:
            for slot in table.shuffled(rng):
                if slot not in seen and slot in self._entries:
                    seen.add(slot)
                    yield self._entries[slot]

        turns = [unseen(self._tried), unseen(self._new)]
        while turns:
            for turn in tuple(turns):
                entry = next(turn, None)
                if entry is None:
                    turns.remove(turn)
                else:
                    yield entry

    def to_test(self) -> Entry | None:
        """Whose place in `tried` somebody else wants: dial it, and say how it went."""
        return next((self._entries[slot] for slot in self._tests.values()), None)

    def unproven(self, exclude: Collection[bytes], rng: Random) -> Entry | None:
        """Any of `new`, for a look whether somebody is there."""
        slots = (slot for slot in self._new.shuffled(rng) if slot[0] not in exclude)
        return next((self._entries[slot] for slot in slots), None)

    def anchored(self) -> list[Entry]:
        return [self._entries[slot] for slot in self.anchors if slot in self._entries]

    def alive(self, *, scope: Scope, connected: Collection[bytes]) -> list[PeerRecord]:
        """Records that a peer which is connected from `scope` may hear of, and only of nodes that we know to be alive.

        Alive means connected now, or reached by our own last dial.
        """
        scopes = [heard for heard in Scope if may_hear(heard, scope)]
        found = dict.fromkeys((PublicKey(key), heard) for key in connected for heard in scopes)
        found |= dict.fromkeys(slot for slot in self._tried if slot[1] in scopes and not self._entries[slot].failures)
        return [self._entries[slot].record for slot in found if slot in self._entries]

    # --- on disk ---------------------------------------------------------------------------------------------------

    def dump(self) -> bytes:
        """The book as bytes for the caller to keep."""
        return self.frozen()()

    def frozen(self) -> Callable[[], bytes]:
        """The same as a call that another thread may make: of a full book it takes a tenth of a second."""
        entries, anchors, key = tuple(self._entries.values()), self.anchors, self._key.key

        def encode() -> bytes:
            parts = [_SAVED_VERSION, _SAVED_HEAD.pack(key, len(anchors))]
            parts += [_SAVED_ANCHOR.pack(*slot) for slot in anchors]
            for e in entries:
                times = (e.succeeded_at, e.failures, e.failed_at, e.heard_at)
                parts.append(_SAVED.pack(e.record.encode(), *times, e.is_tried, e.source))
            data = b"".join(parts)
            return data + hashlib.sha256(data).digest()

        return encode

    @classmethod
    def load(cls, data: bytes) -> PeerBook:
        """What dump gave; raises Malformed, also for bytes that the disk has changed.

        Signatures were checked when the records came, and the file is the owner's: a full book would take a second.
        """
        whole, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
        if not data.startswith(_SAVED_VERSION) or hashlib.sha256(whole).digest() != digest:
            raise Malformed("not an address book")
        try:
            rest = whole[len(_SAVED_VERSION) :]
            key, count = _SAVED_HEAD.unpack_from(rest)
            rows_at = _SAVED_HEAD.size + count * _SAVED_ANCHOR.size
            anchors = [(PublicKey(k), Scope(s)) for k, s in _SAVED_ANCHOR.iter_unpack(rest[_SAVED_HEAD.size : rows_at])]
            rows = list(_SAVED.iter_unpack(rest[rows_at:]))
        except (struct.error, ValueError):
            raise Malformed("not an address book") from None
        book = cls(key)
        book.anchors = tuple(anchors[: limits.ANCHORS_MAX])
        for row, succeeded_at, failures, failed_at, heard_at, is_tried, source in rows:
            times = (succeeded_at, failures, failed_at, heard_at)
            entry = Entry(PeerRecord.decode(row), *times, source=source)
            if entry.slot in book._entries:
                continue
            if is_tried and not book._tried.is_full(book._key.tried(entry.record.address)):
                book._promote(entry)
            else:
                book._place(entry, heard_at)
        return book

    # --- the two tables --------------------------------------------------------------------------------------------

    def _at(self, key: bytes, address: Address) -> Entry | None:
        entry = self._entries.get((PublicKey(key), address.scope))
        return entry if entry is not None and entry.record.address == address else None

    def _heard_again(self, known: Entry, record: PeerRecord, source: bytes, now: float) -> None:
        """The more tell of an address, the more buckets it is in, up to four: to wash it out takes as many netgroups."""
        if (known.record.sequence, known.record.address) != (record.sequence, record.address):
            return
        places = known.places
        if not known.is_tried and len(places) < limits.NEW_PLACES_MAX and self._rng.random() < 0.5 ** len(places):
            bucket = self._key.new(record.address, source)
            if bucket not in places and not self._new.is_full(bucket):
                self._new.put(bucket, known.slot)
                places += (bucket,)
        self._entries[known.slot] = replace(known, heard_at=now, places=places)

    def _place(self, entry: Entry, now: float) -> bool:
        """Into `new`, if there is room or somebody to make it."""
        bucket = self._key.new(entry.record.address, entry.source)
        if self._new.is_full(bucket) and not self._make_room(
            bucket, now, is_for_member=entry.record.key in self.members
        ):
            return False
        self._new.put(bucket, entry.slot)
        self._entries[entry.slot] = replace(entry, is_tried=False, places=(bucket,))
        self.changes += 1
        return True

    def _make_room(self, bucket: int, now: float, *, is_for_member: bool) -> bool:
        """In a full bucket of `new`: what is stale goes, then what stands elsewhere too; what is as good as the newcomer stays."""
        held = [entry for slot in self._new[bucket] if (entry := self._entries[slot]).record.key not in self.members]
        held.sort(key=lambda entry: (entry.failures, -entry.heard_at), reverse=True)
        for entry in held:
            if entry.is_stale(now):
                self._drop(entry)
                return True
        for entry in held:
            if len(entry.places) > 1:
                self._new.remove(bucket, entry.slot)
                left = tuple(place for place in entry.places if place != bucket)
                self._entries[entry.slot] = replace(entry, places=left)
                return True
        if is_for_member and held:
            self._drop(held[0])
            return True
        return False

    def _promote(self, entry: Entry) -> None:
        """Into `tried`; where its bucket is full, who was reached longest ago is to be looked at first."""
        bucket = self._key.tried(entry.record.address)
        if self._tried.is_full(bucket):
            others = [e for slot in self._tried[bucket] if (e := self._entries[slot]).record.key not in self.members]
            if others and len(self._tests) < limits.EVICTION_TESTS_MAX:
                self._tests[entry.slot] = min(others, key=lambda e: e.succeeded_at).slot
            return
        for place in entry.places:
            self._new.remove(place, entry.slot)
        self._tried.put(bucket, entry.slot)
        self._entries[entry.slot] = replace(entry, is_tried=True, places=(bucket,))

    def _demote(self, entry: Entry, now: float) -> Entry:
        """Out of `tried`, and into `new` if there is room."""
        self._drop(entry)
        self._place(entry, now)
        return self._entries.get(entry.slot, entry)

    def _drop(self, entry: Entry) -> None:
        table = self._tried if entry.is_tried else self._new
        for place in entry.places:
            table.remove(place, entry.slot)
        del self._entries[entry.slot]
        self.changes += 1
        self._tests = {one: other for one, other in self._tests.items() if entry.slot not in (one, other)}
