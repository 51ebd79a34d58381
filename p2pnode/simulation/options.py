"""What one simulated run is made of, drawn from its seed alone, so that a seed printed by a failure replays the failure."""

import random
from dataclasses import dataclass, fields, replace
from typing import Any

from p2pnode.errors import ExitCode, UserError
from p2pnode.simulation.adversaries import ADVERSARIES, BEHAVIOURS


@dataclass(frozen=True, slots=True)
class Partition:
    """From `at` for `seconds`: nothing passes between the groups, or, `one_way`, nothing from the first to the others."""

    at: float
    seconds: float
    groups: tuple[tuple[int, ...], ...]
    one_way: bool = False

    def text(self) -> str:
        joint = ">" if self.one_way else "/"
        return f"{self.at:g}:{self.seconds:g}:{joint.join(','.join(map(str, group)) for group in self.groups)}"


@dataclass(frozen=True, slots=True)
class Kill:
    """Node `node`, or any where it is None, is killed at `at`; it comes back."""

    at: float
    node: int | None = None


@dataclass(frozen=True, slots=True)
class Options:
    seed: int
    nodes: int = 4
    founders: int | None = None  # the others observe until they are admitted
    byzantine: int | None = None  # how many; None: f where there is an attack that needs traitors, else none
    attacks: tuple[str, ...] = ()
    heights: int = 3
    delay_seconds: float = 0.02  # mean one-way delay
    spread: float = 1.0  # how unequal the delays are: 0 none, 1 up to twice the mean
    loss: float = 0.0
    duplicate: float = 0.0
    crash: float = 0.0  # per effect carried out
    blackout: bool = False  # all nodes crash at one moment
    disk: float = 0.0  # per append: that it fails, and the node stops voting until it is started again
    lost_log: bool = False  # one node loses its log once
    links: tuple[str, ...] = ()  # random partitions: "split", "one-way", "flapping", "clog"
    partitions: tuple[Partition, ...] = ()
    kills: tuple[Kill, ...] = ()
    kill_effect: tuple[int, int] | None = None  # (node, n): dies before its n-th effect
    pauses: bool = False
    clock_spread: float = 0.02
    check_seconds: float = 0.05
    healed_at: float = 15.0  # no faults from then on, among a core that can decide
    progress_seconds: float = 300.0  # in which the healed core, and then the laggards, must reach every height
    wire: bool = False  # encode and decode everything on its way
    late_joiner: bool = False  # one node begins only when the faults are over
    admission: str = "open"
    threshold_percent: int = 0
    leaves: int = 0  # how many members ask to leave

    @property
    def traitors(self) -> int:
        """How many nodes are traitors."""
        if self.byzantine is not None:
            return self.byzantine
        f = ((self.founders or self.nodes) - 1) // 3
        roles = {ADVERSARIES[name].role for name in self.attacks}
        return f + 1 if "excess" in roles else f if roles & {"behaviour", "twin"} else 0

    @property
    def tolerated(self) -> bool:
        """At most f traitors: agreement is promised."""
        return self.traitors <= ((self.founders or self.nodes) - 1) // 3

    def words(self) -> str:
        """What is not as usual, for a person."""
        usual = Options(seed=self.seed)
        return ", ".join(
            f"{f.name}={getattr(self, f.name)!r}"
            for f in fields(self)
            if f.name == "seed" or getattr(self, f.name) != getattr(usual, f.name)
        )


