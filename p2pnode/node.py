"""A node, built from its parts. Read this file first, then ``rounds`` (one round as a story) and ``driver`` (the loop around the engine).

    swarm  ──> gossip ──> driver ──> engine          messages in, effects out
                 │           │
                 └─> rounds <┘──> worker ──> trainer   one round: learn, announce, collect, agree, apply
                       │
              store, blobs, vote log                 what survives

One nursery holds every task. The order of starting is the order of knowing: identity, network (genesis), text, chain and model on disk,
peers' chain, and only then a voice in agreement.
"""

import gc
import math
import os
import signal
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

import consensus
import cuda_ext
import transport
from model.allocator import tune_host_allocator
from model.data import CorpusFile
from model.errors import ModelError, SnapshotError
from model.layout import Layout
from model.replica import Replica
from model.selftest import run as self_test
from model.tokenizer import Tokenizer
from model.trainer import Trainer
from p2pnode import founding, texts
from p2pnode.blobs import Served
from p2pnode.catchup import CatchUp, Position
from p2pnode.client import Client
from p2pnode.config import Config
from p2pnode.control import serve_control
from p2pnode.delays import Delays
from p2pnode.driver import Driver
from p2pnode.errors import SetUpError
from p2pnode.generations import Generations
from p2pnode.genesis import Genesis
from p2pnode.gossip import Gossip
from p2pnode.home import Home
from p2pnode.lag import Lag
from p2pnode.links import LINKS_SECONDS
from p2pnode.logs import get_logger
from p2pnode.recovery import Standing, chain_shows, logged_contributions, restore_decisions, take_up
from p2pnode.repl import run_repl_in_thread
from p2pnode.rounds import Parts, Rounds
from p2pnode.seat import Seat
from p2pnode.store import Store
from p2pnode.training import Training
from p2pnode.twins import Twins
from p2pnode.view import View
from p2pnode.vote_records import VoteRecord
from p2pnode.wal import VoteLog, recover
from p2pnode.wire import FrameKind
from p2pnode.worker import Worker
from transport.machine import in_thread

__all__ = ["Kit", "Node", "run"]

SHUTDOWN_SECONDS_MAX = 1.5  # of the two that Ctrl-C may take; then the process leaves as it is
BOOK_SECONDS = 120.0  # between two savings of the address book of a node that has run for a while
TEND_SECONDS = 1.0  # the swarm is told of a change at once, but not more often than this
EARLY_MAX = 256  # contributions heard before this node has rounds; four for each member of a full committee


@dataclass(frozen=True, slots=True)
class Kit:
    """The classes that a node is built from. Tests and ``attacks`` put others in; ``start`` cannot."""

    gossip: type[Gossip] = Gossip
    rounds: type[Rounds] = Rounds
    driver: type[Driver] = Driver
    trainer: type[Trainer] = Trainer
    worker: type[Worker] = Worker


def run(home: Home, config: Config, *, kit: Kit | None = None) -> int:
    """Run a node in this process until it is stopped. The caller holds the home's lock and has set up logging."""
    tune_host_allocator()
    node = Node(home, config, kit=kit or Kit())
    # What stands then stays: to look through all of torch for garbage would stop the loop for a tenth of a second. A height makes
    # thousands of objects and next to no cycles, so the usual threshold of 700 looks for them ten times in vain.
    gc.set_threshold(10_000)
    node.on_ready = gc.freeze
    signal.signal(signal.SIGINT, partial(_interrupt, node.stopping))
    return trio.run(node.main)


def _interrupt(stopping: trio.Event, *_: object) -> None:
    """Ctrl-C outside of the loop: once more, while everything is being saved, it changes nothing."""
    if not stopping.is_set():
        raise KeyboardInterrupt


