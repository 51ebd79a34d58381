"""Whole nodes of one network in one process: homes on a real disk, nodes that start, die and come back, and who saw what they said.

What it is: the hands of a scenario. Each node is ``p2pnode.node.Node`` with its own TLS, chain, vote log, blobs, engine and rounds; only the
machine below it is simulated, and the trainer learns nothing. What it is not: the scenario, or a judge (``watch``).
"""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import trio

import consensus
import transport
from model import compression
from model.config import ModelConfig, TrainingConfig
from model.data import Corpus
from model.layout import Layout
from model.replica import Replica
from model.trainer import Update
from p2pnode import founding
from p2pnode.config import Config, Endpoint
from p2pnode.files import FILES
from p2pnode.genesis import Founder, Genesis
from p2pnode.home import Home
from p2pnode.node import Kit, Node
from p2pnode.simulation.disk import Disk, Killed
from p2pnode.simulation.machine import SimulatedMachine, SimulatedWorker
from p2pnode.simulation.streams import Network, Weather
from p2pnode.simulation.watch import Violation, Watch
from transport import content
from transport.machine import MACHINE, random_bytes

MODEL = ModelConfig(width=8, layers=1, heads=1, key_value_heads=1, feed_forward=8, context=128)
TRAINING = TrainingConfig(local_steps=1, batch=1, warmup_steps=1)
TEXT = b"".join(b"line %d of a text that nobody learns\n" % number for number in range(1000))
PORT = 7000
POLL_SECONDS = 0.02
DEATH_SECONDS_MAX = 5.0  # virtual; a node that outlives its own death is a bug of the simulation


class IdleTrainer:
    """Offers a payload of the right form, another one each time, as training anew would. Learns nothing, hence needs no torch."""

    def __init__(self, config: ModelConfig, training: TrainingConfig, corpus: Corpus, **of: Any) -> None:
        self._layout = Layout.of(config)

    def learn(self, replica: Replica, height: int, **_: Callable[..., Any]) -> Update:
        seed = int.from_bytes(random_bytes(4), "big")
        return Update(compression.probe(self._layout, seed), loss=1.0, loss_first=1.0, tokens=1, seconds=0.0)

    def settle(self, height: int, accepted: bool) -> None: ...

    def evaluate(self, replica: Replica) -> float:
        return 1.0

    def save(self, path: Path) -> None: ...

    def restore(self, path: Path) -> None: ...


class SimulatedNode(Node):
    """A node without what a process has once: signals, a control socket, a terminal."""

    async def main(self) -> int:
        self.started = trio.current_time()
        self._prepare()
        self.swarm = self._make_swarm()
        async with trio.open_nursery() as nursery:
            self.bound = await nursery.start(self.swarm.run)
            nursery.start_soon(self._live, nursery)
            await self.stopping.wait()
            nursery.cancel_scope.cancel()
        self._close()
        return 0

    def let_go(self) -> None:
        """After a death: what the system closes when a process ends. Nothing is written."""
        if self.store is not None:
            self.store._db.close()
            self.store._reader.close()


@dataclass(slots=True)
class Member:
    """One place in the network: its key and home outlive every node that runs there."""

    place: int
    host: str
    identity: transport.Identity
    home: Home
    disk: Disk
    kit: Kit
    honest: bool = True
    bootstrap: tuple[Endpoint, ...] = ()
    node: SimulatedNode | None = None
    machine: SimulatedMachine | None = None
    starts: int = 0
    problem: BaseException | None = None
    done: trio.Event = field(default_factory=trio.Event)

    @property
    def name(self) -> str:
        return f"n{self.place}"

    @property
    def lives(self) -> bool:
        return self.machine is not None and not self.machine.is_dead

    @property
    def height(self) -> int:
        """Of its model; -1 while it is none of the network yet."""
        node = self.node
        return node.rounds.state.height if self.lives and node is not None and node.rounds is not None else -1

    @property
    def status(self) -> dict[str, Any]:
        assert self.node is not None
        return dict(self.node.view.status())


def in_one_house(place: int) -> str:
    """The address of a node's host, all behind one router."""
    return f"10.0.0.{place + 1}"


