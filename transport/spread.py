"""How one large payload reaches a whole committee: each leaf goes to one member, who passes it on to all the others.

The author's uplink carries the payload about once, not once for every member, and every member's uplink carries its share. Sans-IO: who
passes on what, and what has come; sessions carry it. Whoever gets nothing from a relay fetches the leaf as ever (fetch.py).

    body of a frame   digest 32 | index u32 | pass on u8, 0 or 1 | inclusion path, 32 bytes each | leaf

The digest and the length are known from elsewhere, signed, so a leaf proves itself, and nothing else is ever taken.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import trio

from transport import limits
from transport.content import DIGEST_BYTES, Buffer, leaf_count, leaf_length, path_length, verify_leaf

Key = TypeVar("Key", bound=bytes)
_HEAD: Final = struct.Struct(">32sIB")


def is_worth_it(members: int, length: int) -> bool:
    """Whether a payload of `length` bytes is spread in a committee of so many; all of its members answer alike."""
    return members >= limits.SPREAD_MEMBERS_MIN and leaf_count(length) >= limits.SPREAD_LEAVES_MIN


def ring(members: Sequence[Key], author: bytes) -> list[Key]:
    """The others, from the author on: so the first relays of different authors are different members."""
    place = next(place for place, member in enumerate(members) if member == author)
    return [*members[place + 1 :], *members[:place]]


def named(others: Sequence[Key], leaf: int, count: int) -> list[Key]:
    """Who may be asked to pass this leaf of `count` on, the first choice first: spread evenly, so that no uplink carries more than its share."""
    first = leaf * len(others) // count
    return [others[(first + i) % len(others)] for i in range(min(limits.RELAYS_PER_LEAF_MAX, len(others)))]


def relays(others: Sequence[Key], count: int, *, linked: Callable[[Key], bool]) -> list[Key | None]:
    """Whom the author sends each leaf to: the first choice that it is linked to, or nobody."""
    return [next(filter(linked, named(others, leaf, count)), None) for leaf in range(count)]


def frame_bytes(index: int, length: int) -> int:
    """The size of the body that carries this leaf."""
    return _HEAD.size + DIGEST_BYTES * path_length(index, length) + leaf_length(index, length)


@dataclass(frozen=True, slots=True)
class Piece:
    """A leaf with what proves it. `pass_on` is the author's word to its relay."""

    digest: bytes
    index: int
    path: Sequence[Buffer]
    leaf: Buffer
    pass_on: bool

    def passed(self) -> Piece:
        """The same for the others, who keep it to themselves."""
        return replace(self, pass_on=False)

    def encode(self) -> tuple[Buffer, ...]:
        """The body, in parts that are not copied."""
        return (_HEAD.pack(self.digest, self.index, self.pass_on), *self.path, self.leaf)


def head(body: bytes) -> tuple[bytes, int, bool] | None:
    """The digest, the index, and whether to pass it on, as a frame says; all that is looked at before it is known to be wanted."""
    if len(body) < _HEAD.size:
        return None
    digest, index, pass_on = _HEAD.unpack_from(body)
    return digest, index, pass_on == 1


class Spread:
    """What has come of one payload in this way, or by a fetch beside it. Nothing is held that was not verified."""

    def __init__(self, digest: bytes, length: int) -> None:
        self.authors: set[bytes] = set()  # who announced it
        self.digest = digest
        self.length = length
        self.whole = trio.Event()
        self._leaves: dict[int, Buffer] = {}
        self._bytes: bytes | None = None
        self._passed: set[int] = set()
        self._liars: set[bytes] = set()

    def distrusts(self, sender: bytes) -> bool:
        """Whether this sender has lied about this payload: it is not listened to any more."""
        return sender in self._liars

    def take(self, sender: bytes, body: bytes) -> Piece | None:
        """The piece in a frame's body, held from now on; None where it is none, and then its sender has lied."""
        piece = self._read(body)
        if piece is None or not verify_leaf(self.digest, self.length, piece.index, piece.leaf, piece.path):
            self._liars.add(sender)
            return None
        if not self.holds(piece.index):
            self._hold(piece.index, piece.leaf)
        return piece

    def holds(self, index: int) -> bool:
        return self._bytes is not None or index in self._leaves

    def was_passed_on(self, index: int) -> bool:
        return index in self._passed

    def passed_on(self, index: int) -> None:
        """Once is enough."""
        self._passed.add(index)

    def sink(self, leaves: Sequence[tuple[int, Buffer]]) -> None:
        """Verified leaves from elsewhere (`fetch.Sink`)."""
        for index, leaf in leaves:
            if not self.holds(index):
                self._hold(index, leaf)

    def missing(self) -> list[int]:
        return [index for index in range(leaf_count(self.length)) if not self.holds(index)]

    def data(self) -> bytes:
        """All of it, once it is whole."""
        if self._bytes is None:
            self._bytes = b"".join(self._leaves[index] for index in range(leaf_count(self.length)))
            self._leaves.clear()
        return self._bytes

    def _hold(self, index: int, leaf: Buffer) -> None:
        self._leaves[index] = leaf
        if len(self._leaves) == leaf_count(self.length):
            self.whole.set()

    def _read(self, body: bytes) -> Piece | None:
        """Nothing is cut out of a body whose size is not the one that its leaf has."""
        if len(body) < _HEAD.size:
            return None
        digest, index, pass_on = _HEAD.unpack_from(body)
        if index >= leaf_count(self.length) or pass_on > 1 or len(body) != frame_bytes(index, self.length):
            return None
        view = memoryview(body)
        end = len(body) - leaf_length(index, self.length)
        path = [view[start : start + DIGEST_BYTES] for start in range(_HEAD.size, end, DIGEST_BYTES)]
        return Piece(digest, index, path, view[end:], pass_on == 1)
