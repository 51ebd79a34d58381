"""What the operator sees of a node: the answers of the control socket, from memory, at any moment of the node's life.

What it is: read-only descriptions, and the few commands that an operator may give. What it is not: a judge (``health``) or a renderer
(``render``). The names of the fields are a contract; scripts depend on them.
"""

import socket
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

import transport
from consensus import Purpose
from model.errors import GenerationError
from model.generation.settings import Settings
from p2pnode import __version__, health, logs, openness, people
from p2pnode.errors import UserError
from p2pnode.exporting import CertifiedModel, export_model
from p2pnode.generations import AgreedModel
from p2pnode.pool import PROBE_HEIGHTS
from p2pnode.wire import Role
from transport.machine import in_thread

if TYPE_CHECKING:
    from p2pnode.node import Node
    from p2pnode.rounds import Rounds
    from p2pnode.seat import Parting, Seat

Answer = Mapping[str, Any]


class View:
    """A node as its owner sees it (``control.ControlTarget``)."""

    def __init__(self, node: "Node") -> None:
        self._node = node

    # --- reads ---------------------------------------------------------------------------------------------------------------------

    def status(self) -> Answer:
        node, rounds, driver = self._node, self._node.rounds, self._node.driver
        verdict = self.health()
        state = rounds.state if rounds is not None else node.genesis.state() if node.genesis is not None else None
        committee = state.membership.current if state is not None else None
        traffic = node.swarm.statistics()
        training = node.training
        return {
            "verdict": verdict.verdict,
            "reason": verdict.reason,
            "node": node.identity.node_id,
            "name": node.config.name or node.identity.node_id[:12],
            "network": node.genesis.chain_id.hex() if node.genesis is not None else None,
            "role": rounds.role().name.lower() if rounds is not None else "joining",
            "standing": node.seat.standing() if node.seat is not None else None,
            "height": state.height if state is not None else 0,
            "view": driver.engine.view if driver is not None else 0,
            "phase": self._phase(),
            "model_root": state.model_root.hex() if state is not None else None,
            "block": state.block_hash.hex() if state is not None and state.height else None,
            "checkpoint": f"{state.height}:{state.block_hash.hex()}" if state is not None and state.height else None,
            "members": len(committee) if committee is not None else 0,
            "members_reachable": self._members_reachable(),
            "quorum": committee.quorum() if committee is not None else 0,
            "peers": traffic.peers,
            "training": {
                "state": self._training_state(),
                "until_height": training.until_height,
                "step": training.step,
                "left_out": training.left_out,
                "steps": node.genesis.training.local_steps if node.genesis is not None else 0,
            },
            "loss": training.loss,
            "loss_height": training.loss_height or None,
            "loss_unit": f"nats per {'token' if node.genesis is not None and node.genesis.tokenizer else 'byte'}",
            "validation_loss": training.validation_loss,
            "listen": str(node.bound) if node.bound is not None else None,
            "join": self.join_line(),
            "reachable": self.reachable(),
            "bootstrap_failures": {str(address): why for address, why in node.failures.items()},
            "clock_seconds": node.swarm.reach().clock_seconds,
            "version": __version__,
            "parameters": node.genesis.model.parameters if node.genesis is not None else 0,
            "tokens_total": training.tokens,
            "tokens_per_second": training.tokens_per_second,
            "model_flops_utilization": training.utilization,
            "compilation": training.compilation,
            "bytes_sent_total": traffic.bytes_sent,
            "bytes_received_total": traffic.bytes_received,
            "compute_fraction": self._compute_fraction(),
            "evidence": len(self.evidence()),
            "absent": people.absent(state) if state is not None else [],
            "banned": people.banned(state.membership) if state is not None else [],
            "refused": traffic.refused + (driver.counters.refused if driver is not None else 0),
            "uptime_seconds": trio.current_time() - node.started,
            "home": str(node.home),
            "pid": node.pid,
            "device": node.config.device,
            "precision": node.config.precision,
            "threads": node.config.threads or 1,
            "contributions_last": len(rounds.recent[-1]) if rounds is not None and rounds.recent else 0,
            "loop_lag_seconds_p99": node.lag.p99(),
            "loop_lag_seconds_max": node.lag.longest(),
        }

    def peers(self) -> list[Answer]:
        rounds, gossip = self._node.rounds, self._node.gossip
        heights = rounds.listed if rounds is not None else ()
        membership = rounds.state.membership if rounds is not None else None
        listing = []
        for peer in self._node.swarm.peers():
            status = gossip.statuses.get(peer.key) if gossip is not None else None
            listing.append(
                {
                    "node": peer.node_id,
                    "address": str(peer.address),
                    "direction": peer.direction,
                    "role": status.role.name.lower() if status is not None else None,
                    "height": status.height if status is not None else None,
                    "model_root": status.model_root.hex() if status is not None else None,
                    "score": sum(peer.key in listed for listed in heights) / len(heights) if heights else None,
                    "banned_until": people.banned_until(membership, peer.key) if membership is not None else None,
                    "reachable": peer.listens,
                    "rtt_seconds": peer.rtt_seconds,
                }
            )
        return sorted(listing, key=lambda row: str(row["node"]))

    def rounds(self, last: int) -> list[Answer]:
        store = self._node.store
        return list(store.rounds(last)) if store is not None else []

    def trace(self, height: int) -> Answer | None:
        store = self._node.store
        row = store.round(height) if store is not None else None
        return {"height": height, "rows": trace_rows(row)} if row is not None else None

    def log(self, last: int) -> list[Answer]:
        return list(logs.recent(last))

    def evidence(self) -> list[Answer]:
        store = self._node.store
        rows = store.evidence() if store is not None else []
        rounds = self._node.rounds
        membership = rounds.state.membership if rounds is not None else None
        return [
            {
                "node": transport.node_id(key),
                "kind": kind,
                "height": height,
                "view": view,
                "banned_until": people.banned_until(membership, key) if membership is not None else None,
            }
            for key, kind, height, view in rows
        ]

    # --- commands --------------------------------------------------------------------------------------------------------------------

    async def train(self, rounds: int | None, *, since: int | None = None) -> Answer:
        """Contribute, for ever or until ``since`` + N, where ``since`` is the height of the moment unless the caller names one."""
        training = self._node.training
        height = self._running().state.height if since is None else since
        await self._seat().come_back()
        training.on, training.until_height = True, None if rounds is None else height + rounds
        self._told()
        return {"training": self._training_state(), "until_height": training.until_height}

    async def pause(self) -> Answer:
        """Stop contributing, never voting."""
        self._running()
        self._node.training.on = False
        self._told()
        return {"training": self._training_state()}

    async def test(self) -> Answer:
        """Announce a probe of the model's size and wait until a block lists it: the whole path, timed, the model unchanged."""
        rounds = self._running()
        if not self.has_quorum():
            raise UserError(f"no probe now: {self.health().reason}", "p2pnode peers shows who is connected")
        last = rounds.probes.last(self._node.identity.public_key, rounds.state.height + 1)
        if last is not None:
            raise UserError(
                f"test: one probe per {PROBE_HEIGHTS} heights, the last was at height {last}",
                f"try again at height {last + PROBE_HEIGHTS}",
            )
        began = trio.current_time()
        height = await rounds.offering.probe()
        announced = trio.current_time() - began
        with trio.move_on_after(rounds.parts.genesis.round_seconds_max * 2):
            while rounds.state.height < height:
                await rounds.changed.wait()
        row = self._node.store.round(height) if self._node.store is not None else None
        if row is None:
            raise UserError(
                "the probe was not listed in time", "p2pnode status says whether the network makes progress"
            )
        return {
            "height": height,
            "listed": self._node.identity.public_key in rounds.probes.at(height),
            "payload_bytes": rounds.pool_payload_bytes,
            "model_root": row["model_root"],
            "seconds": {"announce": announced, **row["seconds"], "all": trio.current_time() - began},
        }

    async def evaluate(self) -> Answer:
        """Held-out loss of the agreed model, computed once for each model."""
        rounds, training = self._running(), self._node.training
        state, replica = rounds.state, rounds.replica
        if training.validation_root != state.model_root:
            loss = await self._node.worker.run(partial(rounds.parts.trainer.evaluate, replica))
            training.validation_loss, training.validation_root = loss, state.model_root
        return {
            "height": state.height,
            "model_root": state.model_root.hex(),
            "validation_loss": training.validation_loss,
        }

    async def generate(self, prompt: str, settings: Answer) -> Answer:
        """The beginning of a text by the model of this moment, and its number; more is had by that."""
        rounds, tokenizer = self._running(), self._node.tokenizer
        assert tokenizer is not None  # it is here before the rounds are
        try:
            wanted = Settings.from_dict(settings)
        except GenerationError as problem:
            raise UserError(problem.message, problem.hint) from None
        state = rounds.state
        model = AgreedModel(rounds.replica, tokenizer, state.height, state.model_root.hex())
        return await self._node.generations.begin(model, prompt, wanted)

    async def generate_next(self, number: int) -> Answer:
        return await self._node.generations.go_on(number)

    async def generate_end(self, number: int) -> Answer:
        self._node.generations.end(number)
        return {}

    async def invite(self, heights: int | None) -> Answer:
        """A token for one newcomer, and the line with which it is used."""
        token, expiry_height = self._seat().invite(heights)
        return {"token": token, "expiry_height": expiry_height, "join": f"{self.join_line()} --invite {token}"}

    async def export(self, folder: Path) -> Answer:
        """The agreed model of this moment as a folder; rounds go on meanwhile."""
        node, rounds = self._node, self._running()
        assert node.store is not None and node.tokenizer is not None
        model = CertifiedModel(
            genesis=rounds.parts.genesis,
            state=rounds.state,
            replica=rounds.replica,
            tokenizer=node.tokenizer,
            store=node.store,
        )
        return await in_thread(export_model, folder, model)

    def parting(self) -> Answer:
        """What leaving would leave behind."""
        return self._parting(self._seat().parting())

    async def leave(self) -> Answer:
        """Ask the chain to let this node go; ``status`` shows when it has."""
        return self._parting(await self._seat().leave())

    def _parting(self, parting: "Parting") -> Answer:
        return {
            "members": parting.members,
            "remaining": parting.members - 1,
            "needed": parting.needed,
            "faults_tolerated": parting.faults_tolerated,
            "reason": parting.line,
        }

    async def stop(self) -> Answer:
        self._node.stopping.set()
        return {"stopping": True}

    # --- lines and verdicts ------------------------------------------------------------------------------------------------------------

    def join_line(self) -> str | None:
        """The exact line with which another machine joins; ``None`` before this node listens."""
        bound = self._node.bound
        if bound is not None and bound.is_wildcard:
            bound = replace(bound, host=own_host(bound.host))
        address = self._node.config.announce or self._node.swarm.own_address() or bound
        return f"p2pnode start --bootstrap {address}" if address is not None else None

    def reachable(self) -> Answer:
        """Whether others can dial this node, as far as its peers have tried."""
        announce = self._node.config.announce
        announced = None if announce is None else transport.Address(announce.host, announce.port)
        return openness.facts(self._node.swarm.reach(), listen=self._node.bound, announced=announced)

    def farewell(self) -> list[str]:
        """What stopping this node means for the others."""
        rounds = self._node.rounds
        if rounds is None or rounds.role() is not Role.MEMBER or len(rounds.state.membership.current) == 1:
            return []
        remaining, committee = self._members_reachable() - 1, rounds.state.membership.current
        return [
            f"{remaining} of {len(committee)} members remain, {committee.quorum()} needed; p2pnode leave goes for good"
        ]

    def has_quorum(self) -> bool:
        rounds = self._node.rounds
        return rounds is not None and self._members_reachable() >= rounds.state.membership.current.quorum()

    def health(self) -> health.Health:
        node, rounds, driver = self._node, self._node.rounds, self._node.driver
        if rounds is None or driver is None:
            return health.Health(health.DEGRADED, self._starting())
        gossip = rounds.parts.gossip
        committee = rounds.state.membership.current
        tip = node.catchup.likely_tip() if node.catchup is not None else 0
        learning = any(status.learning for status in gossip.statuses.values())
        usual = frozenset[bytes]().union(*rounds.recent) if rounds.recent else frozenset[bytes]()
        return health.judge(
            health.Facts(
                members=len(committee),
                members_reachable=self._members_reachable(),
                quorum=committee.quorum(),
                is_member=rounds.role() is Role.MEMBER,
                cannot_vote=driver.silent,
                elsewhere=driver.elsewhere,
                forked=driver.forked,
                diverged=rounds.diverged,
                syncing=node.catchup.doing if node.catchup is not None else None,
                behind=max(0, tip - rounds.state.height),
                bootstrap_failure=node.bootstrap_failure(),
                peers=len(node.swarm.peers()),
                anybody_training=learning or node.training.wants(rounds.state.height + 1),
                contributors=len(rounds.recent[-1]) if rounds.recent else 0,
                contributors_usual=len(usual),
                standing=node.seat.standing() if node.seat is not None else None,
            )
        )

    def _starting(self) -> str:
        node = self._node
        if node.catchup is not None and node.catchup.doing is not None:
            return node.catchup.doing
        if node.genesis is None:
            failure = node.bootstrap_failure()
            return f"joining: {failure or 'asking the bootstrap peer'}"
        return "starting"

    def _phase(self) -> str:
        """Where the open height stands here: learn, collect, propose, prepare or commit."""
        rounds, driver = self._node.rounds, self._node.driver
        if rounds is None or driver is None or not rounds.synced:
            return "start"
        if not driver.engine.idle:
            return driver.engine.phase
        own = rounds.pool.own(self._node.identity.public_key, Purpose.UPDATE)
        return "collect" if own is not None or not rounds.training.wants(rounds.pool.height) else "learn"

    def _training_state(self) -> str:
        training, rounds = self._node.training, self._node.rounds
        if not training.on:
            return "paused"
        if rounds is None or not rounds.synced:
            return "waiting"
        return "training" if training.wants(rounds.state.height + 1) else "idle"

    def _compute_fraction(self) -> float | None:
        training, rounds = self._node.training, self._node.rounds
        if rounds is None or rounds.timings.first_step is None or rounds.timings.last_decision is None:
            return None
        elapsed = rounds.timings.last_decision - rounds.timings.first_step
        return min(1.0, training.seconds / elapsed) if elapsed > 0 else None

    def _members_reachable(self) -> int:
        rounds = self._node.rounds
        if rounds is None:
            return 0
        return len(rounds.parts.gossip.reachable())

    def _running(self) -> "Rounds":
        rounds = self._node.rounds
        if rounds is None:
            raise UserError("this node is not part of the network yet", self._starting())
        return rounds

    def _seat(self) -> "Seat":
        self._running()
        seat = self._node.seat
        if seat is None:
            raise UserError("this node is still starting", self._starting())
        return seat

    def _told(self) -> None:
        rounds = self._running()
        rounds.tell_status()
        rounds.changed.fire()