class Cluster:
    """``founders`` members of a genesis, and ``joiners`` who come by bootstrap. Use inside one trio run.

    ``strangers``: the genesis says nobody's address, so that the founders find one another by bootstrap, too; and nobody trains yet.
    """

    def __init__(
        self,
        directory: Path,
        *,
        seed: int,
        founders: int = 4,
        joiners: int = 0,
        traitors: dict[int, Kit] | None = None,
        weather: Weather = Weather(),  # noqa: B008 - it is frozen
        host: Callable[[int], str] = in_one_house,
        strangers: bool = False,
    ) -> None:
        self.seed = seed
        self._trains = not strangers
        self.network = Network(random.Random(f"network {seed}"), weather)
        self.nursery: trio.Nursery
        identities = [transport.Identity(bytes([place + 1]) * 32) for place in range(founders + joiners)]
        named = [(i, "" if strangers else f"{host(p)}:{PORT}") for p, i in enumerate(identities[:founders])]
        self.genesis = make_genesis(named)
        traitors = traitors or {}
        honest = {i.public_key for p, i in enumerate(identities) if p not in traitors}
        self.watch = Watch(self.genesis, honest, {i.public_key: f"n{p}" for p, i in enumerate(identities)})
        self.members = [
            Member(
                place=place,
                host=host(place),
                identity=identity,
                home=make_home(directory / f"n{place}", identity, self.genesis if place < founders else None),
                disk=Disk(random.Random(f"disk {seed} {place}")),
                kit=observed(traitors.get(place, Kit()), self.watch, honest=place not in traitors),
                honest=place not in traitors,
                bootstrap=(Endpoint(host(0), PORT),) if place >= founders or (strangers and place) else (),
            )
            for place, identity in enumerate(identities)
        ]

    @property
    def honest(self) -> list[Member]:
        return [member for member in self.members if member.honest]

    # --- a node's life -----------------------------------------------------------------------------------------------------------

    def start(self, *members: Member) -> None:
        for member in members:
            assert not member.lives
            member.starts += 1
            seed = f"machine {self.seed} {member.place} {member.starts}"
            machine = member.machine = SimulatedMachine(self.network, member.host, member.disk, seed=seed)
            member.done, member.node = trio.Event(), None
            self.watch.note(member.name, "starts")
            scope = trio.CancelScope()
            machine.on_kill = partial(self._dies, member, scope)
            self.nursery.start_soon(self._live, member, machine, scope)

    async def _live(self, member: Member, machine: SimulatedMachine, scope: trio.CancelScope) -> None:
        MACHINE.set(machine)
        FILES.set(member.disk)
        config = Config(
            home=member.home.path,
            listen=Endpoint(member.host, PORT),
            bootstrap=member.bootstrap,
            train=self._trains,
            repl=False,
            origins={"listen": "--listen"},
        )
        with scope:
            try:
                await trio.lowlevel.checkpoint()
                node = member.node = SimulatedNode(member.home, config, kit=member.kit)
                await node.main()
            except Killed:
                pass
            except BaseExceptionGroup as group:
                member.problem = group.split((Killed, trio.Cancelled))[1]
                cancelled = group.subgroup(trio.Cancelled) is not None and not scope.cancel_called
                if cancelled or group.subgroup(Violation) is not None:
                    raise
            except Exception as problem:
                member.problem = problem
            finally:
                if member.node is not None:
                    member.node.let_go()
                if machine.is_dead:
                    member.disk.crash()
                elif member.problem is not None:
                    self.watch.note(member.name, f"ends: {member.problem!r}")
                    machine.is_dead = True
                    self.network.die(member.host)
                member.done.set()

    def _dies(self, member: Member, scope: trio.CancelScope) -> None:
        self.watch.note(member.name, "killed")
        self.network.die(member.host)
        scope.cancel()

    async def kill(self, *members: Member) -> None:
        """At once, wherever they are; returns when nothing of them is left but their disks."""
        for member in members:
            if member.lives and member.machine is not None:
                member.machine.kill()
        with trio.fail_after(DEATH_SECONDS_MAX):
            for member in members:
                if member.starts:
                    await member.done.wait()

    # --- time --------------------------------------------------------------------------------------------------------------------

    async def until(self, condition: Callable[[], bool], *, seconds: float, what: str) -> None:
        """Let everybody run until it is so. Raises AssertionError where it takes longer than ``seconds``, virtual ones."""
        deadline = trio.current_time() + seconds
        while not condition():
            if trio.current_time() > deadline:
                heights = {member.name: member.height for member in self.members}
                problems = [f"{m.name}: {m.problem!r}" for m in self.members if m.problem is not None]
                raise AssertionError(f"not within {seconds:g} s: {what}; heights {heights} {' '.join(problems)}")
            await trio.sleep(POLL_SECONDS)

    async def reach(self, height: int, *, members: Iterable[Member] | None = None, seconds: float) -> None:
        chosen = self.honest if members is None else list(members)
        await self.until(
            lambda: all(member.height >= height for member in chosen), seconds=seconds, what=f"height {height}"
        )


def observed(kit: Kit, watch: Watch, *, honest: bool) -> Kit:
    """The same classes, with a witness beside them."""

    class SeenGossip(kit.gossip):  # type: ignore[name-defined,misc]
        def broadcast(self, message: consensus.Message) -> None:
            if honest:
                watch.said(message)
            super().broadcast(message)

    class SeenRounds(kit.rounds):  # type: ignore[name-defined,misc]
        async def decided(self, block: consensus.Block, certificate: consensus.CommitCertificate) -> None:
            if honest:
                watch.decided(self.parts.me, block, certificate)
            await super().decided(block, certificate)

        def _become(self, position: Any) -> None:
            super()._become(position)
            if honest:
                watch.stands(self.parts.me, position.state)

    return Kit(gossip=SeenGossip, rounds=SeenRounds, trainer=IdleTrainer, worker=SimulatedWorker)


def make_genesis(founders: list[tuple[transport.Identity, str]], **changes: Any) -> Genesis:
    nonce = bytes(range(16))
    replica = Replica.initial(MODEL, TRAINING, founding.model_seed(nonce))
    members = [Founder(identity.public_key, address) for identity, address in founders]
    settings: dict[str, Any] = {"policy": "open", "probation_contributions": 2, "round_seconds_max": 60, **changes}
    return Genesis(
        nonce=nonce,
        founders=tuple(sorted(members, key=lambda founder: founder.public_key)),
        model=MODEL,
        training=TRAINING,
        corpus_digest=content.digest_of(TEXT),
        corpus_bytes=len(TEXT),
        model_root=content.content_digest(replica.leaves(), replica.byte_length),
        **settings,
    )


def make_home(directory: Path, identity: transport.Identity, genesis: Genesis | None) -> Home:
    """As ``init`` leaves it; without a genesis as a joiner begins."""
    home = Home(directory)
    home.create()
    home.key.write_text(bytes(identity._key).hex())
    home.key.chmod(0o600)
    if genesis is not None:
        founding.open_blobs(home).put(TEXT)
        founding.write_genesis(home, genesis)
    return home
