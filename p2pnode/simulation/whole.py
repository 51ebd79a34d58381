"""Level 3 of the simulation: whole nodes in virtual time, a scenario drawn from a seed, and what must come of it.

A run has a safety phase, in which anything may happen to networks, processes and disks, and a liveness phase: everything is healed, and
within a bound of virtual time every honest node must stand at a height that nobody had decided before. What must hold is checked all along
(``watch``); at the end each chain on disk is checked from the genesis, and nobody may have ended by itself.

Not here: what a cluster can do (``cluster``), or a single named situation (the tests have those).
"""

import contextlib
import random
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any, TypeVar

import trio
import trio.testing
from trio._core import _run as scheduler

import consensus
from p2pnode.attacks import KITS
from p2pnode.errors import user_error
from p2pnode.simulation.cluster import Cluster, Member
from p2pnode.simulation.disk import Faults, flip
from p2pnode.simulation.options import Kill, Partition
from p2pnode.simulation.streams import Weather
from p2pnode.simulation.watch import Violation

T = TypeVar("T")
ATTACKS = ("equivocate", "bad-root", "silent")  # of ``p2pnode.attacks``; those of a trainer need torch
RECOVER_SECONDS_MAX = 60.0  # from a healed network to everybody at a new height
HEIGHT_SECONDS_MAX = 10.0  # of those after it, traitors among the proposers
DOWN_SECONDS = 1.0  # from a planned kill to the new start
BEGINNING_SECONDS = 1000.0  # a clock that shows zero is like none


