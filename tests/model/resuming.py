"""Rounds of one node, from the first height or from where a process before this one stopped. Not a test; run by one."""

import hashlib
import json
import sys
from pathlib import Path

import torch

from model.config import ModelConfig, TrainingConfig
from model.data import Corpus
from model.replica import Replica
from model.trainer import Trainer

SIZES = {"width": 32, "layers": 1, "heads": 2, "key_value_heads": 1, "feed_forward": 64, "context": 32}
# What a network may have chosen, by name: of the model, and of its training.
WAYS = {
    "adamw": ({}, {}),
    "sgd": ({}, {"optimizer": "sgd", "inner_rate": "0.05"}),
    "lion": ({}, {"optimizer": "lion", "inner_rate": "0.0003"}),
    "sam": ({}, {"sharpness_radius": "0.05"}),
    "wsd": ({}, {"schedule": "wsd", "schedule_steps": 5, "decay_steps": 2}),
    "int8": ({}, {"quantization": "int8"}),
    "dropout": ({"dropout": "0.2"}, {}),
    "sam and dropout": ({"dropout": "0.2"}, {"sharpness_radius": "0.05"}),
}


def rounds(folder: Path, heights: range) -> dict[str, str]:
    """The digest of each way's last payload."""
    last = {}
    for name, (of_model, of_training) in WAYS.items():
        config = ModelConfig(**SIZES, **of_model)
        training = TrainingConfig(local_steps=2, batch=3, sequence=32, warmup_steps=3, **of_training)
        text = Corpus(b"Whoever was stopped goes on as if nothing had been. " * 400, 32)
        node = Trainer(config, training, text, chain_id=bytes(32), author=bytes(32))
        state, model = folder / f"{name}.state", folder / f"{name}.model"
        if heights.start > 1:
            node.restore(state)
            replica = Replica.load(model)
        else:
            replica = Replica.initial(config, training, seed=1)
        for height in heights:
            update = node.learn(replica, height)
            assert update is not None
            replica = replica.apply([update.payload], [1])
            node.settle(height, True)
            last[name] = hashlib.sha256(update.payload).hexdigest()
        node.save(state)
        replica.save(model, {})
    return last


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.stdout.write(json.dumps(rounds(Path(sys.argv[1]), range(int(sys.argv[2]), int(sys.argv[3])))))
