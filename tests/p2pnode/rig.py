"""A node's rounds without its sockets: real store, blobs, vote log, engine, trainer and gossip over a swarm that is not running.

What it says goes nowhere and what it asks for nobody has, so a test is alone with the round and hands it what peers would say.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio

import consensus
import transport
from model.data import Corpus
from model.trainer import Trainer
from p2pnode.blobs import Blobs, Served
from p2pnode.catchup import CatchUp, Position
from p2pnode.checkpoint import Checkpoint
from p2pnode.delays import Delays
from p2pnode.driver import Driver
from p2pnode.founding import open_blobs
from p2pnode.genesis import Genesis
from p2pnode.gossip import Gossip
from p2pnode.home import Home
from p2pnode.rounds import Parts, Rounds
from p2pnode.store import Store
from p2pnode.training import Training
from p2pnode.vote_records import Signed, decode
from p2pnode.wal import VoteLog
from p2pnode.wire import Role, Status
from p2pnode.worker import Worker
from tests.p2pnode.little import LAYOUT, MODEL, TEXT, TRAINING, Chain, RecordingLog, until

Handler = Callable[[transport.PublicKey, int, bytes], Awaitable[bytes]]


def make_swarm(
    identity: transport.Identity,
    genesis: Genesis | None,
    blobs: Blobs,
    *,
    handler: Handler | None = None,
    bootstrap: tuple[transport.Address, ...] = (),
    source: transport.BlobSource | None = None,
) -> transport.Swarm:
    async def refuse(_: transport.PublicKey, method: int, body: bytes) -> bytes:
        raise transport.RequestRefused("nobody answers here")

    return transport.Swarm(
        identity=identity,
        listen=transport.Address("127.0.0.1", 0),
        listen_fallback=False,
        announce=None,
        bootstrap=list(bootstrap),
        book=transport.PeerBook(),
        chain_id=None if genesis is None else transport.ChainId(genesis.chain_id),
        handler=handler or refuse,
        blobs=source or Served(blobs),
        log=RecordingLog(),
    )


class Rig:
    """One member of a small committee, or of its own."""

    def __init__(
        self, directory: Path, *, members: int = 1, me: int = 0, trains: bool = True, genesis: Genesis | None = None
    ) -> None:
        directory.mkdir(exist_ok=True)
        self.chain = Chain(members, genesis=genesis)
        self.genesis = self.chain.genesis
        self.identity = self.chain.founders[me]
        self.log = RecordingLog()
        self.store = Store(directory / "chain.sqlite", self.genesis.chain_id)
        self.blobs = Blobs(directory / "blobs", directory / "snapshots")
        self.swarm = make_swarm(self.identity, self.genesis, self.blobs)
        self.sent: list[consensus.Message] = []
        self.gossip = self._gossip()
        self.worker = Worker("learn")
        self.delays = Delays()
        self.trainer = Trainer(
            MODEL,
            TRAINING,
            Corpus(TEXT, TRAINING.sequence),
            chain_id=self.genesis.chain_id,
            author=self.identity.public_key,
        )
        catchup = CatchUp(
            genesis=self.genesis, store=self.store, blobs=self.blobs, gossip=self.gossip, log=RecordingLog()
        )
        position = catchup.load(self.chain.replicas[0])
        self.rounds = Rounds(self._parts(directory), position=position, training=Training(on=trains))
        self.vote_log = VoteLog(directory / "votes.log")
        self.driver = self.rounds.driver = self._driver()

    def _gossip(self) -> Gossip:
        rig = self

        class Said(Gossip):
            def broadcast(self, message: consensus.Message) -> None:
                rig.sent.append(message)
                super().broadcast(message)

        return Said(
            identity=self.identity,
            swarm=self.swarm,
            genesis=self.genesis,
            store=self.store,
            blobs=self.blobs,
            committee=lambda: self.rounds.state.membership.current,
            log=self.log,
        )

    def _parts(self, directory: Path) -> Parts:
        return Parts(
            genesis=self.genesis,
            me=self.identity.public_key,
            trainer=self.trainer,
            store=self.store,
            blobs=self.blobs,
            gossip=self.gossip,
            worker=self.worker,
            delays=self.delays,
            log=self.log,
            layout=LAYOUT,
            trainer_file=directory / "trainer.safetensors",
        )

    def _driver(self) -> Driver:
        records = [r.record for r in map(decode, self.vote_log.recovered.records) if isinstance(r, Signed)]

        def engine(me: consensus.PublicKey | None) -> consensus.Engine:
            return consensus.Engine(
                me=me, sign=self.gossip.sign, verify=transport.verify, state=self.rounds.state, records=records
            )

        return Driver(
            engine=engine(consensus.PublicKey(self.identity.public_key)),
            observer=partial(engine, None),
            vote_log=self.vote_log,
            voice=self.gossip,
            duties=self.rounds,
            delays=self.delays,
            log=self.log,
        )

    def said(self, kind: type) -> list[Any]:
        return [message for message in self.sent if isinstance(message, kind)]

    def hold(self, place: int, data: bytes, **changes: Any) -> consensus.Contribution:
        """A founder's contribution to the open height, with its bytes on the disk as if they had been fetched."""
        from tests.p2pnode.little import contribution

        message = contribution(self.chain.founders[place], self.rounds.state, data, **changes)
        self.blobs.put(data)
        return message

    def position_after(self, heights: int) -> Position:
        chain = self.chain.grow(heights - self.chain.state.height)
        return Position(chain.states[heights], chain.replicas[heights], ())

    @asynccontextmanager
    async def running(self, *, begins: bool = True) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.rounds.run)
            if begins:
                self.rounds.begin()
            yield
            nursery.cancel_scope.cancel()
        self.close()

    def close(self) -> None:
        self.rounds.training.on = False
        self.worker.finish(lambda: None, timeout_seconds=10)
        self.vote_log.close()
        self.store.close()


