"""Whether a run was good, and why not: pure, from what was recorded to the JSON object that ``--json`` ends with.

What it is: one function per condition, each returning the sentences of what broke it, and one function that adds up the
figures. What it is not: a reader of nodes or files; an ``Outcome`` holds all that was read.

For editors: the verdict is ``ok`` exactly when no condition has anything to say. A figure that no node reported is
null, never zero. Aggregates are means and percentiles over honest nodes only; a Byzantine node's word counts for
nothing.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from p2pnode.localnet.readings import EvidenceRow, Json, NodeId, Round, Status
from p2pnode.localnet.weather import Partition


@dataclass(frozen=True, slots=True)
class Kill:
    """One SIGKILL: ``height`` was undecided at the node, as its own store showed after its death, unless ``undecided``
    is false."""

    node: NodeId
    height: int
    phase: str
    seconds_down: float
    undecided: bool = True
    came_back: bool = True


@dataclass(frozen=True, slots=True)
class Cut:
    """One partition that began: who was cut from whom, and whether any side could still decide. Rounds that nobody could decide
    are no fault. ``height``: the last decided one when it began."""

    at_seconds: float
    seconds: float
    groups: str
    quorum: bool
    height: int

    @staticmethod
    def of(partition: Partition, *, members: Sequence[int], height: int) -> "Cut":
        needed = len(members) * 2 // 3 + 1  # SPEC.md, Q1
        has_quorum = any(len(side) >= needed for side in partition.sides(members))
        return Cut(partition.at_seconds, partition.seconds, partition.words(), has_quorum, height)


@dataclass(frozen=True, slots=True)
class NodeOutcome:
    """Everything that was read from one node. ``status`` is its last word, or None if it never spoke."""

    name: str  # "node 2 (3fa9c1d2)": what sentences call it
    node: NodeId
    attack: str | None
    status: Status | None
    validation_loss: float | None = None  # of its final model
    rounds: tuple[Round, ...] = ()
    evidence: tuple[EvidenceRow, ...] = ()
    left: bool = False  # for good, in order, before the end; ``status`` is from then
    troubles: tuple[str, ...] = ()  # sentences: exits that nobody asked for, tracebacks, what it left behind

    @property
    def honest(self) -> bool:
        return self.attack is None


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything that was recorded of one run."""

    rounds: int  # the target
    kills_planned: int
    wall_seconds: float | None  # from the order to train until the last honest node had decided the last height
    nodes: tuple[NodeOutcome, ...]
    kills: tuple[Kill, ...] = ()
    churned: bool = False  # members came and went all along
    cuts_planned: int = 0
    cuts: tuple[Cut, ...] = ()
    validation_loss_first: float | None = None  # of M(0), by one honest node
    troubles: tuple[str, ...] = ()  # sentences: what went wrong with the run as a whole

    @property
    def honest(self) -> tuple[NodeOutcome, ...]:
        return tuple(node for node in self.nodes if node.honest)

    @property
    def validation_loss_last(self) -> float | None:
        """The mean over honest nodes: one value, since they hold one model."""
        return _mean(node.validation_loss for node in self.honest if node.validation_loss is not None)


def reasons(outcome: Outcome) -> list[str]:
    """Why the verdict is not ``ok``, in sentences; empty if it is."""
    return [sentence for condition in _CONDITIONS for sentence in condition(outcome)]


