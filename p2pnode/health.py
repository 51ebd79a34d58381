"""One verdict about a node, from facts: healthy, degraded or halted, and why. Slow and broken look different.

Pure. The first rule that applies wins, worst first; each reason is one plain sentence that an operator can act on.
"""

from dataclasses import dataclass

HEALTHY, DEGRADED, HALTED, IDLE = "healthy", "degraded", "halted", "idle"


@dataclass(frozen=True, slots=True)
class Facts:
    """What the verdict rests on. Counts include this node where it is a member; ``behind`` counts heights."""

    members: int
    members_reachable: int
    quorum: int
    is_member: bool
    cannot_vote: str | None
    diverged: str | None
    syncing: str | None
    behind: int
    bootstrap_failure: str | None
    peers: int
    anybody_training: bool
    contributors: int
    contributors_usual: int
    elsewhere: str | None = None  # why another process is believed to use this node's key
    forked: str | None = None  # two certified blocks of one height
    standing: str | None = None  # what keeps this node from being a member, where something does


@dataclass(frozen=True, slots=True)
class Health:
    """``verdict`` is one word, ``reason`` one sentence (empty when all is well)."""

    verdict: str
    reason: str

    @property
    def line(self) -> str:
        return f"{self.verdict}: {self.reason}" if self.reason else self.verdict


def judge(facts: Facts) -> Health:
    """The verdict of ``status``."""
    if facts.forked is not None:
        return Health(HALTED, facts.forked)
    if facts.elsewhere is not None and facts.is_member:
        return Health(HALTED, f"this key votes elsewhere: {facts.elsewhere}; this process votes no more")
    if facts.members_reachable < facts.quorum:
        return Health(
            HALTED, f"no quorum: {facts.members_reachable} of {facts.members} members reachable, {facts.quorum} needed"
        )
    if facts.diverged is not None:
        return Health(HALTED, facts.diverged)
    if facts.cannot_vote is not None and facts.is_member:
        return Health(DEGRADED, f"not voting: {facts.cannot_vote}")
    if facts.syncing is not None:
        return Health(DEGRADED, facts.syncing)
    if facts.behind > 1:
        return Health(DEGRADED, f"catching up: {facts.behind} heights behind")
    if facts.bootstrap_failure is not None and facts.peers == 0:
        return Health(DEGRADED, facts.bootstrap_failure)
    if not facts.anybody_training:
        return Health(IDLE, "nobody is training")
    if facts.contributors < facts.contributors_usual:
        return Health(
            DEGRADED, f"{facts.contributors} of {facts.contributors_usual} contributors reached the last round"
        )
    return Health(HEALTHY, facts.standing or growth(facts))


def growth(facts: Facts) -> str:
    """What a small committee cannot do yet, said plainly."""
    if facts.members == 1:
        return f"one node decides until four are here ({facts.contributors_usual} of 4)"
    if facts.members < 4:
        return f"{facts.members} members tolerate no fault; four tolerate one"
    return ""
