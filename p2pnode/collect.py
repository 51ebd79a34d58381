"""Collect, then agree: when does this node start a height?

A pure answer to one question, from what is held now. It decides nothing that replicas must share: whatever moment each node picks, the
committee agrees on what the proposer lists. A bad answer costs time, never safety.

After height h-1 is decided no timer runs. The height starts at the first of:
(a) bytes held from every node that is expected;
(b) more than half of those held, and of those proven among them, plus half the time that they took, at least 0.5 s; or more than half of
    those proven, plus twice the time that they took: strangers must neither hold up everybody (else one who never delivers costs each
    height (c)) nor start a height before the members are there (else a crowd of quick ones throws away what they learn);
(c) ``round_seconds_max`` after the first one held;
(d) a valid proposal, or votes of f+1 members, for the height (the engine says so); a proposal alone only if it lists the update of a member,
    or no member is expected, or (c) or (e) is due: one faulty proposer must not throw away what everybody is learning;
(e) 3 s after evidence or a request is pending, or a change of the committee that has not begun; while somebody is expected it travels with
    the round instead, for an empty height would throw away what everybody is learning, but waits no longer than ``round_seconds_max``.

Expected is who contributed to one of the last two heights with contributions (at height 1: every member), and who says that it is
learning this height, so that a newcomer slower than the others is waited for as (b) allows instead of missing every round; not expected
is a connected node that says that it is not learning.
"""

from collections.abc import Mapping
from dataclasses import dataclass

MAJORITY_GRACE_SECONDS_MIN = 0.5
STRANGERS_PATIENCE = 2.0  # a newcomer three times as slow as the members still gets in
PENDING_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Collecting:
    """What is known of one open height; moments are seconds on one monotonic clock.

    ``held`` maps each author whose bytes are held to the moment they were complete; ``opened`` is when the height opened here.
    ``proven`` are those expected whom more than their own word makes so: keys are free, and so is saying "I am learning".
    """

    expected: frozenset[bytes]
    proven: frozenset[bytes]
    held: Mapping[bytes, float]
    opened: float
    pending_since: float | None
    round_seconds_max: float


def overdue(collecting: Collecting, now: float) -> bool:
    """Whether a height may be decided now that lists nobody's learning: by (c) or (e)."""
    return any(moment <= now for moment in _latest(collecting))


def start_moment(collecting: Collecting) -> float | None:
    """The moment at which agreement starts if nothing more arrives; ``None`` while nothing is pending (rule d is the engine's)."""
    moments = _latest(collecting)
    if collecting.held:
        arrivals = sorted(moment for author, moment in collecting.held.items() if author in collecting.expected)
        if len(arrivals) == len(collecting.expected):
            moments.append(max(collecting.held.values()))  # (a)
        proven = _majority(collecting, collecting.proven)
        expected = _majority(collecting, collecting.expected)
        if expected is not None and not collecting.proven:
            moments.append(_patient(collecting, expected, patience=0.5))  # (b)
        if proven is not None:
            moments.append(_patient(collecting, proven, patience=STRANGERS_PATIENCE))
            if expected is not None:
                moments.append(_patient(collecting, max(expected, proven), patience=0.5))  # (b)
    return min(moments, default=None)


def _latest(collecting: Collecting) -> list[float]:
    """The moments after which nobody is waited for."""
    moments = []
    if collecting.held:
        moments.append(min(collecting.held.values()) + collecting.round_seconds_max)  # (c)
    if collecting.pending_since is not None:
        patience = collecting.round_seconds_max if collecting.proven else PENDING_SECONDS
        moments.append(collecting.pending_since + patience)  # (e)
    return moments


def _majority(collecting: Collecting, group: frozenset[bytes]) -> float | None:
    """When more than half of the group were held, if they are."""
    arrivals = sorted(moment for author, moment in collecting.held.items() if author in group)
    return arrivals[len(group) // 2] if 2 * len(arrivals) > len(group) else None


def _patient(collecting: Collecting, majority: float, *, patience: float) -> float:
    """How long a majority waits for the rest."""
    return majority + max((majority - collecting.opened) * patience, MAJORITY_GRACE_SECONDS_MIN)
