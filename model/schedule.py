"""The inner rate of a step, as a pure function of two counts; the network's `schedule` names its shape.

A node warms up over its own first steps, because its optimizer's memory is empty then, whenever it joins. The fall towards
the end counts the steps of the network, because its nodes must anneal together: a newcomer takes the rate of the others.
"""

import math

from model.config import TrainingConfig


def inner_rate(training: TrainingConfig, *, own_step: int, network_step: int) -> float:
    """`own_step`: this one of the node's life, the first is 1. `network_step`: steps before this one since height 1."""
    return float(training.inner_rate) * _warmup(training, own_step) * annealing(training, network_step)


def annealing(training: TrainingConfig, network_step: int) -> float:
    """The share of the full rate, from 1 down to `rate_floor`."""
    floor = float(training.rate_floor)
    match training.schedule:
        case "constant":  # a network that knows no last round has nothing to anneal towards
            return 1.0
        case "cosine":  # Loshchilov and Hutter 2017, from where a founder's warm-up ends
            done = _share_done(network_step, training.warmup_steps, training.schedule_steps)
            return floor + (1 - floor) * (1 + math.cos(math.pi * done)) / 2
        case "wsd":  # warm-up, stable, decay (Hu et al. 2024); falling by 1 - sqrt (Haegele et al. 2024)
            done = _share_done(network_step, training.schedule_steps - training.decay_steps, training.schedule_steps)
            return floor + (1 - floor) * (1 - math.sqrt(done))
    raise AssertionError(training.schedule)  # the configuration knows no other


def _warmup(training: TrainingConfig, own_step: int) -> float:
    return min(1.0, own_step / training.warmup_steps) if training.warmup_steps else 1.0


def _share_done(step: int, start: int, stop: int) -> float:
    return min(1.0, max(0.0, (step - start) / (stop - start)))