def summary(outcome: Outcome) -> dict[str, Json]:
    """The JSON object that ``--json`` ends with."""
    why = reasons(outcome)
    honest, staying = outcome.honest, tuple(node for node in outcome.honest if not node.left)
    statuses = [node.status for node in honest if node.status is not None]
    agree_seconds = [r.agree_seconds for node in honest for r in node.rounds if r.agree_seconds is not None]
    tokens_total = sum(status.tokens_total for status in statuses)
    return {
        "verdict": "failed" if why else "ok",
        "reasons": why,
        "nodes": len(outcome.nodes),
        "height": _common_height(staying),
        "rounds_committed": _rounds_committed(outcome),
        "wall_seconds": _rounded(outcome.wall_seconds, 2),
        "model_roots": _roots_at(staying, _common_height(staying)),
        "heights": {node.node: node.status.height for node in staying if node.status is not None},
        "loss_first": _mean_loss(honest, _first_round(outcome)),
        "loss_last": _mean_loss(honest, _last_round(outcome)),
        "validation_loss_first": _rounded(outcome.validation_loss_first, 4),
        "validation_loss_last": _rounded(outcome.validation_loss_last, 4),
        "parameters": max((status.parameters for status in statuses), default=None),
        "tokens_total": tokens_total,
        "tokens_per_second": _rounded(tokens_total / outcome.wall_seconds, 1) if outcome.wall_seconds else None,
        "payload_bytes_per_parameter_per_round": _payload_share(honest),
        "bytes_sent_total": sum(status.bytes_sent_total for status in statuses),
        "compute_fraction": _rounded(_mean(s.compute_fraction for s in statuses if s.compute_fraction is not None), 3),
        "consensus_seconds_p50": _rounded(percentile(agree_seconds, 50), 4),
        "consensus_seconds_p99": _rounded(percentile(agree_seconds, 99), 4),
        "views_max": max((r.view for node in honest for r in node.rounds), default=None),
        "byzantine": [node.node for node in outcome.nodes if not node.honest],
        "evidence": [
            {"node": row.node, "kind": row.kind, "height": row.height} for row in sorted(_evidence(honest), key=_order)
        ],
        "evicted": sorted(_evicted(honest)),
        "killed": [
            {"node": k.node, "height": k.height, "phase": k.phase, "seconds_down": _rounded(k.seconds_down, 2)}
            for k in outcome.kills
        ],
        "membership": [
            {"node": node, "height": height, "change": change} for height, node, change in sorted(_changes(outcome))
        ],
        "partitions": [
            {
                "at_seconds": c.at_seconds,
                "seconds": c.seconds,
                "groups": c.groups,
                "quorum": c.quorum,
                "height": c.height,
            }
            for c in outcome.cuts
        ],
    }


def percentile(values: Sequence[float], share: int) -> float | None:
    """The nearest-rank percentile: a value that did occur, or None of nothing."""
    if not values:
        return None
    rank = math.ceil(share / 100 * len(values))
    return sorted(values)[max(rank, 1) - 1]


# The conditions of ``ok``, all of which must hold.


def _every_honest_node_reached_the_target(outcome: Outcome) -> Iterator[str]:
    for node in outcome.honest:
        if node.status is None:
            yield f"{node.name} never answered"
        elif node.status.height < outcome.rounds and not node.left:
            yield f"{node.name} stopped at height {node.status.height} of {outcome.rounds}"


def _one_root_at_every_height(outcome: Outcome) -> Iterator[str]:
    for height in range(1, outcome.rounds + 1):
        roots = _roots_at(outcome.honest, height)
        counts = Counter(roots.values())
        if len(counts) > 1:
            groups = ", ".join(f"{count} hold {root[:8]}" for root, count in counts.most_common())
            yield f"the model differs at height {height}: {groups}"
    for node in outcome.honest:
        reached = min(outcome.rounds, node.status.height if node.status else 0)
        missing = sorted(set(range(1, reached + 1)) - {r.height for r in node.rounds})
        if missing:
            yield f"{node.name} shows no round for {_heights(missing)}"


def _held_out_loss_fell(outcome: Outcome) -> Iterator[str]:
    first, last = outcome.validation_loss_first, outcome.validation_loss_last
    if first is None or last is None:
        yield f"the held-out loss was not measured at the {'start' if first is None else 'end'}"
    elif not last < first:  # a NaN must not pass
        yield f"the held-out loss did not fall: {first:.4f} at the start, {last:.4f} at the end"


def _no_honest_node_in_evidence(outcome: Outcome) -> Iterator[str]:
    names = {node.node: node.name for node in outcome.honest}
    for row in sorted(_evidence(outcome.honest), key=_order):
        if row.node in names:
            yield f"{names[row.node]} is honest but stands in evidence: {row.kind} at height {row.height}"
    if outcome.cuts or outcome.churned:
        return  # who is cut off for long is absent, and comes back like any newcomer
    for node in sorted(_evicted(outcome.honest) & names.keys()):
        yield f"{names[node]} is honest but was evicted"


def _each_kill_hit_and_came_back(outcome: Outcome) -> Iterator[str]:
    names = {node.node: node.name for node in outcome.nodes}
    for kill in outcome.kills:
        who = f"the kill of {names.get(kill.node, kill.node)} at height {kill.height} ({kill.phase})"
        if not kill.undecided:
            yield f"{who} hit no undecided height"
        if not kill.came_back:
            yield f"{who}: the node did not come back"
    if len(outcome.kills) < outcome.kills_planned:
        yield f"only {len(outcome.kills)} of {outcome.kills_planned} kills happened before the last round was over"


