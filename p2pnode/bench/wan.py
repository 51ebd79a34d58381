"""A committee spread over a wide-area network, simulated: real engines, drawn delays, and what each message costs a processor.

What it is: the time from a proposal to the last member's decision, heights one after the other, nobody faulty. Each node has one core, on
which every message queues for what ``costs`` measured, signatures and the engine's own time included; a disk, whose flush stands between
a record and the message after it; and one uplink for bulk. Votes go to everybody and once more along the ring, as in ``relay``.

What it is not: the search for faults (``p2pnode.simulation``), or the real network (``network``).
"""

import heapq
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import consensus
from p2pnode.bench.costs import Costs
from p2pnode.bench.quorums import Wan, decided_last
from p2pnode.simulation.keys import KeyedSignatures, key
from p2pnode.simulation.ledger import block_on, contribution, genesis
from transport import LEAF_BYTES
from transport.spread import frame_bytes, is_worth_it, relays, ring

REST_SECONDS = 1.0  # between two heights, so that none pays for the one before
UPLINK_BYTES_PER_SECOND = 125_000_000.0  # 1 Gbit/s
ENVELOPE_BYTES = 128  # author, signature, lengths and the frame, around statement and attachment


@dataclass(frozen=True, slots=True)
class Question:
    """``body_bytes``: a payload that the proposer begins to send when it proposes, and that everybody needs before PREPARE."""

    nodes: int
    wan: Wan
    heights: int
    seed: int = 0
    body_bytes: int = 0
    sync_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Answer:
    """One entry a height: seconds until the last member decided, and what quorum waits alone would take on the same links.

    Messages and bytes are those of all nodes until then; what repeats itself while nothing happens is not counted.
    """

    seconds: tuple[float, ...]
    limit_seconds: tuple[float, ...]
    messages_per_height: float
    bytes_per_height: float
    views_max: int


@dataclass(slots=True)
class _Node:
    index: int
    engine: consensus.Engine
    core_free: float = 0.0
    uplink_free: float = 0.0
    verified: int = 0
    signed: int = 0
    heard: set[bytes] = field(default_factory=set)
    leaves: set[int] = field(default_factory=set)
    waiting: consensus.CheckBlock | None = None