@dataclass(frozen=True, slots=True)
class Options:
    """One run. The rates are of each moment of the safety phase at which something may happen."""

    seed: int
    nodes: int = 4
    byzantine: int = 0
    attack: str = "none"
    joiners: int = 0
    events: int = 6
    event_seconds: float = 2.0
    partition_rate: float = 0.3
    cut_rate: float = 0.2
    kill_rate: float = 0.3
    disk_rate: float = 0.2
    heights: int = 2  # after the healing
    delay_seconds: float = 0.02
    partitions: tuple[Partition, ...] = ()  # where either of these is given, nothing else is drawn
    kills: tuple[Kill, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """What a run came to; the same for the same options, whenever and wherever."""

    seed: int
    trace_hash: str
    height: int
    virtual_seconds: float
    events: tuple[str, ...]
    lines: tuple[str, ...]


def drawn(seed: int, **fixed: Any) -> Options:
    """The scenario of a seed: its size, its traitors and its weather."""
    rng = random.Random(f"whole options {seed}")
    nodes = rng.choice((4, 4, 4, 4, 4, 5, 6, 7))
    attack = rng.choice(("none", *ATTACKS))
    options = Options(
        seed=seed,
        nodes=nodes,
        byzantine=0 if attack == "none" else rng.randint(1, (nodes - 1) // 3),
        attack=attack,
        joiners=int(rng.random() < 0.3),
        events=rng.randint(3, 6),
        event_seconds=rng.choice((0.7, 2.0, 4.0)),
        delay_seconds=rng.choice((0.001, 0.02, 0.08)),
    )
    return replace(options, **fixed)


def run(options: Options) -> Result:
    """One whole run in this thread. Raises Violation or AssertionError, with the seed in the text."""
    with scratch() as directory:
        try:
            return virtually(partial(_scenario, options, directory), seed=options.seed)
        except Exception as problem:
            raise Violation(f"seed {options.seed}, {options}: {_first(problem)}") from problem


def virtually(main: Callable[[], Awaitable[T]], *, seed: int) -> T:
    """``trio.run`` in virtual time, its tasks in an order that the seed decides."""
    clock = trio.testing.MockClock(autojump_threshold=0)
    clock.jump(BEGINNING_SECONDS)
    before = scheduler._ALLOW_DETERMINISTIC_SCHEDULING
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True
    scheduler._r.seed(seed)
    try:
        return trio.run(main, clock=clock)
    finally:
        scheduler._ALLOW_DETERMINISTIC_SCHEDULING = before


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A directory for the homes, in memory where the system has such a place: nothing here needs a real flush."""
    shared = Path("/dev/shm")  # noqa: S108 - made by mkdtemp inside
    with tempfile.TemporaryDirectory(prefix="p2pnode-", dir=shared if shared.is_dir() else None) as directory:
        yield Path(directory)


@contextlib.asynccontextmanager
async def running(cluster: Cluster) -> Any:
    """The nursery of a cluster; everybody is killed at the end."""
    async with trio.open_nursery() as nursery:
        cluster.nursery = nursery
        yield cluster
        await cluster.kill(*cluster.members)
        nursery.cancel_scope.cancel()


async def _scenario(options: Options, directory: Path) -> Result:
    rng = random.Random(f"whole {options.seed}")
    traitors = rng.sample(range(options.nodes), options.byzantine)
    cluster = Cluster(
        directory,
        seed=options.seed,
        founders=options.nodes,
        joiners=options.joiners,
        traitors={place: KITS[options.attack] for place in traitors},  # noqa: C420 - "none" is no kit
        weather=Weather(delay_seconds=options.delay_seconds),
    )
    begin = trio.current_time()
    async with running(cluster):
        play = _Play(cluster, options, rng)
        cluster.start(*cluster.members[: options.nodes])
        if options.partitions or options.kills:
            await play.planned()
        else:
            for _ in range(options.events):
                await trio.sleep(rng.uniform(0.2, 1.8) * options.event_seconds)
                await play.something()
        await play.heal()
        height = max(cluster.watch.blocks, default=0) + options.heights
        await cluster.reach(height, seconds=RECOVER_SECONDS_MAX + HEIGHT_SECONDS_MAX * options.heights)
        for member in cluster.honest:
            check_home(cluster, member)
        lines = tuple(cluster.watch.lines)
        return Result(
            seed=options.seed,
            trace_hash=cluster.watch.trace_hash,
            height=height,
            virtual_seconds=round(trio.current_time() - begin, 3),
            events=tuple(play.events),
            lines=lines,
        )


def check_home(cluster: Cluster, member: Member) -> None:
    """What a node holds: a chain that is one, and nobody honest accused."""
    node = member.node
    assert node is not None and node.store is not None and node.rounds is not None
    chain, first = [], 1
    while rows := node.store.block_rows(first, 64):
        chain += [(consensus.Block.decode(b), consensus.decode_certificate(c)) for b, c in rows]
        first += len(rows)
    cluster.watch.follows(member.name, chain, cluster.genesis.state())
    for key, kind, height, _ in node.store.evidence():
        if any(member.identity.public_key == key for member in cluster.honest):
            raise Violation(f"{member.name} holds evidence ({kind}, height {height}) against an honest node")


class _Play:
    """What happens to a cluster, a piece at a time."""

    def __init__(self, cluster: Cluster, options: Options, rng: random.Random) -> None:
        self.events: list[str] = []
        self._cluster = cluster
        self._options = options
        self._rng = rng
        self._spoilt: set[int] = set()  # whose disk has had faults
        self._spared = (options.nodes - 1) // 3 - options.byzantine  # how many may yet forget what they signed

    async def something(self) -> None:
        """One event; each kind by its rate, or nothing."""
        options, chance = self._options, self._rng.random()
        for rate, act in (
            (options.partition_rate, self._part),
            (options.cut_rate, self._cut),
            (options.kill_rate, self._kill),
            (options.disk_rate, self._spoil_disk),
        ):
            if chance < rate:
                await act()
                return
            chance -= rate

    async def planned(self) -> None:
        """What the options name, each at its moment; ``heal`` follows the last."""
        begin, kills, partitions = trio.current_time(), self._options.kills, self._options.partitions
        moments = {kill.at for kill in kills} | {kill.at + DOWN_SECONDS for kill in kills}
        moments |= {p.at for p in partitions} | {p.at + p.seconds for p in partitions}
        for moment in sorted(moments):
            await trio.sleep_until(begin + moment)
            for member in self._cluster.members[: self._options.nodes]:
                if not member.lives:
                    self._check_ended(member)
                    self._cluster.start(member)
            for kill in kills:
                if kill.at == moment:
                    place = self._rng.randrange(self._options.nodes) if kill.node is None else kill.node
                    await self._cluster.kill(self._cluster.members[place])
            active = [p for p in partitions if p.at <= moment < p.at + p.seconds]
            self._say(f"partitions {' '.join(partition.text() for partition in active)}")
            self._cluster.network.block_only([way for partition in active for way in self._ways(partition)])

    def _ways(self, partition: Partition) -> list[tuple[str, str]]:
        """From where to where nothing passes."""
        sides = [[self._cluster.members[place].host for place in group] for group in partition.groups]
        pairs = [(sides[0], side) for side in sides[1:]] if partition.one_way else list(permutations(sides, 2))
        return [(source, target) for one, other in pairs for source in one for target in other]

    async def heal(self) -> None:
        """Everything works from now on, and everybody is there."""
        cluster = self._cluster
        self._say("heal")
        cluster.network.heal()
        for member in cluster.members:
            node, faults = member.node, member.disk.faults
            if member.machine is not None:
                member.machine.kill_at = None
            if faults != Faults() or (member.lives and node and node.driver and node.driver.cannot_vote):
                member.disk.faults = Faults()
                await cluster.kill(member)
            if not member.lives:
                self._check_ended(member)
                cluster.start(member)

    def _check_ended(self, member: Member) -> None:
        """A node may end because of its disk, in the one line that an operator sees; of nothing else."""
        problem, member.problem = member.problem, None
        if problem is not None and not (member.place in self._spoilt and user_error(problem)):
            raise Violation(f"{member.name} ended by itself: {problem!r}")

    async def _part(self) -> None:
        network, hosts = self._cluster.network, [member.host for member in self._cluster.members]
        match self._rng.randrange(4):
            case 0:
                self._say("everybody reaches everybody")
                network.heal()
            case 1:
                one, other = self._rng.sample(hosts, 2)
                self._say(f"{one} is not heard by {other}")
                network.block(one, other)
            case _:
                self._rng.shuffle(hosts)
                place = self._rng.randint(1, len(hosts) - 1)
                self._say(f"{' '.join(hosts[:place])} | {' '.join(hosts[place:])}")
                network.part(hosts[:place], hosts[place:])

    async def _cut(self) -> None:
        one, other = self._rng.sample([member.host for member in self._cluster.members], 2)
        self._say(f"connections between {one} and {other} break")
        for _ in range(self._rng.randint(1, 4)):
            self._cluster.network.cut(one, other)
            await trio.sleep(self._rng.random() * 0.3)

    async def _kill(self) -> None:
        """One at a coming operation, or many at once; those who are down come back."""
        cluster = self._cluster
        down = [member for member in cluster.members[: self._options.nodes] if not member.lives]
        if down:
            self._say(f"{' '.join(member.name for member in down)} start again")
            for member in down:
                self._check_ended(member)
            cluster.start(*down)
            return
        if self._rng.random() < 0.2:
            self._say("everybody is killed")
            await cluster.kill(*cluster.members)
            return
        member = self._rng.choice(cluster.members[: self._options.nodes])
        machine = member.machine
        assert machine is not None
        steps = self._rng.randint(1, 30)
        self._say(f"{member.name} is killed at its operation {machine.operations + steps}")
        machine.kill_at = machine.operations + steps

    async def _spoil_disk(self) -> None:
        member = self._rng.choice(self._cluster.members[: self._options.nodes])
        self._spoilt.add(member.place)
        match self._rng.randrange(3):
            case 0:
                self._say(f"the disk of {member.name} is nearly full")
                member.disk.faults.room_bytes = self._rng.randint(0, 4096)
            case 1:
                self._say(f"the disk of {member.name} fails to sync")
                member.disk.faults.syncs_fail = True
            case _ if self._spared > 0 and member.honest and member.lives and member.home.votes.exists():
                self._spared -= 1
                await self._cluster.kill(member)
                self._say(f"a bit of the vote log of {member.name} flips: {flip(member.home.votes, self._rng)}")
            case _:
                pass

    def _say(self, what: str) -> None:
        self.events.append(what)
        self._cluster.watch.note("--", what)


def _first(problem: BaseException) -> str:
    """The innermost of what went wrong, in words."""
    while isinstance(problem, BaseExceptionGroup):
        problem = problem.exceptions[0]
    return str(problem) if isinstance(problem, AssertionError) else repr(problem)
