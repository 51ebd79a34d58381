"""Whether others can dial this node, and at which address: what the answers of its peers add up to.

    DIAL_BACK    nonce u64 | port u16                          dial me back, at the address that you see me at
    DIALED_BACK  nonce u64 | result u8 | milliseconds u64      how it went, and your clock

A few peers are asked, those from the widest scope first, of different netgroups, and again after a while. Sans-IO: time is passed in.
Not here: the dialing, and the tasks that do it (dialback.py); the words for the operator (p2pnode/openness.py).

Rules for editing: only what this node has seen itself makes a "yes". A peer's word may say "no", which costs nothing but a line for
the operator; an address is believed when several netgroups see it and one peer has come in by it.
"""

from __future__ import annotations

import enum
import math
import statistics
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, TypeVar

from transport import limits
from transport.address import Address, Scope
from transport.errors import Malformed
from transport.framing import Kind, encode_frame
from transport.netgroup import netgroup

T = TypeVar("T")
_QUESTION: Final = struct.Struct(">QH")
_ANSWER: Final = struct.Struct(">QBQ")


class Result(enum.IntEnum):
    """How a dial-back went; the code on the wire."""

    REACHED = 0
    REFUSED = 1
    TIMED_OUT = 2
    UNREACHABLE = 3
    ANOTHER = 4
    BUSY = 5


class Verdict(enum.StrEnum):
    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Reach:
    """What is known now. `scope`: for whom it holds, namely where the peers are that it rests on.

    `peers` have dialed back, `failed` have tried in vain, at `address`; `result` is why. `asked` have not answered yet.
    `clock_seconds`: how far the clocks of peers are ahead of this node's, in the middle; None before anybody has answered.
    """

    verdict: Verdict
    scope: Scope | None = None
    peers: int = 0
    failed: int = 0
    address: Address | None = None
    result: Result | None = None
    asked: int = 0
    clock_seconds: float | None = None


def encode_answer(nonce: int, result: Result, unix_seconds: float) -> bytes:
    return encode_frame(Kind.DIALED_BACK, _ANSWER.pack(nonce, result, max(0, int(unix_seconds * 1000))))


def decode_question(body: bytes) -> tuple[int, int]:
    """Nonce and port; raises Malformed."""
    if len(body) != _QUESTION.size:
        raise Malformed(f"a DIAL_BACK of {len(body)} bytes")
    nonce, port = _QUESTION.unpack(body)
    if port == 0:
        raise Malformed("a DIAL_BACK to port 0")
    return nonce, port


def decode_answer(body: bytes) -> tuple[int, Result, float]:
    """Nonce, result, and the peer's clock in seconds since 1970; raises Malformed."""
    if len(body) != _ANSWER.size:
        raise Malformed(f"a DIALED_BACK of {len(body)} bytes")
    nonce, code, milliseconds = _ANSWER.unpack(body)
    try:
        return nonce, Result(code), milliseconds / 1000
    except ValueError:
        raise Malformed(f"a DIALED_BACK with result {code}") from None


@dataclass(frozen=True, slots=True)
class _Peer:
    remote: Address
    seen: Address | None  # where it sees us


@dataclass(slots=True)
class _Asking:
    """The last question to one peer. `result` is None while it may still come, and BUSY where it did not."""

    nonce: int
    at: float
    remote: Address
    address: Address | None  # where it was asked to dial
    result: Result | None = None
    is_answered: bool = False
    has_come: bool = False  # its probe has reached us
    clock_seconds: float | None = None

    @property
    def is_open(self) -> bool:
        return self.result is None

    @property
    def counts(self) -> bool:
        """Whether it says anything. That it was reached is nothing that a peer could claim."""
        return self.has_come or self.result not in (None, Result.BUSY, Result.REACHED)


