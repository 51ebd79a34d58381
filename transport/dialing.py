"""Whom to dial, and when: one plan with one set of limits, for bootstrap addresses, members, strangers and feelers.

Bootstrap addresses are dialed while there are few peers, members while there is no link to them. Strangers come out of the
address book, a few at a time; into one netgroup of the internet there is one link of ours to a stranger at most, so that
whoever holds one network is one of our peers. A feeler is a look whether somebody is there, and no link.

Sans-IO: `now` is passed in, jitter comes from an injected generator. The swarm asks `due`, dials what it gets, reports
how it went, and sleeps until `wake_at` or until something changes. Not here: sockets, TLS, the address book.
"""

from __future__ import annotations

import enum
import math
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from random import Random

from transport import limits
from transport.address import Address
from transport.identity import PublicKey, node_id
from transport.netgroup import internet_group


class DialFailure(enum.StrEnum):
    """The class of a failed dial, as the operator reads it."""

    REFUSED = "refused"
    TIMED_OUT = "timed out"
    UNREACHABLE = "unreachable"
    BAD_CERTIFICATE = "bad certificate"
    WRONG_NETWORK = "wrong network"
    INCOMPATIBLE_VERSION = "incompatible version"
    MYSELF = "myself"
    TWIN = "this key is used elsewhere"
    FULL = "full"
    CLOSED = "closed"


_Slot = tuple[Address, PublicKey | None]
_OUT_OF_REACH = (DialFailure.REFUSED, DialFailure.TIMED_OUT, DialFailure.UNREACHABLE, DialFailure.CLOSED)


@dataclass(slots=True, eq=False)
class Target:
    """An address to dial. `key` is known from a record, or learned from the first success.

    Each node that claims an address is a target of its own: a claim proves nothing, and must not take the address from
    the node that listens there. A bootstrap address is nobody's claim.
    """

    address: Address
    key: PublicKey | None
    is_bootstrap: bool
    failures: int = 0
    at: float = 0.0
    tries: int = 0  # under way
    connected_at: float = 0.0
    is_feeler: bool = False  # here for one look only
    group: bytes | None = field(init=False)  # where a link counts against others, if it leads into the internet

    def __post_init__(self) -> None:
        self.group = internet_group(self.address)

    @property
    def slot(self) -> _Slot:
        return self.address, None if self.is_bootstrap else self.key


@dataclass(frozen=True, slots=True)
class _Shown:
    """What our last dial of an address showed: who answers there, or since how many tries nobody does."""

    owner: PublicKey | None
    failures: int
    at: float  # when to try again
    until: float  # when to forget it


