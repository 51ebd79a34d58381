"""What the links of a local network are like, and when they are cut: values, their flags, and the file that nodes read.

What it is: pure, but for that file. What it is not: the shaping; ``shim.py`` does it in each node's process, ``namespaces.py`` asks the
kernel for the same.

The file is written before any node starts. Partitions count from the moment when training begins, which nobody knows before; the harness
then adds ``began``, and every node reads the file again until it finds it there.

For editors: nodes are numbered from 1, as on the screen, and known to one another by their listening ports. A port that is not in the file
(a node that was added on the way) belongs to the group of those whom a partition does not name.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from p2pnode.errors import ExitCode, UserError

LATENCY_MS_MAX = 1_000.0  # a dial is given three seconds, and takes a round trip
DROP_MAX = 0.5  # beyond it TCP makes no progress worth the name
BANDWIDTH_MBIT_MIN = 1.0  # the text of a network is some megabytes, and every node wants it first
PARTITION_EXAMPLE = (
    "10:5:1,2/3,4 cuts nodes 1 and 2 from 3 and 4 for 5 s, 10 s into the training; 10:5:3>1 cuts one way"
)
_GROUP = re.compile(r"\d+(,\d+)*")


@dataclass(frozen=True, slots=True)
class Partition:
    """Who cannot reach whom, and when. Nodes that are in no group form one more, which nobody in the others reaches.

    ``one_way``: nothing passes from the first group to the second; everything else does.
    """

    at_seconds: float
    seconds: float
    groups: tuple[tuple[int, ...], ...]
    one_way: bool = False

    def cuts(self, source: int, target: int) -> bool:
        """Whether nothing passes from ``source`` to ``target``."""
        if self.one_way:
            return source in self.groups[0] and target in self.groups[1]
        return self._side(source) != self._side(target)

    def is_on(self, seconds: float) -> bool:
        return self.at_seconds <= seconds < self.at_seconds + self.seconds

    def sides(self, nodes: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        """Who of ``nodes`` can reach one another; all, if it is one way, since the others pass on what is said."""
        if self.one_way:
            return (tuple(nodes),)
        sides = (tuple(n for n in nodes if self._side(n) == side) for side in range(len(self.groups) + 1))
        return tuple(side for side in sides if side)

    def words(self) -> str:
        return (">" if self.one_way else "/").join(",".join(map(str, group)) for group in self.groups)

    def _side(self, node: int) -> int:
        return next((place for place, group in enumerate(self.groups) if node in group), len(self.groups))


@dataclass(frozen=True, slots=True)
class Weather:
    """``latency_ms`` is one way; ``bandwidth_mbit`` is what one node can send, to all others together; ``drop`` is the share of segments
    that are lost on a link."""

    latency_ms: float = 0.0
    jitter_ms: float = 0.0
    bandwidth_mbit: float | None = None
    drop: float = 0.0
    partitions: tuple[Partition, ...] = ()

    @property
    def is_fair(self) -> bool:
        """Nothing is asked for."""
        return self == FAIR

    @property
    def bytes_per_second(self) -> float:
        return float("inf") if self.bandwidth_mbit is None else self.bandwidth_mbit * 1e6 / 8

    def cut_at(self, seconds: float, source: int, target: int) -> bool:
        """Whether a partition keeps ``source`` from reaching ``target``, so many seconds into the training."""
        return any(p.is_on(seconds) and p.cuts(source, target) for p in self.partitions)


FAIR = Weather()


def parse_partition(text: str) -> Partition:
    """From ``AT:SECONDS:GROUPS``. Raises UserError."""
    try:
        at, seconds, groups = text.split(":")
        one_way = ">" in groups
        sides = groups.split(">" if one_way else "/")
        if not all(_GROUP.fullmatch(side) for side in sides) or (one_way and len(sides) != 2):
            raise ValueError
        found = Partition(
            float(at), float(seconds), tuple(tuple(int(n) for n in side.split(",")) for side in sides), one_way
        )
        if not (0 <= found.at_seconds < float("inf") and 0 < found.seconds < float("inf")):
            raise ValueError
    except ValueError:
        raise _refuse(f"--partition {text}: not AT:SECONDS:GROUPS", PARTITION_EXAMPLE) from None
    return found


def check_weather(weather: Weather, *, nodes: int) -> None:
    """Raise UserError for what cannot be, naming the flag."""
    _check("--latency", weather.latency_ms, 0, LATENCY_MS_MAX)
    _check(
        "--jitter",
        weather.jitter_ms,
        0,
        weather.latency_ms,
        why="at most --latency: nothing arrives before it was sent",
    )
    _check("--drop", weather.drop, 0, DROP_MAX, why="a share: 0.01 loses one segment in a hundred; 0.5 at most")
    if weather.bandwidth_mbit is not None:
        _check("--bandwidth", weather.bandwidth_mbit, BANDWIDTH_MBIT_MIN, 100_000)
    for partition in weather.partitions:
        named = [number for group in partition.groups for number in group]
        if len(set(named)) < len(named):
            raise _refuse(f"--partition: {partition.words()} names a node twice", PARTITION_EXAMPLE)
        if wrong := [number for number in named if not 1 <= number <= nodes]:
            raise _refuse(f"--partition: no node {wrong[0]}", f"they are numbered from 1 to {nodes}")


@dataclass(frozen=True, slots=True)
class Forecast:
    """The file, read: ``numbers`` by listening port; ``began`` on the machine's monotonic clock, once it is known."""

    weather: Weather
    numbers: Mapping[int, int]
    seed: int
    began: float | None

    def is_cut(self, source_port: int, target_port: int, *, now: float) -> bool:
        if self.began is None:
            return False
        source, target = (self.numbers.get(port, 0) for port in (source_port, target_port))
        return self.weather.cut_at(now - self.began, source, target)


def write_forecast(path: Path, weather: Weather, ports: Sequence[int], *, seed: int, began: float | None) -> None:
    """Atomically: nodes read it at any moment. ``ports``: of nodes 1, 2, and so on."""
    document = {"weather": asdict(weather), "ports": list(ports), "seed": seed, "began": began}
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(document))
    fresh.replace(path)


def read_forecast(path: Path) -> Forecast:
    document: dict[str, Any] = json.loads(path.read_text())
    said = document["weather"]
    partitions = tuple(
        Partition(**{**part, "groups": tuple(tuple(group) for group in part["groups"])}) for part in said["partitions"]
    )
    return Forecast(
        weather=Weather(**{**said, "partitions": partitions}),
        numbers={port: number for number, port in enumerate(document["ports"], 1)},
        seed=document["seed"],
        began=document["began"],
    )


def _check(flag: str, value: float, low: float, high: float, *, why: str = "") -> None:
    if not low <= value <= high:
        raise _refuse(f"{flag} {value:g}: out of range", why or f"from {low:g} to {high:g}")


def _refuse(message: str, hint: str) -> UserError:
    return UserError(message, hint, exit_code=ExitCode.USAGE)