class Node:
    """Everything that runs in one home."""

    def __init__(self, home: Home, config: Config, *, kit: Kit) -> None:
        self.home = home
        self.config = config
        self.kit = kit
        self.log = get_logger(part="node")
        self.identity = founding.identity_of(home)
        self.blobs = founding.open_blobs(home)
        self.genesis: Genesis | None = founding.read_genesis(home.genesis) if home.initialised else None
        self.training = Training(on=config.train)
        self.stopping = trio.Event()
        self.on_ready: Callable[[], None] = lambda: None
        self.started = 0.0
        self.pid = os.getpid()
        self.bound: transport.Address | None = None
        self.lag = Lag()
        self.worker = kit.worker("learn")
        self.generations = Generations(kit.worker, is_training=lambda: self.training.on)
        self.delays = Delays()
        self.view = View(self)
        self.swarm: transport.Swarm
        self.tokenizer: Tokenizer | None = None  # the network's, once it is here
        self.store: Store | None = None
        self.votes_lost = False
        self.rounds: Rounds | None = None
        self.driver: Driver | None = None
        self.catchup: CatchUp | None = None
        self.seat: Seat | None = None
        self.gossip: Gossip | None = None
        self.twins: Twins
        self.elsewhere: str | None = None
        self.vote_log: VoteLog
        self.logged: tuple[VoteRecord, ...] = ()
        self.failures: dict[transport.Address, str] = {}
        self.early: deque[consensus.Contribution] = deque(maxlen=EARLY_MAX)

    async def main(self) -> int:
        """Until a signal or ``stop``; returns the exit code."""
        self.started = trio.current_time()
        self._prepare()
        self.swarm = self._make_swarm()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_signals)
            nursery.start_soon(self.lag.watch)
            self.bound = await nursery.start(self.swarm.run)
            await nursery.start(serve_control, self.view, self.home)
            nursery.start_soon(self.generations.forget_forever)
            nursery.start_soon(self._show)
            nursery.start_soon(self._live, nursery)
            await self.stopping.wait()
            if self.store is not None:
                self._save_book(self.store, self.swarm.saved_book())
            nursery.cancel_scope.cancel()
        self._close()
        return 0

    # --- set-up --------------------------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """What needs no network: arithmetic that can be trusted, and a genesis where this node founds."""
        problem = self_test()
        if problem is not None:
            raise SetUpError(
                f"this machine's arithmetic is not the network's: {problem}",
                "it cannot vote; report the processor and the versions of numpy and torch",
            )
        if self.genesis is None and not self.config.bootstrap:
            if self.config.invite is not None:
                raise SetUpError(
                    "--invite without --bootstrap: an invitation is to a network that is there already",
                    "add --bootstrap HOST:PORT, as in the line that p2pnode invite prints",
                )
            self.genesis = founding.initialise(self.home, self.config, say=self.log.info)
            self._warn_open()
        elif self.genesis is not None:
            founding.check_flags(self.config, self.genesis)

    def _warn_open(self) -> None:
        if self.genesis is not None and self.genesis.policy == "open" and not self.config.listen.loopback:
            self.log.warning("this network admits anybody who contributes; it resists no Sybils", policy="open")

    def _make_swarm(self) -> transport.Swarm:
        book = transport.PeerBook()
        if self.genesis is not None:
            self.store = self._open_store(self.genesis)
            saved = self.store.note("peers")
            try:
                book = transport.PeerBook() if saved is None else transport.PeerBook.load(saved)
            except transport.Malformed as problem:
                self.log.warning("the address book is unreadable, and begins anew", reason=str(problem))
        bootstrap = [transport.Address(e.host, e.port) for e in self.config.bootstrap]
        if self.genesis is not None:
            for founder in self.genesis.founders:
                if founder.public_key != self.identity.public_key and founder.address:
                    bootstrap.append(transport.Address.parse(founder.address))
        listen, announce, mbit = self._listen_address(), self.config.announce, self.config.upload_mbit
        return transport.Swarm(
            identity=self.identity,
            listen=listen,
            listen_fallback=not self.config.given("listen"),
            announce=None if announce is None else transport.Address(announce.host, announce.port),
            bootstrap=list(dict.fromkeys(bootstrap)),
            book=book,
            chain_id=None if self.genesis is None else transport.ChainId(self.genesis.chain_id),
            handler=self._handle,
            blobs=Served(self.blobs),
            log=get_logger(part="transport"),
            upload_bytes_per_second=math.inf if mbit is None else mbit * 1e6 / 8,
        )

    def _listen_address(self) -> transport.Address:
        """The configured address; where none was given, the port that this home had last time comes first.

        And not the place of whom it is to ask, who may not have started yet.
        """
        listen, port = self.config.listen, self.config.listen.port
        if not self.config.given("listen"):
            saved = self.store.note("port") if self.store is not None else None
            if saved is not None:
                return transport.Address(listen.host, int.from_bytes(saved, "big"))
            asked = {other.port for other in self.config.bootstrap if other.loopback}
            while port in asked:
                port += 1
        return transport.Address(listen.host, port)

    async def _handle(self, peer: transport.PublicKey, method: int, body: bytes) -> bytes:
        if self.gossip is None:
            raise transport.RequestRefused("this node is still starting")
        return await self.gossip.answer(method, body, peer=peer)

    # --- life ----------------------------------------------------------------------------------------------------------------------

    async def _live(self, nursery: trio.Nursery) -> None:
        """From nothing to a full part of the network; then until cancelled."""
        early: dict[bytes, transport.FrameReceived] = {}
        genesis = await self._network(early)
        assert self.store is not None
        gossip = self.gossip = self._make_gossip(genesis, self.store)
        self.twins = Twins(committee=gossip.committee, found=self._found_twin, log=self.log)
        gossip.on_twin, gossip.on_reach = self.twins.seen, self._tell_reach
        for frame in early.values():
            await gossip.frame(frame)
        gossip.tend_links()
        nursery.start_soon(gossip.listen_forever, self._hear, self.failures)
        nursery.start_soon(self._keep_book, self.store)
        text = await texts.bring_corpus(self.swarm, self.blobs, genesis, self.log)
        self.tokenizer = await texts.bring_tokenizer(self.swarm, self.blobs, genesis, self.log)
        model = await founding.bring_first_model(self.swarm, self.blobs, genesis, self.log)
        make = partial(self._make_trainer, genesis, text, model)
        trainer, first_model = await in_thread(make, abandon_on_cancel=True)
        if self.bound is not None:
            await in_thread(self.store.put_note, "port", self.bound.port.to_bytes(2, "big"))
        if self.store.note("public_key") is None:  # so that a damaged key file is known as one
            await in_thread(self.store.put_note, "public_key", bytes(self.identity.public_key))
        catchup = self.catchup = CatchUp(
            genesis=genesis,
            store=self.store,
            blobs=self.blobs,
            gossip=gossip,
            log=get_logger(part="catch-up"),
            checkpoint=self.config.checkpoint,
        )
        position = await in_thread(catchup.load, first_model)
        position = await catchup.reach(position, patient=bool(self.config.bootstrap))
        rounds = self.rounds = self._make_rounds(genesis, trainer, position)
        while self.early:
            rounds.heard(self.early.popleft())
        driver = self.driver = rounds.driver = await in_thread(partial(self._make_driver, rounds, gossip, catchup))
        await self._hear_of_ourselves(driver, gossip)
        await nursery.start(rounds.run)
        gossip.deliver, gossip.undecided_block = driver.deliver_remote, driver.block
        gossip.on_status, gossip.on_peer = rounds.changed.fire, driver.greet
        await self._resume(rounds, driver)
        seat = self.seat = await self._take_seat(rounds, self.store)
        rounds.begin()
        self.on_ready()
        self.log.info("ready", height=rounds.state.height, role=rounds.role().name.lower())
        self.log.info(f"another machine joins with: {self.view.join_line()}")
        nursery.start_soon(catchup.follow, rounds)
        nursery.start_soon(self._tend_swarm, rounds)
        nursery.start_soon(self._tend_links, gossip)
        nursery.start_soon(seat.run)

    async def _hear_of_ourselves(self, driver: Driver, gossip: Gossip) -> None:
        """What others hold in our name comes before anything that this process could sign."""
        if self.elsewhere is not None:
            driver.key_elsewhere(self.elsewhere)
        await self.twins.hear_first(
            gossip, self.identity.public_key, lambda message: driver.deliver(consensus.MessageReceived(message))
        )

    def _found_twin(self, reason: str) -> None:
        self.elsewhere = reason
        if self.driver is not None:
            self.driver.key_elsewhere(reason)

    async def _network(self, early: dict[bytes, transport.FrameReceived]) -> Genesis:
        """The genesis, from the home or from the first peer; once had, it is kept. ``early`` takes what peers said of themselves."""
        if self.genesis is None:
            self.log.info("joining", bootstrap=[str(e) for e in self.config.bootstrap])
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._drain, early)
                genesis = await founding.join(self.swarm, self.config, self.log)
                nursery.cancel_scope.cancel()
            founding.write_genesis(self.home, genesis)
            self.genesis = genesis
        else:
            genesis = self.genesis
        if self.store is None:
            self.store = self._open_store(genesis)
        return genesis

    def _open_store(self, genesis: Genesis) -> Store:
        """The chain file; a chain without a vote log means that the log was lost, and with it what this node signed."""
        store = Store(self.home.chain, genesis.chain_id)
        recovered = recover(self.home.votes)
        self.votes_lost = recovered.lost or (store.height() > 0 and not recovered.begun)
        restored = restore_decisions(self.home.votes, store, consensus.Digest(genesis.chain_id))
        if restored:
            self.log.info("decisions taken from the vote log", heights=restored)
        store.make_durable()  # what a killed process left is seen, and may not be on the disk yet
        return store

    async def _drain(self, early: dict[bytes, transport.FrameReceived]) -> None:
        """Before there is a network, little that the swarm hears is of use; unread, it would hold the connections up.

        Where each peer stands is kept: it says so when it connects, and again only when that has changed.
        """
        async for event in self.swarm.events:
            match event:
                case transport.BootstrapFailed():
                    self.failures[event.address] = event.reason
                case transport.FrameReceived(kind=FrameKind.STATUS):
                    early[event.peer_key] = event
                case transport.PeerDisconnected():
                    early.pop(event.peer.key, None)
                case transport.ReachabilityChanged():
                    self._tell_reach(event.reach)

    def _make_trainer(self, genesis: Genesis, text: CorpusFile, model: bytes | None) -> tuple[Trainer, Replica]:
        """Torch comes in here, off the event loop: importing it takes seconds."""
        try:
            corpus = texts.open_corpus(genesis, text)
            trainer = self.kit.trainer(
                genesis.model,
                genesis.training,
                corpus,
                chain_id=genesis.chain_id,
                author=self.identity.public_key,
                device=self.config.device,
                precision=self.config.precision,
                compiled=self.config.compiled,
                threads=self.config.threads or 1,
            )
        except ModelError as problem:
            raise SetUpError(f"cannot train: {problem.message}", problem.hint) from None
        except (RuntimeError, MemoryError) as problem:
            raise SetUpError(
                f"cannot train: {problem}", "check --device; p2pnode start --no-train follows without training"
            ) from None
        state_file = self._trainer_file()
        if state_file.exists():
            try:
                trainer.restore(state_file)
            except SnapshotError as problem:
                self.log.warning("trainer starts anew", reason=problem.message)
        first_model = founding.first_model(genesis, model)
        if first_model is None or self.blobs.model_root(first_model) != genesis.model_root:
            raise SetUpError(
                "this machine draws another first model than the genesis names",
                "it cannot take part; report the processor and the version of numpy",
            )
        return trainer, first_model

    def _make_gossip(self, genesis: Genesis, store: Store) -> Gossip:
        founders = genesis.state().membership.current
        return self.kit.gossip(
            identity=self.identity,
            swarm=self.swarm,
            genesis=genesis,
            store=store,
            blobs=self.blobs,
            committee=lambda: self.rounds.state.membership.current if self.rounds is not None else founders,
            log=get_logger(part="gossip"),
        )

    def _make_rounds(self, genesis: Genesis, trainer: Trainer, position: Position) -> Rounds:
        assert self.gossip is not None and self.store is not None
        parts = Parts(
            genesis=genesis,
            me=self.identity.public_key,
            trainer=trainer,
            store=self.store,
            blobs=self.blobs,
            gossip=self.gossip,
            worker=self.worker,
            delays=self.delays,
            log=get_logger(part="rounds"),
            layout=Layout.of(genesis.model),
            trainer_file=self._trainer_file(),
        )
        return self.kit.rounds(parts, position=position, training=self.training)

    async def _take_seat(self, rounds: Rounds, store: Store) -> Seat:
        """A node that left trains no more until it is told to, by name."""
        log, token = get_logger(part="seat"), self.config.invite
        seat = Seat(identity=self.identity, rounds=rounds, store=store, log=log, token=token)
        if self.config.train and self.config.given("train") and not seat.is_leaving:
            await seat.come_back()
        self.training.on = self.training.on and not seat.has_left
        return seat

    def _make_driver(self, rounds: Rounds, gossip: Gossip, catchup: CatchUp) -> Driver:
        members, statuses = rounds.state.membership.current, gossip.statuses.items()
        # The highest that some honest member claims: a stranger's word must not silence this node for ever.
        claims = sorted((status.height for peer, status in statuses if peer in members), reverse=True)
        claimed = claims[members.blocking() - 1] if len(claims) >= members.blocking() else 0
        assert self.store is not None
        me, begun = consensus.PublicKey(self.identity.public_key), recover(self.home.votes).begun
        standing = Standing(
            me=me,
            state=lambda: rounds.state,
            height_seen=max(rounds.state.height, catchup.chain.height, claimed),
            lost=self.votes_lost or (not begun and chain_shows(self.store, me)),
        )
        recovery = take_up(self.home.votes, standing, gossip=gossip, log=self.log)
        self.vote_log, self.logged = recovery.vote_log, recovery.records
        return self.kit.driver(
            engine=recovery.engine,
            observer=recovery.observer,
            vote_log=recovery.vote_log,
            voice=gossip,
            duties=rounds,
            delays=self.delays,
            log=get_logger(part="driver"),
            revival=recovery.revival,
        )

    async def _resume(self, rounds: Rounds, driver: Driver) -> None:
        """Say again what was signed for the open height, and nothing else; show the engine the evidence on disk."""
        assert self.store is not None
        chain_id, first = rounds.state.chain_id, rounds.state.height + 1
        for contribution in logged_contributions(self.logged, chain_id, first=first):
            await rounds.offering.restore(contribution)
        for proof in self.store.evidence_proofs():
            driver.deliver(consensus.EvidenceReceived(consensus.Evidence.decode(proof)))

    def _hear(self, message: consensus.Message) -> None:
        """What is said while this node is still starting is not said again: the transport takes a copy within a second for an echo."""
        if isinstance(message, consensus.Contribution):
            if self.rounds is not None:
                self.rounds.heard(message)
            else:
                self.early.append(message)

    async def _tend_swarm(self, rounds: Rounds) -> None:
        """Whom to dial, and how eagerly, follows the committee; round trips go to the engine's timeouts."""
        while True:
            members = rounds.state.membership.current
            trips = [p.rtt_seconds for p in self.swarm.peers() if p.key in members and p.rtt_seconds is not None]
            steps = rounds.parts.gossip.steps_to(members.quorum())
            self.delays.note_round_trips(trips, needed=members.quorum() - 1, steps=steps)
            rounds.parts.gossip.tend_links()
            with trio.move_on_after(TEND_SECONDS):
                await rounds.changed.wait()
            await trio.sleep(TEND_SECONDS)

    async def _keep_book(self, store: Store) -> None:
        """The address book goes to disk now and then: often at first, for a young node knows little and is soon restarted."""
        pause = TEND_SECONDS
        while True:
            await trio.sleep(pause)
            await in_thread(self._save_book, store, self.swarm.saved_book())
            pause = min(2 * pause, BOOK_SECONDS)

    def _save_book(self, store: Store, book: Callable[[], bytes]) -> None:
        saved = book()
        if saved != store.note("peers"):
            store.put_note("peers", saved)

    async def _tend_links(self, gossip: Gossip) -> None:
        """Who hears whom is looked at again and again: a link that is cut says nothing."""
        while True:
            gossip.tell_links()
            self.swarm.quorum(self.view.has_quorum())
            await trio.sleep(LINKS_SECONDS)

    def _tell_reach(self, _: transport.Reach) -> None:
        self.log.info(f"reachable: {self.view.reachable()['text']}")

    def bootstrap_failure(self) -> str | None:
        """Why no bootstrap address answers, while none does."""
        return next((f"cannot reach {address}: {why}; trying again" for address, why in self.failures.items()), None)

    async def _watch_signals(self) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                for line in self.view.farewell():
                    self.log.info(line)
                self.stopping.set()

    async def _show(self) -> None:
        """The line that another machine joins with, and the REPL where there is a terminal."""
        self.log.info("listening", address=str(self.bound), node=self.identity.node_id, home=str(self.home))
        self.log.info(f"operators: {cuda_ext.status().what}")
        if self.config.opens_repl:
            await run_repl_in_thread(Client(self.home), on_quit=self.stopping.set)

    def _close(self) -> None:
        """Everything agreed is on disk already; the trainer's own state is saved if that is quick."""
        self.training.on = False
        self.generations.close()
        rounds = self.rounds
        last = partial(rounds.parts.trainer.save, self._trainer_file()) if rounds is not None else lambda: None
        done = self.worker.finish(last, timeout_seconds=SHUTDOWN_SECONDS_MAX)
        self.log.info("stopped", trainer_saved=done and rounds is not None)
        if self.store is not None:
            self.store.close()
        if self.driver is not None:
            self.vote_log.close()

    def _trainer_file(self) -> Path:
        self.home.trainer.mkdir(mode=0o700, exist_ok=True)
        return self.home.trainer / "state.safetensors"
