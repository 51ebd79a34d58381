"""hivemind's side of the comparison: the same number of peers and values, in hivemind's own environment, on demand.

What is compared: our whole round (a contribution drawn, compressed, announced, fetched by all, voted on twice, the new model computed
and hashed by all, everything durable) with hivemind's averaging alone, from the moment when its peers have found one another. That is
hivemind at its best; the figure with matchmaking stands beside it.
"""

import json
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from p2pnode.errors import UserError

PEERS = Path(__file__).with_name("hivemind_peers.py")
ANSWER_SECONDS_MAX = 120.0

Json = dict[str, Any]


class Rival:
    """Peers of hivemind in one process tree; made by ``open_rival``."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._read = b""
        self.version = ""

    async def ready(self) -> None:
        self.version = (await self._answer())["version"]

    async def rounds(self, count: int) -> list[Json]:
        """So many rounds, one after the other. Raises UserError when one fails."""
        assert self._process.stdin is not None
        answers = []
        for _ in range(count):
            await self._process.stdin.send_all(b"\n")
            answers.append(await self._answer())
        return answers

    async def _answer(self) -> Json:
        assert self._process.stdout is not None
        with trio.move_on_after(ANSWER_SECONDS_MAX):
            while b"\n" not in self._read:
                chunk = await self._process.stdout.receive_some()
                if not chunk:
                    raise UserError(
                        "hivemind's peers ended by themselves", "run p2pnode/bench/hivemind_peers.py by hand"
                    )
                self._read += chunk
            line, _, self._read = self._read.partition(b"\n")
            answer: Json = json.loads(line)
            if "failed" in answer:
                raise UserError(f"a round of hivemind failed: {answer['failed']}")
            return answer
        raise UserError(f"hivemind's peers did not answer within {ANSWER_SECONDS_MAX:.0f} seconds")


@asynccontextmanager
async def open_rival(python: Path, *, peers: int, values: int) -> AsyncIterator[Rival]:
    """Start hivemind's peers; at the end they and the daemons that they started are gone."""
    process = await trio.lowlevel.open_process(
        [str(python), str(PEERS), str(peers), str(values)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    rival = Rival(process)
    try:
        await rival.ready()
        yield rival
    finally:
        with trio.CancelScope(shield=True):
            await _end(process)


async def _end(process: trio.Process) -> None:
    """Its daemons outlive it when it is not given the time to end them, so the whole session goes."""
    assert process.stdin is not None
    await process.stdin.aclose()
    with trio.move_on_after(10):
        await process.wait()
    try:
        os.killpg(process.pid, 9)
    except ProcessLookupError:
        pass
    await process.wait()