def own_host(wildcard: str) -> str:
    """The address that this machine would speak from, for a listener on every interface; nothing is sent to find out."""
    family, somewhere = (socket.AF_INET6, "2001:db8::1") if ":" in wildcard else (socket.AF_INET, "192.0.2.1")
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((somewhere, 9))  # addresses of documentation (RFC 5737, 3849): only a route is looked up
        except OSError:
            return socket.gethostname()
        return str(probe.getsockname()[0])


def trace_rows(row: Mapping[str, Any]) -> list[Answer]:
    """The nine steps of one gradient (the README's table), with what came out of each and how long it took here."""
    seconds = row["seconds"]

    def line(step: str, where: str, value: str, took: str | None) -> Answer:
        return {
            "step": step,
            "where": where,
            "value": value,
            "seconds": seconds.get(took) if took is not None else None,
        }

    loss = f"loss {row['loss']:.4f}" if row["loss"] is not None else "not by this node"
    return [
        line("draw", "model/data", "the batch of (network, height, node)", None),
        line("learn", "model/trainer", loss, "learn"),
        line("shrink", "model/compression", "payload, part of learn", None),
        line("announce", "p2pnode/rounds", "listed" if row["listed"] else "not listed", None),
        line("propose", "p2pnode/rounds", f"{row['contributions']} listed by {row['proposer'][:12]}", "propose"),
        line("prepare", "consensus", f"root {row['model_root'][:16]} recomputed", "fetch_and_check"),
        line("commit", "consensus", f"view {row['view']}", "commit"),
        line("decide", "p2pnode/store", f"block {row['block'][:16]}", "agree"),
        line("apply", "model/outer", f"M({row['height']})", "apply"),
    ]