class Peer:
    """A node that answers and asks but has no rounds: a real swarm on loopback, a store and blobs with as much of a chain as it is given."""

    def __init__(self, directory: Path, chain: Chain, *, heights: int = 0, seed: int = 90, fresh: bool = True) -> None:
        directory.mkdir(exist_ok=not fresh)
        self.chain = chain
        self.identity = transport.Identity(bytes([seed]) * 32)
        self.log = RecordingLog()
        self.store = Store(directory / "chain.sqlite", chain.genesis.chain_id)
        self.blobs = Blobs(directory / "blobs", directory / "snapshots")
        for block, certificate in chain.decided[:heights]:
            self.store.put_block(block, certificate, {"height": block.height})
            for contribution in block.contributions:
                self.blobs.put(chain.payloads[contribution.payload_digest])
        self.answers: dict[int, Callable[[bytes], Awaitable[bytes]]] = {}  # lies, by method
        self.asked: list[int] = []
        self.heard: list[consensus.Message] = []
        self.events: list[consensus.Event] = []
        self.failures: dict[transport.Address, str] = {}
        self.checkpoint: Checkpoint | None = None
        self.source: Any = None  # what it serves blobs from, where that is not the truth

    @property
    def key(self) -> transport.PublicKey:
        return self.identity.public_key

    def says(self, height: int) -> None:
        state = self.chain.states[min(height, len(self.chain.states) - 1)]
        self.gossip.tell_status(Status(height=height, model_root=state.model_root, role=Role.OBSERVER, learning=0))

    def catch_up(self) -> tuple[CatchUp, Position]:
        catchup = CatchUp(
            genesis=self.chain.genesis,
            store=self.store,
            blobs=self.blobs,
            gossip=self.gossip,
            log=self.log,
            checkpoint=self.checkpoint,
        )
        return catchup, catchup.load(self.chain.replicas[0])

    async def _handle(self, peer: transport.PublicKey, method: int, body: bytes) -> bytes:
        self.asked.append(method)
        lie = self.answers.get(method)
        return await (self.gossip.answer(method, body, peer=peer) if lie is None else lie(body))

    async def _deliver(self, event: consensus.Event) -> None:
        self.events.append(event)

    async def run(self, bootstrap: tuple[transport.Address, ...], *, task_status: trio.TaskStatus[None]) -> None:
        genesis = self.chain.genesis
        self.swarm = make_swarm(
            self.identity, genesis, self.blobs, handler=self._handle, bootstrap=bootstrap, source=self.source
        )
        self.gossip = Gossip(
            identity=self.identity,
            swarm=self.swarm,
            genesis=genesis,
            store=self.store,
            blobs=self.blobs,
            committee=lambda: self.chain.state.membership.current,
            log=self.log,
        )
        self.gossip.deliver = self._deliver
        try:
            async with trio.open_nursery() as nursery:
                self.address = await nursery.start(self.swarm.run)
                nursery.start_soon(self.gossip.listen_forever, self.heard.append, self.failures)
                task_status.started()
        finally:
            self.store.close()


@asynccontextmanager
async def network(*peers: Peer) -> AsyncIterator[None]:
    """All connected with all."""
    async with trio.open_nursery() as nursery:
        for place, peer in enumerate(peers):
            await nursery.start(peer.run, tuple(other.address for other in peers[:place]))
        for peer in peers:
            await until(lambda peer=peer: len(peer.swarm.peers()) == len(peers) - 1)
        yield
        nursery.cancel_scope.cancel()


class Joiner:
    """A swarm that knows no network, and a log that remembers."""

    def __init__(self, tmp_path: Path, *peers: Peer) -> None:
        self.home = Home(tmp_path / "joiner")
        self.home.create()
        self.blobs = open_blobs(self.home)
        self.log = RecordingLog()
        identity = transport.Identity(bytes([99]) * 32)
        self.swarm = make_swarm(identity, None, self.blobs, bootstrap=tuple(peer.address for peer in peers))
