"""A node that contributes at once, or nothing: everything is real but the learning.

``python -m p2pnode.bench.quick [--empty] [--moves] --home HOME [flags of start]``. Its trainer has as many pseudo-random values as the model, and
compresses them each time like any update; so a round costs what the exchange, the agreement and the new model cost. With ``--empty`` it
starts each height that it is told to train a moment after the one below is decided, with nothing to list: a round costs agreement alone.
"""

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import trio

from model import compression
from model.config import ModelConfig, TrainingConfig
from model.data import Corpus
from model.layout import Layout
from model.replica import Replica
from model.trainer import Trainer, Update
from p2pnode import node
from p2pnode.bench.mover import Mover
from p2pnode.cli import launch
from p2pnode.config import load_config
from p2pnode.gossip import Gossip
from p2pnode.interrupting import leave_at_once
from p2pnode.offering import Offering
from p2pnode.rounds import Parts, Rounds

PAUSE_SECONDS = 0.05  # between empty heights: what the last one leaves to do, on few cores, is not part of the next


class QuickTrainer(Trainer):
    """Values that were drawn beforehand in place of H local steps. Nothing to keep, no model in torch."""

    def __init__(self, config: ModelConfig, training: TrainingConfig, corpus: Corpus, **given: Any) -> None:
        self.config = config
        self._layout = Layout.of(config)
        drawn = compression.probe(self._layout, seed=int.from_bytes(given["author"][:8], "big"))
        self._values = compression.dequantize(compression.decode(drawn, self._layout))

    def learn(self, replica: Replica, height: int, **_: object) -> Update | None:
        """The first tensor turns by one each time, so that no payload is one that was sent before."""
        began = time.perf_counter()
        first = self._values[: self._layout.tensors[0].count]
        first[:] = np.roll(first, 1)
        payload = compression.encode(self._values, self._layout)
        return Update(payload=payload, loss=0.0, loss_first=0.0, tokens=0, seconds=time.perf_counter() - began)

    def settle(self, height: int, accepted: bool) -> None:
        pass

    def save(self, path: Path) -> None:
        pass


class EmptyHeights(Rounds):
    """Nobody learns, nobody is waited for."""

    def __init__(self, parts: Parts, **given: Any) -> None:
        super().__init__(parts, **given)
        self.offering = NoOffering(self)

    def _start_moment(self) -> float | None:
        height = self.pool.height
        if not self.synced or self._started >= height or not self.training.wants(height):
            return None
        return self.timings.opened + PAUSE_SECONDS


class NoOffering(Offering):
    async def learn_forever(self) -> None:
        await trio.sleep_forever()


def main() -> int:
    """Run until stopped; exit codes as ``p2pnode start``."""
    parser = argparse.ArgumentParser(prog="python -m p2pnode.bench.quick", description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--listen")
    parser.add_argument("--bootstrap", action="append", default=[])
    parser.add_argument("--threads", default="1")
    parser.add_argument("--empty", action="store_true")
    parser.add_argument("--moves", action="store_true", help="a blob, when it is told to (mover)")
    parser.add_argument("--upload-mbit", type=float)
    parser.add_argument("--no-train", dest="train", action="store_false")
    given = vars(parser.parse_args())
    Mover.home = given["home"]
    kit = node.Kit(
        gossip=Mover if given.pop("moves") else Gossip,
        trainer=QuickTrainer,
        rounds=EmptyHeights if given.pop("empty") else Rounds,
    )
    config = load_config({**given, "bootstrap": tuple(given["bootstrap"]), "repl": False})
    return launch(config, partial(node.run, kit=kit))


if __name__ == "__main__":
    leave_at_once(main())
