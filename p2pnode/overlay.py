"""With which members a member keeps a link, where the committee is too large for all to be linked to all.

What it is: one answer to that, from keys alone and from draws of our own. What it is not: dialing (``transport.dialing``), what goes over
the links (``relay``), or a rule of agreement: nobody checks whom another chose.

    the rings     On each of a few rings, in an order that hashes of the keys give, everybody is linked to the one before and the one
                  after. Both ends know it. One ring alone connects everybody; several make a graph in which everybody is a few steps
                  from everybody, and which stays connected when a third of the members, drawn at random, pass nothing on.
    the draws     A few more are drawn by each for itself, and nobody knows which. Who grinds keys until they are the neighbours of a
                  victim on every ring has still not cut it off.
    the rest      Where too few links stand, because others are behind routers or gone, more are drawn, a few at a time; one that does
                  not come about is given up for another.

Up to ``MESH_MEMBERS_MAX`` members the answer is ``None``: everybody.
"""

import hashlib
from collections.abc import Collection, Sequence
from random import Random

MESH_MEMBERS_MAX = 32  # a vote costs each member one frame from each other up to here
RINGS = 4  # eight links; a union of so many random rings of a hundred stays connected without any third of them
DRAWN = 4  # by each for itself; about as many draw us
LINKS_WANTED = 16
LINKS_MAX = 24  # so many stand where others have drawn us more often than it is likely: we need fewer draws of ours
DRAW_SECONDS = 10.0  # for a link that was drawn to come about: two tries of a dial


def is_mesh(members: Collection[bytes]) -> bool:
    """Whether all members are to be linked to all."""
    return len(members) <= MESH_MEMBERS_MAX


def neighbours(me: bytes, members: Sequence[bytes], *, seed: bytes) -> frozenset[bytes]:
    """Those before and after ``me`` on every ring; whoever has us as a neighbour is ours. Of no member: nobody."""
    found: set[bytes] = set()
    for ring in range(RINGS) if me in members else ():
        order = sorted(members, key=lambda key: hashlib.blake2b(seed + bytes([ring]) + key).digest())
        place = order.index(me)
        found |= {order[place - 1], order[(place + 1) % len(order)]}
    return frozenset(found - {me})


class Overlay:
    """One node's links. ``seed`` is the network's, so that nobody's place is the same in all networks; ``rng`` draws the rest."""

    def __init__(self, me: bytes, *, seed: bytes, rng: Random) -> None:
        self._me = me
        self._seed = seed
        self._rng = rng
        self._members: tuple[bytes, ...] = ()
        self._neighbours: frozenset[bytes] = frozenset()
        self._drawn: dict[bytes, float] = {}  # and when
        self._drew_at = float("-inf")

    def wanted(self, members: Sequence[bytes], *, live: Collection[bytes], now: float) -> frozenset[bytes] | None:
        """The members to be linked to, given those that we hear; ``None``: all. Ask every second or so."""
        if is_mesh(members):
            return None
        if self._members != tuple(members):
            self._members = tuple(members)
            self._neighbours = neighbours(self._me, members, seed=self._seed)
        others = self._neighbours | {self._me}
        self._drawn = {
            key: at
            for key, at in self._drawn.items()
            if key in members and key not in others and (key in live or now - at < DRAW_SECONDS)
        }
        standing = len(set(live).intersection(members))
        if standing > LINKS_MAX and len(self._drawn) > DRAWN:
            del self._drawn[next(reversed(self._drawn))]
        lacking = DRAWN - len(self._drawn)
        if now - self._drew_at >= DRAW_SECONDS:
            lacking = max(lacking, min(LINKS_WANTED - standing, DRAWN))
        if lacking > 0:
            self._drew_at = now
            free = [key for key in members if key not in others and key not in self._drawn and key not in live]
            for key in self._rng.sample(free, min(lacking, len(free))):
                self._drawn[key] = now
        return self._neighbours | self._drawn.keys()
