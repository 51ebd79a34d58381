"""Collect, then agree: when does this node start a height?

A pure answer to one question, from what is held now. It decides nothing that replicas must share: whatever moment each node picks, the
committee agrees on what the proposer lists. A bad answer costs time, never safety.

After height h-1 is decided no timer runs. The height starts at the first of:
(a) bytes held from every node that is expected;
(b) more than half of those held, and of those proven among them, and a while for the rest: for whoever was measured and is usually here
    within twice the time that the majority took, until then and a quarter more, but no longer than that; half the majority's time for
    whoever was not measured; at least 0.5 s. Or more than half of those proven, plus twice the time that they took: strangers must neither hold up
    everybody (else one who never delivers costs each height (c)) nor start a height before the members are there (else a crowd of quick
    ones throws away what they learn);
(c) once one is held, three times what more than half of those expected usually take; while that is not known, ``round_seconds_max``
    after the first one held;
(d) a valid proposal, or votes of f+1 members, for the height (the engine says so); a proposal alone only if it lists the update of a member,
    or no member is expected, or (c) or (e) is due: one faulty proposer must not throw away what everybody is learning;
(e) 3 s after evidence or a request is pending, or a change of the committee that has not begun; while somebody is expected it travels with
    the round instead, for an empty height would throw away what everybody is learning, but waits no longer than (c) would.

Expected is who contributed to one of the last two heights with contributions (at height 1: every member), and who says that it is
learning this height, so that a newcomer slower than the others is waited for as (b) allows instead of missing every round; not expected
is a connected node that says that it is not learning. ``is_waited_for`` says for how long that is believed of one who delivers nothing.

What is usual is measured here (``arrivals``), and what a majority shows: a few can be slow, but not make everybody wait for longer than
twice as long as the others take.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

MAJORITY_GRACE_SECONDS_MIN = 0.5  # where rounds take less than a second, a busy machine is not late yet
STRANGERS_PATIENCE = 2.0  # a newcomer three times as slow as the members still gets in
PENDING_SECONDS = 3.0
UNMEASURED_PATIENCE = 0.5  # of the majority's time, for the rest
MEASURED_PATIENCE = 1.0  # the most of it, for whoever is known to need it
USUAL_SLACK = 1.25  # a round is a little longer now and then
ROUND_PATIENCE = 3.0  # of what a majority usually takes: machines that sleep or have gone are not waited for longer
CLAIMS_MAX = 3  # heights that a node may say "I am learning" without delivering before nobody waits for it


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
    usual: Mapping[bytes, float] = field(default_factory=dict)  # seconds after ``opened``, of those who were measured


def is_waited_for(claims: int, *, is_member: bool) -> bool:
    """Whether one who says "I am learning", and has said so for so many heights without delivering, is expected.

    Keys of strangers are free. A member may have become slow: it gets another chance, and each time after twice as many heights.
    """
    return claims < CLAIMS_MAX or (is_member and claims & (claims - 1) == 0)


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
            moments.append(_rest(collecting, expected))  # (b)
        if proven is not None:
            took = proven - collecting.opened
            moments.append(proven + max(took * STRANGERS_PATIENCE, MAJORITY_GRACE_SECONDS_MIN))
            if expected is not None:
                moments.append(_rest(collecting, max(expected, proven)))  # (b)
    return min(moments, default=None)


def _latest(collecting: Collecting) -> list[float]:
    """The moments after which nobody is waited for."""
    moments = []
    usual = _usual_seconds(collecting)
    if collecting.held:
        first = min(collecting.held.values())
        longest = first + collecting.round_seconds_max if usual is None else collecting.opened + ROUND_PATIENCE * usual
        moments.append(max(longest, first + MAJORITY_GRACE_SECONDS_MIN))  # (c)
    if collecting.pending_since is not None:
        longest = collecting.round_seconds_max if usual is None else ROUND_PATIENCE * usual
        moments.append(collecting.pending_since + (longest if collecting.proven else PENDING_SECONDS))  # (e)
    return moments


def _usual_seconds(collecting: Collecting) -> float | None:
    """What more than half of those expected usually take, if so many were measured."""
    group = collecting.expected
    measured = sorted(seconds for author, seconds in collecting.usual.items() if author in group)
    return measured[len(group) // 2] if 2 * len(measured) > len(group) else None


def _majority(collecting: Collecting, group: frozenset[bytes]) -> float | None:
    """When more than half of the group were held, if they are."""
    arrivals = sorted(moment for author, moment in collecting.held.items() if author in group)
    return arrivals[len(group) // 2] if 2 * len(arrivals) > len(group) else None


def _rest(collecting: Collecting, majority: float) -> float:
    """How long a majority waits for the rest."""
    took = majority - collecting.opened
    until = majority
    for author in collecting.expected - collecting.held.keys():
        usual = collecting.usual.get(author)
        if usual is None:
            until = max(until, majority + UNMEASURED_PATIENCE * took)
        elif usual <= (1 + MEASURED_PATIENCE) * took:
            until = max(until, min(collecting.opened + usual * USUAL_SLACK, majority + MEASURED_PATIENCE * took))
    return max(until, majority + MAJORITY_GRACE_SECONDS_MIN)