class _Run:
    def __init__(self, question: Question, costs: Costs) -> None:
        self.question = question
        self.costs = costs
        self.delays = question.wan.draw(question.nodes, question.seed)
        self.signatures = KeyedSignatures()
        self.state = genesis(question.nodes)
        self.nodes = [self._node(index) for index in range(question.nodes)]
        self.messages = self.bytes = 0
        self.views_max = 0
        self.decided: dict[int, float] = {}
        self.leaf_count = -(-question.body_bytes // LEAF_BYTES)
        self._queue: list[tuple[float, int, Callable[[float], None]]] = []
        self._sequence = 0

    def _node(self, index: int) -> _Node:
        def verify(author: bytes, statement: bytes, signature: bytes) -> bool:
            node.verified += 1
            return self.signatures.verify(consensus.PublicKey(author), statement, consensus.Signature(signature))

        def sign(statement: bytes) -> consensus.Signature:
            node.signed += 1
            return self.signatures.signer(key(index))(statement)

        engine = consensus.Engine(me=key(index), sign=sign, verify=verify, state=self.state)
        node = _Node(index, engine)
        return node

    # --- time ---------------------------------------------------------------------------------------------------------------------

    def at(self, moment: float, call: Callable[[float], None]) -> None:
        self._sequence += 1
        heapq.heappush(self._queue, (moment, self._sequence, call))

    def height(self, height: int, begin: float) -> tuple[float, float]:
        """From ``begin`` until everybody decided: (seconds, the limit's seconds)."""
        while self._queue and self._queue[0][0] < begin:  # what the height before left behind, repetitions and all
            now, _, call = heapq.heappop(self._queue)
            call(now)
        self.decided.clear()
        self.messages = self.bytes = 0
        proposer = self.state.membership.current.proposer(height, 0)
        index = next(node.index for node in self.nodes if key(node.index) == proposer)
        for node in self.nodes:
            node.heard.clear()
            node.leaves.clear()
        self.at(begin, partial(self._begin, self.nodes[index], height))
        now = begin
        while len(self.decided) < len(self.nodes):
            now, _, call = heapq.heappop(self._queue)
            call(now)
        quorum = self.state.membership.current.quorum()
        self.state = self.nodes[index].engine.state
        return max(self.decided.values()) - begin, decided_last(self.delays, proposer=index, quorum=quorum)

    def _begin(self, node: _Node, height: int, now: float) -> None:
        node.leaves = set(range(self.leaf_count))
        self._offer(node, now)
        self._step(node, consensus.StartHeight(height), now)

    # --- one core ---------------------------------------------------------------------------------------------------------------------

    def _work(self, node: _Node, now: float, seconds: float) -> float:
        node.core_free = max(node.core_free, now) + seconds
        return node.core_free

    def _step(self, node: _Node, event: consensus.Event, now: float) -> None:
        """The engine takes one event; its effects follow in order, each when the core and the disk have come to it."""
        node.verified = node.signed = 0
        began = time.thread_time()
        effects = node.engine.step(event)
        spent = time.thread_time() - began
        signatures = node.verified * self.costs.verify_seconds + node.signed * self.costs.sign_seconds
        moment = self._work(node, now, spent + signatures)
        unsynced = False
        for effect in effects:
            if isinstance(effect, consensus.Persist):
                unsynced = True
                continue
            if unsynced:
                moment, unsynced = moment + self.question.sync_seconds, False
            moment = self._carry_out(node, effect, moment)

    def _carry_out(self, node: _Node, effect: consensus.Effect, now: float) -> float:
        match effect:
            case consensus.Broadcast(message=message):
                self.views_max = max(self.views_max, getattr(message, "view", 0))
                return self._send_all(node, message, now)
            case consensus.SetTimer(timer=timer, seconds=seconds):
                self.at(now + seconds, partial(self._step, node, consensus.TimerFired(timer)))
            case consensus.BuildBlock():
                offered = [contribution(self.signatures, node.index, effect.template.state)] if self.leaf_count else []
                block = block_on(effect.template, offered)
                self.at(now, partial(self._step, node, consensus.BlockBuilt(effect.height, effect.view, block)))
            case consensus.CheckBlock():
                node.waiting = effect
                self._answer(node, now)
            case consensus.HeightWanted(height=height):
                self.at(now, partial(self._step, node, consensus.StartHeight(height)))
            case consensus.Decide():
                self.decided[node.index] = now
            case consensus.BroadcastCertificate(certificate=certificate):
                self._send_certificate(node, certificate, now)
            case _:
                pass
        return now

    # --- messages --------------------------------------------------------------------------------------------------------------------

    def _send_all(self, node: _Node, message: consensus.Message, now: float) -> float:
        name = message.signature
        size = len(message.statement(self.state.chain_id)) + len(message.attachment()) + ENVELOPE_BYTES
        node.heard.add(name)
        for target in self.nodes:
            if target is not node:
                now = self._send(node, target, message, size, now)
        return now

    def _send(self, node: _Node, target: _Node, message: consensus.Message, size: int, now: float) -> float:
        sent = self._work(node, now, (self.costs.message_seconds - self.costs.verify_seconds) / 2)
        self.messages += 1
        self.bytes += size
        arrives = sent + size / UPLINK_BYTES_PER_SECOND + self.delays[node.index][target.index]
        self.at(arrives, partial(self._receive, target, node, message, size))
        return sent

    def _receive(self, node: _Node, source: _Node, message: consensus.Message, size: int, now: float) -> None:
        if message.signature in node.heard:
            self._work(node, now, self.costs.known_seconds)
            return
        node.heard.add(message.signature)
        moment = self._work(node, now, (self.costs.message_seconds + self.costs.verify_seconds) / 2)
        successor = self.nodes[(node.index + 1) % len(self.nodes)]
        if message.author not in (key(successor.index), key(node.index)) and successor is not source:
            self._send(node, successor, message, size, moment)
        self._step(node, consensus.MessageReceived(message), moment)

    def _send_certificate(self, node: _Node, certificate: consensus.Certificate, now: float) -> None:
        for target in self.nodes:
            if target is not node:
                event = consensus.CertificateReceived(certificate)
                self.messages += 1
                self.bytes += len(certificate.encode())
                self.at(now + self.delays[node.index][target.index], partial(self._step, target, event))

    # --- bulk ------------------------------------------------------------------------------------------------------------------------

    def _offer(self, author: _Node, now: float) -> None:
        """A large committee is sent each piece once, and passes it on; a small one hears of the body and asks for it."""
        others = ring([key(node.index) for node in self.nodes], key(author.index))
        nodes = {key(node.index): node for node in self.nodes}
        if is_worth_it(len(self.nodes), self.question.body_bytes):
            for leaf, relay in enumerate(relays(others, self.leaf_count, linked=lambda _: True)):
                self._send_leaf(author, nodes[relay or others[0]], leaf, now, pass_on=True)
            return
        for target in (nodes[other] for other in others):
            asked = now + self.delays[author.index][target.index] + self.delays[target.index][author.index]
            self.at(asked, partial(self._serve, author, target))

    def _serve(self, author: _Node, target: _Node, now: float) -> None:
        for leaf in range(self.leaf_count):
            self._send_leaf(author, target, leaf, now, pass_on=False)

    def _send_leaf(self, node: _Node, target: _Node, leaf: int, now: float, *, pass_on: bool) -> None:
        size = frame_bytes(leaf, self.question.body_bytes)
        ready = self._work(node, now, size * self.costs.byte_seconds / 2)
        node.uplink_free = max(node.uplink_free, ready) + size / UPLINK_BYTES_PER_SECOND
        self.messages += 1
        self.bytes += size
        arrives = node.uplink_free + self.delays[node.index][target.index]
        self.at(arrives, partial(self._take_leaf, target, node, leaf, pass_on))

    def _take_leaf(self, node: _Node, author: _Node, leaf: int, pass_on: bool, now: float) -> None:
        moment = self._work(node, now, frame_bytes(leaf, self.question.body_bytes) * self.costs.byte_seconds / 2)
        node.leaves.add(leaf)
        if pass_on:
            for target in self.nodes:
                if target is not node and target is not author:
                    self._send_leaf(node, target, leaf, moment, pass_on=False)
        self._answer(node, moment)

    def _answer(self, node: _Node, now: float) -> None:
        """The verdict on a proposal, once every byte is here."""
        if node.waiting is not None and len(node.leaves) == self.leaf_count:
            checked = consensus.BlockChecked(node.waiting.block.hash, True)
            node.waiting = None
            self.at(now, partial(self._step, node, checked))


def ask(question: Question, costs: Costs) -> Answer:
    """Run the heights; deterministic but for the processor time of the engine, which is taken as it comes."""
    run = _Run(question, costs)
    begin, seconds, limits, messages, sent_bytes = 0.0, [], [], 0, 0
    for height in range(1, question.heights + 1):
        took, limit = run.height(height, begin)
        seconds.append(took)
        limits.append(limit)
        messages, sent_bytes = messages + run.messages, sent_bytes + run.bytes
        begin += took + REST_SECONDS
    per_height = (messages / question.heights, sent_bytes / question.heights)
    return Answer(tuple(seconds), tuple(limits), *per_height, views_max=run.views_max)