def _each_partition_began(outcome: Outcome) -> Iterator[str]:
    if len(outcome.cuts) < outcome.cuts_planned:
        yield f"only {len(outcome.cuts)} of {outcome.cuts_planned} partitions began before the last round was over"


def _no_round_was_lost(outcome: Outcome) -> Iterator[str]:
    """Under churn a quorum is there at every moment, so that each height has a contribution; a partition may leave none."""
    if not outcome.churned or outcome.cuts:
        return
    lost = sorted(set(range(1, outcome.rounds + 1)) - set(_committed(outcome)))
    if lost:
        yield f"no contribution was committed at {_heights(lost)}"
    if not _changes(outcome):
        yield "no member came or went"


def _no_trouble(outcome: Outcome) -> Iterator[str]:
    """No other exit, no traceback in a log, no process, socket or port left, nothing wrong with the run as a whole."""
    yield from outcome.troubles
    for node in outcome.nodes:
        yield from (f"{node.name} {trouble}" for trouble in node.troubles)


_CONDITIONS: tuple[Callable[[Outcome], Iterator[str]], ...] = (
    _every_honest_node_reached_the_target,
    _one_root_at_every_height,
    _held_out_loss_fell,
    _no_honest_node_in_evidence,
    _each_kill_hit_and_came_back,
    _each_partition_began,
    _no_round_was_lost,
    _no_trouble,
)


def _common_height(nodes: Iterable[NodeOutcome]) -> int:
    return min((node.status.height if node.status else 0 for node in nodes), default=0)


def _roots_at(nodes: Iterable[NodeOutcome], height: int) -> dict[NodeId, str]:
    return {node.node: r.model_root for node in nodes for r in node.rounds if r.height == height}


def _committed(outcome: Outcome) -> Mapping[int, int]:
    """Heights up to the target that hold a contribution -> how many."""
    rows = chain.from_iterable(node.rounds for node in outcome.honest)
    return {r.height: r.contributions for r in rows if r.contributions and r.height <= outcome.rounds}


def _rounds_committed(outcome: Outcome) -> int:
    return len(_committed(outcome))


def _first_round(outcome: Outcome) -> int | None:
    return min(_committed(outcome), default=None)


def _last_round(outcome: Outcome) -> int | None:
    return max(_committed(outcome), default=None)


def _mean_loss(nodes: Iterable[NodeOutcome], height: int | None) -> float | None:
    return _rounded(
        _mean(r.loss for node in nodes for r in node.rounds if r.height == height and r.loss is not None), 4
    )


def _payload_share(nodes: Iterable[NodeOutcome]) -> float | None:
    """Bytes of one contribution per parameter of the model, averaged over all listed contributions."""
    shares = [
        r.payload_bytes / r.contributions / node.status.parameters
        for node in nodes
        if node.status is not None
        for r in node.rounds
        if r.payload_bytes is not None and r.contributions
    ]
    return _rounded(_mean(shares), 4)


def _changes(outcome: Outcome) -> set[tuple[int, NodeId, str]]:
    """Every change of the committee up to the target, as (height, node, what)."""
    rows = [r for node in outcome.honest for r in node.rounds if r.height <= outcome.rounds]
    changes = {(r.height, node, "joined") for r in rows for node in r.joined}
    changes |= {(r.height, node, "left") for r in rows for node in r.left}
    return changes | {(r.height, node, "evicted") for r in rows for node in r.evicted}


def _evicted(nodes: Iterable[NodeOutcome]) -> set[NodeId]:
    return {gone for node in nodes for r in node.rounds for gone in r.evicted}


def _evidence(nodes: Iterable[NodeOutcome]) -> set[EvidenceRow]:
    return {row for node in nodes for row in node.evidence}


def _order(row: EvidenceRow) -> tuple[int, str, str]:
    return (row.height, row.node, row.kind)


def _heights(heights: Sequence[int]) -> str:
    if len(heights) == 1:
        return f"height {heights[0]}"
    return f"{len(heights)} heights, the first of them {heights[0]}"


def _mean(values: Iterable[float]) -> float | None:
    held = list(values)
    return sum(held) / len(held) if held else None


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
