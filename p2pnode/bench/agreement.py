"""``scripts/bench consensus``: what agreement alone costs, here and on the other side of the world.

    on loopback     four real nodes, the smallest model: StartHeight to decision
    signatures      made and checked in a second, by the library that the votes use
    far apart       simulated (``wan``): committees of up to 100 with one-way delays of 40 +- 25 and of 75 +- 45 ms, against the time
                    that the waits for quorums alone take on the same links; and 100 members with a payload of 1 MB in each block

For editors: figures in, figures out; a slow one is no failure, a height in a later view than 0 is worth a look.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from p2pnode.bench import costs, wan
from p2pnode.bench.quorums import Wan

NEAR, FAR = Wan(0.040, 0.025), Wan(0.075, 0.045)
SIZES = (4, 16, 32, 67, 100)
HEIGHTS = 12
HEIGHTS_LARGE = 5  # from 67 members on: a height of 100 is 40,000 messages
BODY_BYTES = 1 << 20
SYNCS = 60

Json = dict[str, Any]


def far_apart(say: Callable[[str], None]) -> Json:
    """Measure the costs on this machine, then simulate. About a minute."""
    say("costs of a message on this machine")
    measured = costs.measure()
    sync_seconds = flush_seconds()
    rows = []
    for links in (NEAR, FAR):
        for nodes in SIZES:
            say(f"{nodes} members, {links.mean_seconds * 1e3:.0f} ms apart")
            heights = HEIGHTS if nodes < 67 else HEIGHTS_LARGE
            question = wan.Question(nodes=nodes, wan=links, heights=heights, sync_seconds=sync_seconds)
            rows.append(_row(question, wan.ask(question, measured)))
        question = wan.Question(
            nodes=100, wan=links, heights=HEIGHTS_LARGE, sync_seconds=sync_seconds, body_bytes=BODY_BYTES
        )
        say("100 members, blocks of 1 MB")
        rows.append(_row(question, wan.ask(question, measured)))
    return {
        "costs": {**asdict(measured), "sync_seconds": sync_seconds},
        "signatures_per_second": round(1 / measured.sign_seconds),
        "checks_per_second": round(1 / measured.verify_seconds),
        "wan": rows,
    }


def flush_seconds() -> float:
    """The median time that this disk takes to make a vote durable, in a file whose space is there already."""
    with tempfile.TemporaryDirectory(prefix="p2pnode-bench-") as name:
        path = Path(name) / "log"
        path.write_bytes(bytes(1 << 20))
        fd = os.open(path, os.O_RDWR)
        os.fsync(fd)
        took = []
        for turn in range(SYNCS):
            began = time.perf_counter()
            os.pwrite(fd, bytes(300), turn * 300)
            os.fdatasync(fd)
            took.append(time.perf_counter() - began)
        os.close(fd)
    return statistics.median(took)


def _row(question: wan.Question, answer: wan.Answer) -> Json:
    mean, limit = statistics.mean(answer.seconds), statistics.mean(answer.limit_seconds)
    return {
        "nodes": question.nodes,
        "delay_seconds": question.wan.mean_seconds,
        "body_bytes": question.body_bytes,
        "heights": question.heights,
        "seconds_mean": mean,
        "seconds_max": max(answer.seconds),
        "limit_seconds": limit,
        "ratio": mean / limit,
        "messages_per_height": round(answer.messages_per_height),
        "bytes_per_height": round(answer.bytes_per_height),
        "view_max": answer.views_max,
    }


def text(result: Json) -> str:
    lines = [
        f"  {result['signatures_per_second']:,} signatures made, {result['checks_per_second']:,} checked a second by one core",
        f"  one message costs {result['costs']['message_seconds'] * 1e3:.3f} ms of it, both ends together;"
        f" a flush takes {result['costs']['sync_seconds'] * 1e3:.1f} ms",
        f"  {'members':>8}{'one way':>10}{'body':>8}{'mean':>9}{'max':>9}{'limit':>9}{'ratio':>7}{'messages':>10}{'MB':>8}",
    ]
    for row in result["wan"]:
        body = f"{row['body_bytes'] >> 20} MB" if row["body_bytes"] else "-"
        limit = f"{row['limit_seconds'] * 1e3:>6.0f} ms" if not row["body_bytes"] else f"{'':>9}"
        ratio = f"{row['ratio']:>7.2f}" if not row["body_bytes"] else f"{'':>7}"
        lines.append(
            f"  {row['nodes']:>8}{row['delay_seconds'] * 1e3:>7.0f} ms{body:>8}{row['seconds_mean'] * 1e3:>6.0f} ms"
            f"{row['seconds_max'] * 1e3:>6.0f} ms{limit}{ratio}{row['messages_per_height']:>10,}{row['bytes_per_height'] / 1e6:>8.2f}"
        )
    return "\n".join(lines)
