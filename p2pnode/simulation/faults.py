"""What goes wrong in a simulated world and when: walls between nodes, pauses, kills, delays. All drawn before the run begins.

The network's delays and the cost of handling a message are parts of their own (`Network`, `Costs`), so that a benchmark can put measured
ones in their place.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from p2pnode.simulation.options import Kill, Options, Partition


class Network(Protocol):
    """How long a message takes; `calm` is true once the faults are over."""

    def delay_seconds(self, source: int, target: int, thing: object, *, now: float, calm: bool) -> float: ...


class Costs(Protocol):
    """How long a node's one core works on what arrives; the node does nothing else meanwhile."""

    def seconds(self, node: int, event: object) -> float: ...


class UnequalDelays:
    """A mean and a spread; one message in twenty is far slower, which reorders."""

    def __init__(self, rng: random.Random, *, mean_seconds: float, spread: float) -> None:
        self._rng = rng
        self._mean = mean_seconds
        self._spread = spread

    def delay_seconds(self, source: int, target: int, thing: object, *, now: float, calm: bool) -> float:
        spread = min(self._spread, 1.0) if calm else self._spread
        if self._rng.random() < 0.95:
            return self._mean * (1 + self._rng.random() * spread)
        return self._mean * (1 + 5 * spread)


@dataclass(frozen=True, slots=True)
class Wall:
    """From `begin` to `end` nothing passes from a node of `sources` to one of `targets`."""

    begin: float
    end: float
    sources: frozenset[int]
    targets: frozenset[int]


class Faults:
    """Of the honest world before `healed_at`; the traitors are worse, and elsewhere."""

    def __init__(self, options: Options, rng: random.Random) -> None:
        self._rng = rng
        self._nodes = range(options.nodes)
        self._end = options.healed_at
        self.walls: list[Wall] = []
        for partition in options.partitions:
            self.walls += walls_of(partition)
        for kind in options.links:
            self.walls += {"split": self._split, "one-way": self._one_way, "flapping": self._flapping}.get(
                kind, self._clog
            )()
        self.pauses = self._pauses() if options.pauses else []
        self.kills = [*options.kills]
        if options.blackout:
            at = rng.uniform(0, min(2.0, self._end))
            self.kills += [Kill(at, node) for node in self._nodes]

    @property
    def ended_at(self) -> float:
        """After which no wall that was asked for by name stands."""
        return max((wall.end for wall in self.walls), default=0.0)

    def cut(self, source: int, target: int, now: float) -> bool:
        return any(
            wall.begin <= now < wall.end and source in wall.sources and target in wall.targets for wall in self.walls
        )

    def paused_until(self, node: int, now: float) -> float:
        """When the node goes on; `now` if it runs."""
        return max((end for who, begin, end in self.pauses if who == node and begin <= now < end), default=now)

    # -- kinds --

    def _moment(self) -> tuple[float, float]:
        begin = self._rng.uniform(0, self._end * 0.5)
        return begin, self._rng.uniform(begin, self._end)

    def _half(self) -> frozenset[int]:
        return frozenset(node for node in self._nodes if self._rng.random() < 0.5)

    def _split(self) -> list[Wall]:
        begin, end = self._moment()
        side = self._half()
        rest = frozenset(self._nodes) - side
        return [Wall(begin, end, side, rest), Wall(begin, end, rest, side)]

    def _one_way(self) -> list[Wall]:
        begin, end = self._moment()
        side = self._half()
        return [Wall(begin, end, side, frozenset(self._nodes) - side)]

    def _flapping(self) -> list[Wall]:
        """A split that comes and goes, sometimes one way only."""
        at = self._rng.uniform(0, 1)
        walls: list[Wall] = []
        side = self._half()
        rest = frozenset(self._nodes) - side
        while at < self._end and len(walls) < 60:
            down, up = self._rng.uniform(0.1, 1.5), self._rng.uniform(0.1, 1.5)
            walls.append(Wall(at, min(at + down, self._end), side, rest))
            if self._rng.random() < 0.7:
                walls.append(Wall(at, min(at + down, self._end), rest, side))
            at += down + up
        return walls

    def _clog(self) -> list[Wall]:
        """Nodes are cut off one by one and come back in another order (swizzle-clog)."""
        chosen = [node for node in self._nodes if self._rng.random() < 0.6]
        begins = sorted(self._rng.uniform(0, self._end * 0.6) for _ in chosen)
        ends = [self._rng.uniform(begins[-1], self._end) for _ in chosen] if chosen else []
        everybody = frozenset(self._nodes)
        walls = []
        for node, begin, end in zip(chosen, begins, ends, strict=True):
            alone = frozenset((node,))
            walls += [Wall(begin, end, alone, everybody - alone), Wall(begin, end, everybody - alone, alone)]
        return walls

    def _pauses(self) -> list[tuple[int, float, float]]:
        """Stopped and continued, as by a debugger or a laptop's lid."""
        pauses = []
        for node in self._nodes:
            if self._rng.random() < 0.5:
                begin = self._rng.uniform(0, self._end)
                pauses.append((node, begin, min(begin + self._rng.uniform(0.5, 6), self._end)))
        return pauses


def walls_of(partition: Partition) -> list[Wall]:
    begin, end = partition.at, partition.at + partition.seconds
    groups = [frozenset(group) for group in partition.groups]
    if partition.one_way:
        return [Wall(begin, end, groups[0], frozenset[int]().union(*groups[1:]))]
    return [Wall(begin, end, a, b) for a in groups for b in groups if a is not b]


def cut_off(walls: Iterable[Wall], nodes: Iterable[int], now: float) -> list[tuple[frozenset[int], float]]:
    """Groups of nodes that nothing reaches from outside at `now`, each with the moment since when (for I12)."""
    standing = [wall for wall in walls if wall.begin <= now < wall.end]
    groups = []
    for wall in standing:
        if wall.sources | wall.targets == frozenset(nodes):
            groups.append((wall.targets, wall.begin))
    return groups