class DialPlan:
    def __init__(self, own_key: PublicKey, rng: Random) -> None:
        self._own_id = node_id(own_key)
        self._rng = rng
        self._kept: dict[_Slot, Target] = {}  # bootstrap addresses and members: few, and never given up
        self._strangers: dict[_Slot, Target] = {}  # out of the address book, up to a bound
        self._dialing: dict[Target, None] = {}  # of all these, and of feelers, those being dialed
        self._mine: dict[Address, None] = {}
        self._shown: dict[Address, _Shown] = {}
        self._outbound: dict[PublicKey, Target] = {}  # whom our own dial has reached, for as long as they are peers
        self._members: frozenset[bytes] = frozenset()
        self._links: frozenset[bytes] = frozenset()  # of the members those that we are to be connected to
        self._has_quorum = False

    def __len__(self) -> int:
        return len(self._kept) + len(self._strangers)

    @property
    def members(self) -> frozenset[bytes]:
        return self._members

    def offer(
        self,
        address: Address,
        *,
        key: PublicKey | None,
        now: float,
        is_bootstrap: bool = False,
        is_anchor: bool = False,
    ) -> bool:
        """Learn an address; False for one that is known, and keeps its state, and where there is no room.

        An anchor is a link that we had before a restart: it goes before everything else.
        """
        slot = (address, None if is_bootstrap else key)
        if slot in self._kept or slot in self._strangers or address in self._mine:
            return False
        id_ = None if key is None else node_id(key)
        is_claim = not is_bootstrap and key not in self._members
        shown = self._shown_of(address, now) if is_claim else None
        if id_ == self._own_id or (shown and shown.owner not in (None, key)) or (is_claim and not self._make_room()):
            return False
        # Both ends learn of each other at the same time; the lower id goes first.
        waits = id_ is not None and not is_bootstrap and not is_anchor and id_ < self._own_id
        at = -math.inf if is_anchor else now + (limits.HEAD_START_SECONDS if waits else 0.0)
        target = Target(address, key, is_bootstrap, at=at)
        if shown and shown.owner is None:
            target.failures, target.at = shown.failures, max(at, shown.at)
        self._keep(target)
        return True

    def strangers_wanted(self, connected: Collection[bytes]) -> int:
        """How many more addresses out of the book there should be to choose from."""
        if self.is_full(connected):
            return 0
        return max(0, limits.CANDIDATES_READY - len(self._ready(connected)))

    def groups(self, connected: Collection[bytes]) -> set[bytes | None]:
        """The netgroups into which no further stranger need be offered: it would not be dialed now."""
        taken = self._groups_taken()
        full = {group for group, count in taken.items() if count >= limits.OUTBOUND_PER_GROUP_MAX}
        return (full | {target.group for target in self._ready(connected)}) - {None}

    def is_full(self, connected: Collection[bytes]) -> bool:
        """Whether no more strangers are wanted: there are peers enough, and not only such as have chosen us."""
        ours = sum(key in connected for key in self._outbound)
        return len(connected) >= limits.OUTBOUND_PEERS_MAX and ours >= limits.OUTBOUND_PEERS_MIN

    def anchors(self) -> list[Target]:
        """The oldest links of our own, each into another netgroup: what a flood of newer ones cannot replace."""
        found: dict[bytes | Address, Target] = {}
        for target in sorted(self._outbound.values(), key=lambda target: target.connected_at):
            found.setdefault(target.group or target.address, target)
        return list(found.values())[: limits.ANCHORS_MAX]

    def feel(self, address: Address, key: PublicKey) -> Target | None:
        """A target for one look, marked as being dialed, or None where there is no room now. `felt` when it is over."""
        known = self._kept.get((address, key)) or self._strangers.get((address, key))
        target = known or Target(address, key, is_bootstrap=False, is_feeler=True)
        if target.tries or self._room()[False] <= 0:
            return None
        self._keep(target)
        self._begin(target)
        return target

    def felt(self, target: Target) -> None:
        self._end(target)
        if target.is_feeler:
            self._drop(target)

    def due(self, now: float, connected: Collection[bytes]) -> list[Target]:
        """What to dial now, marked as being dialed; never a node that is connected.

        Nor one that is being dialed already, nor an address, but for a member while there is no quorum: on a path that was
        cut and has just healed, a fresh try is through long before TCP repeats what the last one lost.
        """
        busy: set[PublicKey | Address] = {target.address for target in self._dialing}
        groups = self._groups_taken()
        room = self._room()
        chosen: list[Target] = []
        for target in sorted(self._wanted(connected), key=lambda t: t.at):
            if target.at > now:
                break
            urgent = self._is_urgent(target)
            is_busy = target.address in busy or (target.key is not None and target.key in busy)
            if room[urgent] <= 0 or (is_busy and not urgent):
                continue
            if self._is_stranger(target):
                if not self._has_room_in_group(target, groups):
                    continue
                groups[target.group] += 1
            if urgent:
                target.at = now + self._rng.uniform(0.4, 0.6) * limits.BACKOFF_QUORUM_SECONDS_MAX
            busy |= {target.address} if target.key is None else {target.address, target.key}
            room[urgent] -= 1
            self._begin(target)
            chosen.append(target)
        return chosen

    def wake_at(self, connected: Collection[bytes]) -> float:
        """When something becomes due, if nothing changes before."""
        room = self._room()
        return min((t.at for t in self._wanted(connected) if room[self._is_urgent(t)] > 0), default=math.inf)

    def seconds_max(self, target: Target) -> float:
        """How long a try may take, all its steps together."""
        return limits.QUORUM_DIAL_SECONDS_MAX if self._is_urgent(target) else math.inf

    def abandoned(self, target: Target) -> None:
        """A try ended without a result: the target must not stay taken."""
        self._end(target)

    def succeeded(self, target: Target, key: PublicKey, now: float) -> None:
        """Connected. While it lasts the target is left alone, by its key."""
        self.met(target, key, now)
        self._outbound[key] = target

    def met(self, target: Target, key: PublicKey, now: float) -> None:
        """Dialed in vain, for it has come to us at the same time."""
        self._end(target)
        target.key = key
        target.connected_at = target.at = now
        self._show(target, key, now)

    def failed(
        self, target: Target, failure: DialFailure, *, now: float, alone: bool, owner: PublicKey | None = None
    ) -> bool:
        """Wait before the next try; True where the target is given up and should be forgotten. `owner` is who answered there.

        A bootstrap address is never given up, and nothing is while this node is alone: then the fault is rather its own.
        What answers at a bootstrap address is asked anew each time, but for a member that is only out of reach: who it was
        says how eagerly to try.
        """
        self._end(target)
        target.failures = min(target.failures + 1, limits.DIAL_TRIES_MAX // 2) if alone else target.failures + 1
        if failure is DialFailure.MYSELF:
            self._mine[target.address] = None
            if len(self._mine) > limits.OWN_ADDRESSES_MAX:
                del self._mine[next(iter(self._mine))]
            for claim in [other for other in self._all() if other.address == target.address]:
                self._drop(claim)
            return True
        is_claim = self._is_stranger(target)
        is_false = is_claim and owner not in (None, target.key)
        if is_false or (
            is_claim and (target.failures >= limits.DIAL_TRIES_MAX or failure is DialFailure.WRONG_NETWORK)
        ):
            self._drop(target)
            self._back_off(target, now=now, alone=alone)
            self._show(target, owner, now)
            return True
        if target.is_bootstrap and not (target.key in self._members and failure in _OUT_OF_REACH):
            target.key = None
        self._back_off(target, now=now, alone=alone)
        self._show(target, owner, now)
        return False

    def lost(self, key: bytes, now: float) -> None:
        """A connection ended: dial again soon, not at once, so that both ends do not meet in the middle."""
        if (left := self._outbound.pop(PublicKey(key), None)) is not None:
            self._shown.pop(left.address, None)  # somebody else may take its place
        for target in self._all():
            if target.key == key and not target.tries:
                lasted = now - target.connected_at >= limits.LASTING_SECONDS
                target.failures = 1 if lasted else target.failures + 1
                self._back_off(target, now=now, alone=False)

    def set_members(self, members: Collection[bytes], now: float, *, links: Collection[bytes] | None = None) -> None:
        """The committee, and to whom of it we are to be connected: to all by default."""
        self._members = frozenset(members)
        self._links = self._members if links is None else self._members.intersection(links)
        targets, self._kept, self._strangers = self._all(), {}, {}
        for target in targets:
            self._keep(target)
        self._hurry(now)

    def set_quorum(self, has_quorum: bool, now: float) -> None:
        self._has_quorum = has_quorum
        self._hurry(now)

    def now_alone(self, now: float) -> None:
        """The last peer has gone: nobody is waited for as long as with others to talk to."""
        for target in self._all():
            target.at = min(target.at, now + self._cap(target, alone=True) * self._rng.uniform(0.5, 1.0))

    def bootstrap_keys(self) -> set[PublicKey]:
        """Who answered, when last dialed, at the addresses that the operator named."""
        return {t.key for t in self._kept.values() if t.is_bootstrap and t.key is not None}

    def is_mine(self, address: Address) -> bool:
        """Whether dialing it reached this node."""
        return address in self._mine

    def _all(self) -> list[Target]:
        return [*self._kept.values(), *self._strangers.values()]

    def _keep(self, target: Target) -> None:
        """Among those that it belongs to, now that the members are as they are."""
        (self._strangers if self._is_stranger(target) else self._kept)[target.slot] = target

    def _drop(self, target: Target) -> None:
        self._kept.pop(target.slot, None)
        self._strangers.pop(target.slot, None)

    def _begin(self, target: Target) -> None:
        target.tries += 1
        self._dialing[target] = None

    def _end(self, target: Target) -> None:
        """One of its tries."""
        target.tries -= 1
        if not target.tries:
            del self._dialing[target]

    def _show(self, target: Target, owner: PublicKey | None, now: float) -> None:
        """What a dial showed counts for all strangers who claim that address.

        Keys are free, so each claim by itself would be another dial, at whomever somebody likes to see dialed.
        """
        self._shown.pop(target.address, None)
        self._shown[target.address] = _Shown(owner, target.failures, target.at, now + limits.CLAIM_SECONDS)
        if len(self._shown) > limits.DIAL_TARGETS_MAX:
            del self._shown[next(iter(self._shown))]
        for claim in [claim for claim in self._strangers.values() if claim.address == target.address]:
            if owner is None:
                claim.failures, claim.at = max(claim.failures, target.failures), max(claim.at, target.at)
            elif claim.key != owner and not claim.tries:
                self._drop(claim)

    def _shown_of(self, address: Address, now: float) -> _Shown | None:
        shown = self._shown.get(address)
        return shown if shown is not None and now < shown.until else None

    def _hurry(self, now: float) -> None:
        """Without a quorum no member is waited for longer than its cap, whatever was planned before."""
        if not self._has_quorum:
            for target in self._kept.values():
                if target.key in self._links:
                    target.at = min(target.at, now + self._rng.uniform(0.5, 1.0) * limits.BACKOFF_QUORUM_SECONDS_MAX)

    def _back_off(self, target: Target, *, now: float, alone: bool) -> None:
        doubled = limits.BACKOFF_SECONDS * 2.0 ** min(target.failures - 1, 20)
        at = now + min(doubled, self._cap(target, alone=alone)) * self._rng.uniform(0.5, 1.0)
        # Where tries overlap, one that ends does not put the next one off.
        target.at = min(at, target.at) if target.at > now and self._is_urgent(target) else at

    def _wanted(self, connected: Collection[bytes]) -> list[Target]:
        """Targets that may be dialed once their time has come."""
        busy_addresses = {target.address for target in self._dialing}
        busy = {target.key for target in self._dialing if target.key is not None}
        groups = self._groups_taken()
        is_sparse = self._links != self._members  # then a member that we need no link to is dialed to get started only
        has_enough = is_sparse and len(connected) >= limits.OVERLAY_PEERS_MIN

        def is_free(target: Target) -> bool:
            if target.key in connected:
                return False
            if self._is_urgent(target):
                return target.tries < limits.QUORUM_DIALS_MAX
            if target.address in busy_addresses or target.key in busy:
                return False
            if target.key in self._links:
                return True
            if target.key in self._members:
                return not has_enough
            if target.is_bootstrap:
                return not has_enough and len(connected) < limits.SEEDED_PEERS_MIN
            return self._has_room_in_group(target, groups)

        strangers = () if self.is_full(connected) else self._strangers.values()
        return [target for target in (*self._kept.values(), *strangers) if is_free(target)]

    def _is_stranger(self, target: Target) -> bool:
        return not target.is_bootstrap and target.key not in self._members

    def _ready(self, connected: Collection[bytes]) -> list[Target]:
        """Strangers that could be dialed now, and never failed."""
        return [
            target
            for target in self._strangers.values()
            if not target.failures and not target.tries and target.key not in connected
        ]

    def _groups_taken(self) -> Counter[bytes | None]:
        """Our links to strangers, and tries of them, by netgroup."""
        dialing = [target for target in self._dialing if target.key not in self._outbound]
        return Counter(t.group for t in [*self._outbound.values(), *dialing] if self._is_stranger(t))

    def _has_room_in_group(self, target: Target, groups: Counter[bytes | None]) -> bool:
        return target.group is None or groups[target.group] < limits.OUTBOUND_PER_GROUP_MAX

    def _make_room(self) -> bool:
        """For one more stranger; what failed most often, and is to wait longest, is dropped."""
        if len(self._strangers) < limits.DIAL_TARGETS_MAX:
            return True
        failed = [target for target in self._strangers.values() if target.failures and not target.tries]
        if failed:
            self._drop(max(failed, key=lambda target: (target.failures, target.at)))
        return bool(failed)

    def _is_urgent(self, target: Target) -> bool:
        """A member while there is no quorum: nothing else is worth as much."""
        return target.key in self._links and not self._has_quorum

    def _room(self) -> dict[bool, int]:
        """How many tries may begin, of the urgent and of the others."""
        room = {True: limits.QUORUM_DIALS_ALL_MAX, False: limits.DIALS_MAX}
        for target in self._dialing:
            room[self._is_urgent(target)] -= target.tries
        return room

    def _cap(self, target: Target, *, alone: bool) -> float:
        if self._is_urgent(target):
            return limits.BACKOFF_QUORUM_SECONDS_MAX
        if target.is_bootstrap and alone:
            return limits.BACKOFF_ALONE_SECONDS_MAX
        if target.is_bootstrap or target.key in self._members or alone:
            return limits.BACKOFF_MEMBER_SECONDS_MAX
        return limits.BACKOFF_OTHER_SECONDS_MAX
