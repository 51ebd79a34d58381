"""A voice that also moves one large blob when it is told to, as a joiner would: from its donor's disk, each leaf verified, into a file.

The order stands in a file of the node's home, and so does the answer; ``transfer`` writes and reads them. `start` cannot reach it.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import trio

import consensus
import transport
from p2pnode.gossip import Gossip
from transport.machine import in_thread

ORDER, ANSWER = "order.json", "answer.json"
LOOK_SECONDS = 0.1


class Mover(Gossip):
    home: ClassVar[Path]

    async def listen_forever(
        self, hear: Callable[[consensus.Message], None], failures: dict[transport.Address, str]
    ) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._obey)
            await super().listen_forever(hear, failures)

    async def _obey(self) -> None:
        """One order, and its answer."""
        path = self.home / ORDER
        while not path.exists():  # noqa: ASYNC110 - another process makes it
            await trio.sleep(LOOK_SECONDS)
        order = json.loads(await in_thread(path.read_text))
        answer = await (self._make(order["make"]) if "make" in order else self._fetch(order))
        await in_thread(write, self.home / ANSWER, answer)

    async def _make(self, size: int) -> dict[str, Any]:
        digest = await in_thread(lambda: self._blobs.put(np.random.default_rng(size).bytes(size)))
        return {"digest": digest.hex(), "bytes": size, "holder": self._me.hex()}

    async def _fetch(self, order: dict[str, Any]) -> dict[str, Any]:
        blob = self._blobs.arriving(bytes.fromhex(order["digest"]), order["bytes"])
        await in_thread(blob.open)
        began = trio.current_time()
        is_whole = await self.fetch_file(blob, [bytes.fromhex(order["holder"])])
        return {"seconds": trio.current_time() - began, "is_whole": is_whole}


def write(path: Path, said: dict[str, Any]) -> None:
    """Whole or not at all: the other process looks all the time."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(said))
    part.replace(path)