class Reachability:
    """Of one node. `announced` is the address that the operator named: failures at another one say nothing."""

    def __init__(self, rng: Random, *, announced: Address | None) -> None:
        self._rng = rng
        self._announced = announced
        self._peers: dict[bytes, _Peer] = {}
        self._askings: dict[bytes, _Asking] = {}  # in the order of asking
        self._begins_at = math.inf
        self._nonce = 0

    def met(self, key: bytes, *, remote: Address, seen: Address | None, now: float) -> None:
        """A peer is connected; `seen` is where its HELLO says that it sees us."""
        self._peers[key] = _Peer(remote, seen)
        self._begins_at = min(self._begins_at, now + limits.DIAL_BACK_GATHER_SECONDS)

    def lost(self, key: bytes) -> None:
        self._peers.pop(key, None)
        if (asking := self._askings.get(key)) is not None and asking.is_open:
            asking.result = Result.BUSY

    # --- Asking -----------------------------------------------------------------------------------------------------

    def whom(self, now: float) -> list[bytes]:
        """Whom to ask now: so many that DIAL_BACK_PEERS of the widest scope have been asked lately."""
        self._expire(now)
        if now < self._begins_at or not self._peers:
            return []
        widest = max(peer.remote.scope for peer in self._peers.values())
        lately = {key: asking for key, asking in self._askings.items() if now < self._again_at(asking)}
        asked = [a for a in lately.values() if a.remote.scope is widest and a.result is not Result.BUSY]
        groups = {netgroup(asking.remote) for asking in asked}
        free = [k for k, peer in self._peers.items() if k not in lately and peer.remote.scope is widest]
        self._rng.shuffle(free)
        chosen: list[bytes] = []
        while free and len(asked) + len(chosen) < limits.DIAL_BACK_PEERS:
            best = min(free, key=lambda key: netgroup(self._peers[key].remote) in groups)
            free.remove(best)
            chosen.append(best)
            groups.add(netgroup(self._peers[best].remote))
        return chosen

    def ask(self, key: bytes, *, port: int, now: float) -> bytes:
        """The frame for one of them."""
        self._nonce += 1
        peer = self._peers[key]
        address = None if peer.seen is None else Address(peer.seen.host, port)
        self._askings.pop(key, None)
        self._askings[key] = _Asking(self._nonce, now, peer.remote, address)
        while len(self._askings) > limits.DIAL_BACK_ANSWERS_MAX:
            del self._askings[next(iter(self._askings))]
        return encode_frame(Kind.DIAL_BACK, _QUESTION.pack(self._nonce, port))

    def answered(self, key: bytes, body: bytes, *, unix_seconds: float) -> None:
        """A peer says how it went; raises Malformed, also where nothing was asked."""
        nonce, result, its_seconds = decode_answer(body)
        asking = self._askings.get(key)
        if asking is None or asking.nonce != nonce or asking.is_answered:
            raise Malformed("a DIALED_BACK that was not asked for")
        asking.is_answered = True
        asking.result = result
        asking.clock_seconds = its_seconds - unix_seconds

    def came(self, key: bytes, now: float) -> None:
        """That peer's probe has reached this node, and proved its key."""
        asking = self._askings.get(key)
        if asking is not None and now - asking.at < limits.DIAL_BACK_SECONDS_MAX:
            asking.has_come = True

    def wake_at(self, now: float) -> float:
        """When there is something to do, if nothing happens before."""
        moments = [self._begins_at]
        for asking in self._askings.values():
            moments.append(asking.at + limits.DIAL_BACK_SECONDS_MAX if asking.is_open else self._again_at(asking))
        return min((at for at in moments if at > now), default=math.inf)

    def _expire(self, now: float) -> None:
        """Who does not answer is as good as busy."""
        for asking in self._askings.values():
            if asking.is_open and now >= asking.at + limits.DIAL_BACK_SECONDS_MAX:
                asking.result = Result.BUSY

    def _again_at(self, asking: _Asking) -> float:
        seconds = limits.DIAL_BACK_CHECK_SECONDS if asking.has_come else limits.DIAL_BACK_AGAIN_SECONDS
        return asking.at + seconds

    # --- What it adds up to -----------------------------------------------------------------------------------------

    def reach(self) -> Reach:
        """By the newest answers of the widest scope that any came from."""
        asked = sum(asking.is_open for asking in self._askings.values())
        clock = self._clock_seconds()
        counting = [a for a in self._askings.values() if a.counts and (a.has_come or self._is_meant(a))]
        if not counting:
            return Reach(Verdict.UNKNOWN, asked=asked, clock_seconds=clock, address=self._seen_elsewhere())
        widest = max(asking.remote.scope for asking in counting)
        newest = [a for a in counting if a.remote.scope is widest][-limits.DIAL_BACK_PEERS :]
        came = [asking for asking in newest if asking.has_come]
        decisive = came or newest
        return Reach(
            Verdict.YES if came else Verdict.NO,
            scope=widest,
            peers=len(came),
            failed=len(newest) - len(came),
            address=_most_common([asking.address for asking in decisive if asking.address is not None]),
            result=None if came else _most_common([asking.result for asking in newest if asking.result is not None]),
            asked=asked,
            clock_seconds=clock,
        )

    def own_address(self) -> Address | None:
        """Where strangers can dial this node, learned from peers: seen by two netgroups at least, and tried by one of them."""
        groups: dict[str, set[bytes]] = {}
        for peer in self._peers.values():
            if peer.seen is not None and peer.remote.scope is Scope.GLOBAL and peer.seen.scope is Scope.GLOBAL:
                groups.setdefault(peer.seen.host, set()).add(netgroup(peer.remote))
        ranked = sorted(groups, key=lambda host: len(groups[host]), reverse=True)
        if not ranked or len(groups[ranked[0]]) < limits.OWN_ADDRESS_GROUPS_MIN:
            return None
        if len(ranked) > 1 and len(groups[ranked[1]]) == len(groups[ranked[0]]):
            return None
        tried = (a.address for a in self._askings.values() if a.has_come and a.remote.scope is Scope.GLOBAL)
        return next((address for address in tried if address is not None and address.host == ranked[0]), None)

    def _is_meant(self, asking: _Asking) -> bool:
        """Whether the peer dialed what the operator announces, as far as that can be known."""
        announced, address = self._announced, asking.address
        return announced is None or announced.ip is None or address is None or address.ip == announced.ip

    def _seen_elsewhere(self) -> Address | None:
        """Where peers dialed in vain, where that is not what the operator announces."""
        return _most_common([a.address for a in self._askings.values() if a.counts and a.address is not None])

    def _clock_seconds(self) -> float | None:
        ahead = [a.clock_seconds for a in self._askings.values() if a.clock_seconds is not None]
        return statistics.median(ahead) if ahead else None


def _most_common(values: Sequence[T]) -> T | None:
    return Counter(values).most_common(1)[0][0] if values else None