def drawn(seed: int, **fixed: Any) -> Options:
    """Faults are switched on in random combinations, as different runs find different things."""
    rng = random.Random(f"options {seed}")
    shape = rng.random()
    attacks: tuple[str, ...] = (rng.choice(BEHAVIOURS),) if rng.random() < 0.75 else ()
    if attacks and rng.random() < 0.3:
        attacks = (*attacks, rng.choice(BEHAVIOURS))
    if rng.random() < 0.12:
        attacks = ("twin", *attacks)
    options = Options(
        seed=seed,
        nodes=rng.choice((4, 4, 4, 4, 5, 7)),
        attacks=attacks,
        delay_seconds=rng.choice((0.005, 0.02, 0.08)),
        spread=rng.choice((0.2, 1.0, 1.0, 3.0)),
        loss=rng.choice((0.0, 0.0, 0.05, 0.2, 0.4)),
        duplicate=rng.choice((0.0, 0.0, 0.1)),
        crash=rng.choice((0.0, 0.0, 0.005, 0.02)),
        disk=rng.choice((0.0, 0.0, 0.0, 0.01, 0.05)),
        lost_log=rng.random() < 0.1,
        blackout=rng.random() < 0.2,
        links=tuple(kind for kind in ("split", "one-way", "flapping", "clog") if rng.random() < 0.2),
        pauses=rng.random() < 0.15,
        clock_spread=rng.choice((0.0, 0.02, 0.3)),
        check_seconds=rng.choice((0.0, 0.05, 0.5)),
        healed_at=rng.choice((5.0, 15.0, 30.0)),
        wire=rng.random() < 0.1,
        late_joiner=rng.random() < 0.1,
        threshold_percent=rng.choice((0, 0, 0, 0, 67, 70)),
    )
    if shape < 0.2:
        options = _with_changes(options, rng)
    given = replace(options, **fixed)
    if given.leaves and given.byzantine is None:  # who stays must still bear the traitors
        given = replace(given, byzantine=min(given.traitors, 1))
    faults: dict[str, dict[str, Any]] = {
        "disk": {"disk": 0.05, "lost_log": True},
        "links": {"links": ("one-way", "flapping", "clog")},
    }
    for name in given.attacks:
        given = replace(given, **{k: v for k, v in faults.get(name, {}).items() if k not in fixed})
    return given


def _with_changes(options: Options, rng: random.Random) -> Options:
    """The committee changes while everything else goes wrong."""
    nodes, founders = rng.choice(((4, 1), (5, 1), (6, 4), (7, 5), (7, 7)))
    return replace(
        options,
        nodes=nodes,
        founders=founders if founders < nodes else None,
        attacks=() if founders == 1 else options.attacks,
        heights=rng.choice((7, 9)),
        admission=rng.choice(("open", "invite", "allowlist")) if founders < nodes else "open",
        leaves=rng.choice((0, 1)) if nodes == founders else 0,
        threshold_percent=0,
    )


def parse_partition(text: str) -> Partition:
    """`AT:SECONDS:0,1/2,3` cuts groups apart; with `>` for `/` only what goes from the left to the right is lost."""
    problem = UserError(
        f"--partition {text!r} is not AT:SECONDS:GROUPS",
        "for example 5:10:0,1/2,3,4,5,6, or 5:10:0>1,2 for one way only",
        exit_code=ExitCode.USAGE,
    )
    try:
        at, seconds, names = text.split(":")
        one_way = ">" in names
        groups = tuple(tuple(int(n) for n in group.split(",")) for group in names.split(">" if one_way else "/"))
        partition = Partition(float(at), float(seconds), groups, one_way)
    except ValueError:
        raise problem from None
    flat = [node for group in groups for node in group]
    if len(groups) < 2 or len(set(flat)) != len(flat) or partition.at < 0 or partition.seconds <= 0 or min(flat) < 0:
        raise problem
    return partition


def parse_kill(text: str, *, rng: random.Random, healed_at: float) -> tuple[Kill, ...]:
    """`COUNT` random kills before the faults end, or `NODE@AT`."""
    problem = UserError(
        f"--kill {text!r} is neither COUNT nor NODE@AT", "for example 3, or 2@7.5", exit_code=ExitCode.USAGE
    )
    try:
        if "@" in text:
            node, at = text.split("@")
            return (Kill(_positive(float(at)), int(_positive(int(node)))),)
        return tuple(Kill(rng.uniform(0.2, healed_at)) for _ in range(int(_positive(int(text)))))
    except ValueError:
        raise problem from None


def _positive(number: float) -> float:
    if number < 0:
        raise ValueError(number)
    return number
