"""Which members are connected to which: what each says of itself, signed, and what follows from it.

What it is: the picture from which a node tells who can be reached through others (``health``), and to whom a vote must be passed on
because its author cannot (``relay``); and where members stand whom nobody here hears directly. What it is not: agreement. Everything here
is talk; a member that lies about its links can keep votes from itself alone, for a link counts only where both its ends claim it.

    statement(0x18)   sequence u64 | height u64 | learning u64 | SHA-256 of the attachment
    attachment        the first eight bytes of the key of each member that the author hears from, ascending

Height and learning are those of its STATUS, or zeros where it hears every member: then each has its STATUS.
The sequence is the author's time in milliseconds: the highest counts. A member says it anew when it changes, and every ten seconds, so
that one that comes later has it, too.
"""

import hashlib
import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import NamedTuple

import transport

LINKS_KIND = 0x18
PREFIX_BYTES = 8  # long enough that nobody finds a key that is taken for another one
LINKS_MAX = 128  # members of a committee, at most
LINKS_SECONDS = 0.5  # how often a node looks whom it hears; it says what changed at once, and not more often
LINKS_REPEAT_SECONDS = 10.0  # eight hundred bytes from each of a hundred members then
_BODY = struct.Struct(">QQQ32s")


class Malformed(ValueError):
    """The bytes are not of the form that they claim to be."""


class Standing(NamedTuple):
    """The decided height, and the one that is learned, or 0. Talk."""

    height: int
    learning: int


UNSAID = Standing(0, 0)


@dataclass(frozen=True, slots=True)
class Claim:
    """Whom one member says that it hears, and where it stands."""

    sequence: int
    standing: Standing
    prefixes: frozenset[bytes]

    def hears(self, key: bytes) -> bool:
        return key[:PREFIX_BYTES] in self.prefixes


class Links:
    """The newest claim of every member."""

    def __init__(self, me: bytes) -> None:
        self._me = me
        self._claims: dict[bytes, Claim] = {}
        self._said_at = float("-inf")

    def say(
        self,
        heard: Collection[bytes],
        *,
        chain_id: bytes,
        sign: Callable[[bytes], bytes],
        now: float,
        unix_seconds: float,
        standing: Standing = UNSAID,
    ) -> transport.Envelope | None:
        """Our own claim, signed, if it changed or is due again."""
        prefixes = frozenset(key[:PREFIX_BYTES] for key in heard)
        old = self._claims.get(self._me)
        is_old = old is not None and (old.prefixes, old.standing) == (prefixes, standing)
        if is_old and now - self._said_at < LINKS_REPEAT_SECONDS:
            return None
        sequence = max(int(unix_seconds * 1000), old.sequence + 1 if old is not None else 0)
        self._claims[self._me], self._said_at = Claim(sequence, standing, prefixes), now
        attachment = b"".join(sorted(prefixes))
        body = _BODY.pack(sequence, *standing, hashlib.sha256(attachment).digest())
        statement = transport.make_statement(LINKS_KIND, transport.ChainId(chain_id), body)
        return transport.Envelope(transport.PublicKey(self._me), sign(statement), statement, attachment)

    def take(self, envelope: transport.Envelope, members: Collection[bytes]) -> bool:
        """Remember a member's claim; True if it is news. Raises Malformed."""
        claim = _decode(envelope)
        author: bytes = envelope.author
        known = self._claims.get(author)
        if author == self._me or author not in members or (known is not None and known.sequence >= claim.sequence):
            return False
        self._claims[author] = claim
        for gone in self._claims.keys() - set(members) - {self._me}:
            del self._claims[gone]
        return True

    def standings(self) -> dict[bytes, Standing]:
        """What other members say beside their links, where they do."""
        said = {key: claim.standing for key, claim in self._claims.items() if key != self._me}
        return {key: standing for key, standing in said.items() if standing != UNSAID}

    def linked(self, one: bytes, other: bytes) -> bool:
        """Both say that they hear the other."""
        a, b = self._claims.get(one), self._claims.get(other)
        return a is not None and b is not None and a.hears(other) and b.hears(one)

    def reachable(self, live: Collection[bytes], members: Collection[bytes]) -> set[bytes]:
        """Of the members those that we hear, and those that they hear, and so on; with ourselves, if we are one."""
        return set(self.steps(live, members))

    def steps(self, live: Collection[bytes], members: Collection[bytes]) -> dict[bytes, int]:
        """How many links it is to each of the members that can be reached; ascending, none to ourselves."""
        of = {member[:PREFIX_BYTES]: member for member in members}
        found = {self._me: 0} if self._me in members else {}
        edge = [member for member in members if member in live and member != self._me]
        found |= dict.fromkeys(edge, 1)  # whom we hear is known better from `live`
        for one in edge:
            claim = self._claims.get(one)
            for prefix in claim.prefixes if claim is not None else ():
                other = of.get(prefix)
                if other is not None and other not in found and self.linked(one, other):
                    found[other] = found[one] + 1
                    edge.append(other)
        return found


def _decode(envelope: transport.Envelope) -> Claim:
    body, attachment = envelope.body, envelope.attachment
    count, rest = divmod(len(attachment), PREFIX_BYTES)
    if len(body) != _BODY.size or rest or count > LINKS_MAX:
        raise Malformed("links that are not of their form")
    sequence, height, learning, digest = _BODY.unpack(body)
    if hashlib.sha256(attachment).digest() != digest:
        raise Malformed("links that their author did not sign")
    prefixes = frozenset(attachment[i : i + PREFIX_BYTES] for i in range(0, len(attachment), PREFIX_BYTES))
    return Claim(sequence, Standing(height, learning), prefixes)
