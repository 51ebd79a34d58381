"""The two tables of the address book, keyed so that nobody outside can tell, or choose, which bucket an address falls into.

    new    256 buckets of 64    addresses that somebody told us of, and that we have not reached ourselves
    tried   64 buckets of 64    addresses that our own dial has reached, and where the key proved itself

The bucket is a keyed hash: of the address in `tried`, of the address and of who told it in `new`. From one netgroup a
teller reaches 32 buckets of `new` at most, and the addresses of one netgroup fall into 4 of `tried` at most, whatever it
costs the attacker to make up keys (PROTOCOL 2.1, after bitcoind's addrman and CometBFT's address book). Addresses that are not
globally routable count each for itself: a network on one machine, or at one site, is one group, and honest.

Not here: records, promotion and eviction (peerbook.py). Rule for editing: saved books carry the key and not the buckets, so
the rules may change; both tables then are sorted anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from random import Random
from typing import Final

from transport.address import Address, Scope
from transport.identity import PublicKey
from transport.limits import (
    BUCKET_ENTRIES,
    NEW_BUCKETS,
    NEW_BUCKETS_PER_SOURCE,
    TRIED_BUCKETS,
    TRIED_BUCKETS_PER_GROUP,
)
from transport.netgroup import internet_group

KEY_BYTES: Final = 32
Slot = tuple[PublicKey, Scope]  # what a bucket holds: the name of one entry of the book


class BucketKey:
    """The secret of one node, and the buckets that follow from it."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a bucket key of {len(key)} bytes")
        self.key = key

    def new(self, address: Address, source: bytes) -> int:
        """The bucket of `new` for an address that a teller in the netgroup `source` told us of."""
        share = self._hash(b"share", _group(address), source) % NEW_BUCKETS_PER_SOURCE
        return self._hash(b"new", source, b"%d" % share) % NEW_BUCKETS

    def tried(self, address: Address) -> int:
        share = self._hash(b"spread", _each(address)) % TRIED_BUCKETS_PER_GROUP
        return self._hash(b"tried", _group(address), b"%d" % share) % TRIED_BUCKETS

    def _hash(self, purpose: bytes, *parts: bytes) -> int:
        hashed = hashlib.blake2b(key=self.key, digest_size=8, person=purpose)
        for part in parts:
            hashed.update(len(part).to_bytes(2, "big") + part)
        return int.from_bytes(hashed.digest(), "big")


class Table:
    """Buckets that fill up. Holds names only; the book holds what they name."""

    def __init__(self) -> None:
        self._buckets: dict[int, list[Slot]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, bucket: int) -> tuple[Slot, ...]:
        return tuple(self._buckets.get(bucket, ()))

    def __iter__(self) -> Iterator[Slot]:
        return (slot for held in self._buckets.values() for slot in held)

    def is_full(self, bucket: int) -> bool:
        return len(self._buckets.get(bucket, ())) >= BUCKET_ENTRIES

    def put(self, bucket: int, slot: Slot) -> None:
        """There must be room."""
        held = self._buckets.setdefault(bucket, [])
        assert len(held) < BUCKET_ENTRIES
        held.append(slot)
        self._count += 1

    def remove(self, bucket: int, slot: Slot) -> None:
        """It must be there."""
        held = self._buckets[bucket]
        held.remove(slot)
        self._count -= 1
        if not held:
            del self._buckets[bucket]

    def shuffled(self, rng: Random) -> Iterator[Slot]:
        """Everything, one of each bucket in turn: who fills few buckets, however full, gets few of the first places."""
        left = [list(held) for held in self._buckets.values()]
        while left:
            rng.shuffle(left)
            for held in left:
                position = rng.randrange(len(held))
                held[position], held[-1] = held[-1], held[position]
                yield held.pop()
            left = [held for held in left if held]


def _each(address: Address) -> bytes:
    return str(address).encode()


def _group(address: Address) -> bytes:
    return internet_group(address) or _each(address)
