"""Whom to dial, and when: one plan with one set of limits, for bootstrap addresses, members and the rest.

Sans-IO: `now` is passed in, jitter comes from an injected generator. The swarm asks `due`, dials what it gets, reports
how it went, and sleeps until `wake_at` or until something changes. Not here: sockets, TLS, the address book.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Collection
from dataclasses import dataclass
from random import Random

from transport import limits
from transport.address import Address
from transport.identity import PublicKey, node_id


class DialFailure(enum.StrEnum):
    """The class of a failed dial, as the operator reads it."""

    REFUSED = "refused"
    TIMED_OUT = "timed out"
    UNREACHABLE = "unreachable"
    BAD_CERTIFICATE = "bad certificate"
    WRONG_NETWORK = "wrong network"
    INCOMPATIBLE_VERSION = "incompatible version"
    MYSELF = "myself"
    FULL = "full"
    CLOSED = "closed"


_Slot = tuple[Address, PublicKey | None]


@dataclass(slots=True)
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
    is_dialing: bool = False
    connected_at: float = 0.0

    @property
    def slot(self) -> _Slot:
        return self.address, None if self.is_bootstrap else self.key


class DialPlan:
    def __init__(self, own_key: PublicKey, rng: Random) -> None:
        self._own_id = node_id(own_key)
        self._rng = rng
        self._targets: dict[_Slot, Target] = {}
        self._mine: set[Address] = set()
        self._members: frozenset[bytes] = frozenset()
        self._has_quorum = False

    def __len__(self) -> int:
        return len(self._targets)

    def offer(self, address: Address, *, key: PublicKey | None, now: float, is_bootstrap: bool = False) -> None:
        """Learn an address. A known one keeps its state."""
        if address in self._mine or (key is not None and node_id(key) == self._own_id):
            return
        slot = (address, None if is_bootstrap else key)
        if slot in self._targets or len(self._targets) >= limits.DIAL_TARGETS_MAX:
            return
        # Both ends learn of each other at the same time; the lower id goes first.
        waits = key is not None and not is_bootstrap and node_id(key) < self._own_id
        head_start = limits.HEAD_START_SECONDS if waits else 0.0
        self._targets[slot] = Target(address, key, is_bootstrap, at=now + head_start)

    def due(self, now: float, connected: Collection[bytes]) -> list[Target]:
        """What to dial now, marked as being dialed; never a node or an address that is connected or being dialed already."""
        busy: set[PublicKey | Address] = {t.address for t in self._targets.values() if t.is_dialing}
        room = limits.DIALS_MAX - sum(t.is_dialing for t in self._targets.values())
        chosen: list[Target] = []
        for target in sorted(self._wanted(connected), key=lambda t: t.at):
            if len(chosen) >= room or target.at > now:
                break
            if target.address in busy or (target.key is not None and target.key in busy):
                continue
            busy |= {target.address} if target.key is None else {target.address, target.key}
            target.is_dialing = True
            chosen.append(target)
        return chosen

    def wake_at(self, connected: Collection[bytes]) -> float:
        """When something becomes due, if nothing changes before."""
        if sum(t.is_dialing for t in self._targets.values()) >= limits.DIALS_MAX:
            return math.inf
        return min((t.at for t in self._wanted(connected)), default=math.inf)

    def succeeded(self, target: Target, key: PublicKey, now: float) -> None:
        """Connected. While it lasts the target is left alone, by its key."""
        target.is_dialing = False
        target.key = key
        target.connected_at = target.at = now

    def failed(self, target: Target, failure: DialFailure, *, now: float, alone: bool) -> bool:
        """Wait before the next try; True where the target is given up and should be forgotten.

        A bootstrap address is never given up, and what answered there is asked anew each time.
        """
        target.is_dialing = False
        target.failures += 1
        if failure is DialFailure.MYSELF:
            self._mine.add(target.address)
            self._targets = {slot: t for slot, t in self._targets.items() if t.address != target.address}
            return True
        keep = target.is_bootstrap or target.key in self._members
        if not keep and (target.failures >= limits.DIAL_TRIES_MAX or failure is DialFailure.WRONG_NETWORK):
            self._targets.pop(target.slot, None)
            return True
        if target.is_bootstrap:
            target.key = None
        self._back_off(target, now=now, alone=alone)
        return False

    def lost(self, key: bytes, now: float) -> None:
        """A connection ended: dial again soon, not at once, so that both ends do not meet in the middle."""
        for target in self._targets.values():
            if target.key == key and not target.is_dialing:
                lasted = now - target.connected_at >= limits.LASTING_SECONDS
                target.failures = 1 if lasted else target.failures + 1
                self._back_off(target, now=now, alone=False)

    def set_members(self, members: Collection[bytes], now: float) -> None:
        self._members = frozenset(members)
        self._hurry(now)

    def set_quorum(self, has_quorum: bool, now: float) -> None:
        self._has_quorum = has_quorum
        self._hurry(now)

    def bootstrap_keys(self) -> set[PublicKey]:
        """Who answered, when last dialed, at the addresses that the operator named."""
        return {t.key for t in self._targets.values() if t.is_bootstrap and t.key is not None}

    def is_mine(self, address: Address) -> bool:
        """Whether dialing it reached this node."""
        return address in self._mine

    def _hurry(self, now: float) -> None:
        """Without a quorum no member is waited for longer than its cap, whatever was planned before."""
        if not self._has_quorum:
            for target in self._targets.values():
                if target.key in self._members:
                    target.at = min(target.at, now + self._rng.uniform(0.5, 1.0) * limits.BACKOFF_QUORUM_SECONDS_MAX)

    def _back_off(self, target: Target, *, now: float, alone: bool) -> None:
        doubled = limits.BACKOFF_SECONDS * 2.0 ** min(target.failures - 1, 20)
        target.at = now + min(doubled, self._cap(target, alone=alone)) * self._rng.uniform(0.5, 1.0)

    def _wanted(self, connected: Collection[bytes]) -> list[Target]:
        """Targets that may be dialed once their time has come."""
        dialing = [t for t in self._targets.values() if t.is_dialing]
        busy, busy_addresses = {t.key for t in dialing if t.key is not None}, {t.address for t in dialing}
        is_full = len(connected) >= limits.OUTBOUND_PEERS_MAX
        return [
            t
            for t in self._targets.values()
            if t.address not in busy_addresses
            and (t.key is None or (t.key not in connected and t.key not in busy))
            and (t.is_bootstrap or t.key in self._members or not is_full)
        ]

    def _cap(self, target: Target, *, alone: bool) -> float:
        if target.key is not None and target.key in self._members and not self._has_quorum:
            return limits.BACKOFF_QUORUM_SECONDS_MAX
        if target.is_bootstrap and alone:
            return limits.BACKOFF_ALONE_SECONDS_MAX
        if target.is_bootstrap or target.key in self._members:
            return limits.BACKOFF_MEMBER_SECONDS_MAX
        return limits.BACKOFF_OTHER_SECONDS_MAX
