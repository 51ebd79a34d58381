"""A Byzantine node, for ``localnet --byzantine``: an honest node of which one part lies.

``python -m p2pnode.attacks --home HOME --attack NAME [flags of start]``. Nothing that ``start`` runs imports this module.

    equivocate   shows each proposal and vote to half of the members, and a contradicting one to the rest
    bad-root     proposes blocks whose model root is wrong
    hollow       proposes heights that list nobody, at once, while everybody is still learning
    huge         contributes the largest values that the codec can carry, against the direction of learning
    silent       follows everything and never says anything that is signed
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

import consensus
from model import compression
from model.layout import Layout
from model.replica import Replica
from model.trainer import Trainer, Update
from p2pnode import node
from p2pnode.cli import launch
from p2pnode.config import load_config
from p2pnode.errors import UserError, render_error, user_error
from p2pnode.gossip import Gossip
from p2pnode.interrupting import leave_at_once
from p2pnode.rounds import Rounds

Lie = TypeVar("Lie", consensus.Prepare, consensus.Commit, consensus.Proposal)


class EquivocatingGossip(Gossip):
    """Two contradicting messages, one to each half of the peers."""

    def broadcast(self, message: consensus.Message) -> None:
        other = self._contradiction(message)
        if other is None:
            super().broadcast(message)
            return
        peers = sorted(self.connected())
        self.send(peers[: len(peers) // 2], message)
        self.send(peers[len(peers) // 2 :], other)

    def _contradiction(self, message: consensus.Message) -> consensus.Message | None:
        match message:
            case consensus.Prepare():
                return self._signed(replace(message, block_hash=another(message.block_hash), valid_view=-1))
            case consensus.Commit():
                return self._signed(replace(message, block_hash=another(message.block_hash)))
            case consensus.Proposal():
                header = replace(message.block.header, model_root=consensus.Digest(b"\2" * 32))
                return self._signed(replace(message, block=replace(message.block, header=header), certificate=None))
            case _:
                return None

    def _signed(self, message: Lie) -> Lie:
        return replace(message, signature=self.sign(message.statement(self._chain_id)))


def another(block_hash: consensus.Digest) -> consensus.Digest:
    """Any vote that contradicts one for ``block_hash``."""
    return consensus.NIL if block_hash != consensus.NIL else consensus.Digest(b"\1" * 32)


class SilentGossip(Gossip):
    """Says nothing that carries its signature."""

    def broadcast(self, message: consensus.Message) -> None:
        pass

    def broadcast_certificate(self, certificate: consensus.Certificate) -> None:
        pass

    def send(self, to: Sequence[bytes], message: consensus.Message) -> None:
        pass

    def tell(self, peer: bytes, things: Sequence[consensus.Message | consensus.Certificate]) -> None:
        pass


class BadRootRounds(Rounds):
    """Names another model than the one that its contributions lead to."""

    async def build(self, request: consensus.BuildBlock) -> consensus.Block | None:
        block = await super().build(request)
        if block is None or not block.contributions:
            return block
        return consensus.build_block(
            request.template, contributions=block.contributions, model_root=consensus.Digest(b"\3" * 32)
        )


class HollowRounds(Rounds):
    """Would throw away what everybody is learning, whenever it is its turn."""

    def _start_moment(self) -> float | None:
        honest = super()._start_moment()
        mine = self.state.membership.current.proposer(self.pool.height, 0) == self.parts.me
        return 0.0 if self.synced and self._started < self.pool.height and mine else honest

    async def build(self, request: consensus.BuildBlock) -> consensus.Block | None:
        return consensus.build_block(request.template, contributions=(), model_root=self.state.model_root)


class HugeTrainer(Trainer):
    """The longest step in the wrong direction that the codec can carry."""

    def learn(self, replica: Replica, height: int, **keywords: Callable[..., Any]) -> Update | None:
        update = super().learn(replica, height, **keywords)
        if update is None:
            return None
        layout = Layout.of(self.config)
        honest = compression.dequantize(compression.decode(update.payload, layout))
        return replace(update, payload=compression.encode((-np.sign(honest)).astype(np.float32), layout))


KITS = {
    "equivocate": node.Kit(gossip=EquivocatingGossip),
    "bad-root": node.Kit(rounds=BadRootRounds),
    "hollow": node.Kit(rounds=HollowRounds),
    "huge": node.Kit(trainer=HugeTrainer),
    "silent": node.Kit(gossip=SilentGossip),
}


def main() -> int:
    """Run one Byzantine node until it is stopped; exit codes as ``p2pnode start``."""
    parser = argparse.ArgumentParser(prog="python -m p2pnode.attacks", description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--attack", choices=sorted(KITS), required=True)
    parser.add_argument("--listen")
    parser.add_argument("--bootstrap", action="append", default=[])
    parser.add_argument("--threads", default="1")
    parser.add_argument("--no-train", dest="train", action="store_false")
    given = parser.parse_args()
    try:
        flags = {name: getattr(given, name) for name in ("home", "listen", "bootstrap", "threads", "train")}
        config = load_config({**flags, "bootstrap": tuple(given.bootstrap), "repl": False})
        return launch(config, partial(node.run, kit=KITS[given.attack]))
    except (UserError, OSError, BaseExceptionGroup) as problem:
        shown = user_error(problem)
        if shown is None:
            raise
        sys.stderr.write(render_error(shown) + "\n")
        return int(shown.exit_code)


if __name__ == "__main__":
    leave_at_once(main())
