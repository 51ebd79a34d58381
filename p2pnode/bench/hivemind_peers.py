"""Peers of hivemind that average one vector, for ``rival.py``. Run by the interpreter of hivemind's own environment, never imported.

``python hivemind_peers.py PEERS VALUES``. Each line on standard input asks for one round; each line on standard output answers it with
JSON: seconds from the moment when the last peer has found the group to the moment when the last one has the average, seconds in all, and
whether the groups were whole and the replicas equal. The end of the input ends it.
"""

import json
import sys
import time
from typing import Any

import torch
from hivemind import DHT, DecentralizedAverager, __version__  # type: ignore[import-not-found]  # ours does not have it
from hivemind.averaging.control import AveragingStage  # type: ignore[import-not-found]

MATCHMAKING_SECONDS = (
    2.0  # how long hivemind looks for peers at least; the figures without matchmaking do not contain it
)
STEP_SECONDS_MAX = 60.0


def main() -> None:
    peers, values = int(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    first = DHT(start=True, host_maddrs=["/ip4/127.0.0.1/tcp/0"])
    addresses = first.get_visible_maddrs()
    others = [DHT(initial_peers=addresses, start=True, host_maddrs=["/ip4/127.0.0.1/tcp/0"]) for _ in range(peers - 1)]
    averagers = [
        DecentralizedAverager(
            [torch.randn(values, generator=torch.Generator().manual_seed(index))],
            dht,
            start=True,
            prefix="bench",
            target_group_size=peers,
            min_group_size=peers,
            min_matchmaking_time=MATCHMAKING_SECONDS,
            request_timeout=MATCHMAKING_SECONDS / 2,
        )
        for index, dht in enumerate([first, *others])
    ]
    say({"ready": True, "version": __version__})
    for _ in sys.stdin:
        say(one_round(averagers))
    for averager in averagers:
        averager.shutdown()
    for dht in [first, *others]:
        dht.shutdown()


def one_round(averagers: list[Any]) -> dict[str, Any]:
    """All peers look for a group, wait for one another, and average at once."""
    for index, averager in enumerate(averagers):
        with averager.get_tensors() as tensors:
            tensors[0].copy_(torch.randn(len(tensors[0]), generator=torch.Generator().manual_seed(index)))
    began = time.monotonic()
    steps = [averager.step(wait=False, require_trigger=True, timeout=STEP_SECONDS_MAX) for averager in averagers]
    while not all(step.stage == AveragingStage.AWAITING_TRIGGER for step in steps):
        time.sleep(0.002)
        if any(step.done() for step in steps):
            return {"failed": str([step.exception() for step in steps if step.done()])}
    matched = time.monotonic()
    for step in steps:
        step.allow_allreduce()
    groups = [step.result(timeout=STEP_SECONDS_MAX) for step in steps]
    ended = time.monotonic()
    vectors = []
    for averager in averagers:
        with averager.get_tensors() as tensors:
            vectors.append(tensors[0].clone())
    return {
        "seconds": ended - matched,
        "seconds_with_matchmaking": ended - began,
        "full_group": all(group is not None and len(group) == len(averagers) for group in groups),
        "equal": all(torch.equal(vectors[0], vector) for vector in vectors),
    }


def say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
