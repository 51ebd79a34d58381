"""A network of real node processes that are killed for real: at the k-th effect of a life, at any moment, and all at once.

    python -m tests.p2pnode.killing DIRECTORY --kills 200 --seed 7       SIGKILL at random moments
    python -m tests.p2pnode.killing DIRECTORY --boundaries 1:60:1        one node dies at its 1st, 2nd, ... effect, life after life
    python -m tests.p2pnode.killing DIRECTORY --full                     one node's disk runs full: DIRECTORY/node-1 is a small one

What it is: the fourth level of simulation. The nodes are whole, with real disks and sockets; only training is left out, and each writes down
every statement before it sends it, which outlives a kill. In the end nobody may ever have signed two things for one slot or forgotten
a lock, every home must verify with every model computed again, and all must hold one chain. Prints one JSON object; exit 1 if any of this
fails. What it is not: a test that a loss of power is survived, because the kernel keeps what was written (tests of `wal.py` do that).

A node is forked from this process, which has the modules and no threads, so a life costs no import of torch.
"""

import argparse
import json
import os
import random
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import consensus
import transport
from p2pnode import node
from p2pnode.cli import launch
from p2pnode.config import Config, Endpoint
from p2pnode.driver import Driver
from p2pnode.errors import ExitCode, render_error, user_error
from p2pnode.files import FILES, Files
from p2pnode.founding import open_blobs, write_genesis
from p2pnode.gossip import Gossip, message_of
from p2pnode.home import Home
from p2pnode.localnet.processes import free_ports
from p2pnode.rounds import Rounds
from p2pnode.simulation.cluster import IdleTrainer
from p2pnode.verify import Wishes, verify
from p2pnode.vote_records import VoteRecord
from tests.p2pnode.little import TEXT, identities, make_genesis

NODES = 4
PATIENCE_SECONDS = 120.0  # a network that does not move for so long on a busy machine is stuck


# --- a node that dies -----------------------------------------------------------------------------------------------------------------


class Countdown:
    """Of one life: how many effects are left."""

    def __init__(self, left: int) -> None:
        self.left = left

    def boundary(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def make_kit(home: Home, countdown: Countdown, early: bool) -> node.Kit:
    """``early``: a life is counted from its first access to a file, else from the moment that the driver runs."""
    said = os.open(home.path / "said", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    running = early

    def boundary() -> None:
        if running:
            countdown.boundary()

    class DyingDriver(Driver):
        async def run(self) -> None:
            nonlocal running
            running = True
            await super().run()

        async def append(self, *records: VoteRecord) -> bool:
            boundary()
            durable = await super().append(*records)
            boundary()
            return durable

        async def _carry_out(self, effect: consensus.Effect) -> None:
            boundary()
            await super()._carry_out(effect)
            boundary()

    class DyingRounds(Rounds):
        def _become(self, position: Any) -> None:
            boundary()
            super()._become(position)
            boundary()

        async def _keep(self, height: int, round_: dict[str, Any]) -> None:
            boundary()
            await super()._keep(height, round_)
            boundary()

    class SayingGossip(Gossip):
        def broadcast(self, message: consensus.Message) -> None:
            self._write_down(message)
            super().broadcast(message)

        def tell(self, peer: bytes, things: Any) -> None:
            for thing in things:
                if not isinstance(
                    thing, consensus.PrepareCertificate | consensus.CommitCertificate | consensus.ViewCertificate
                ):
                    self._write_down(thing)
            super().tell(peer, things)

        def _write_down(self, message: consensus.Message) -> None:
            envelope = self.envelope(message).encode()
            os.write(said, len(envelope).to_bytes(4, "big") + envelope)

    class DyingFiles(Files):
        pass

    for name in ("create", "write", "sync_data", "sync", "rename", "remove"):
        setattr(DyingFiles, name, _between(getattr(Files, name), boundary))
    FILES.set(DyingFiles())
    return node.Kit(gossip=SayingGossip, rounds=DyingRounds, driver=DyingDriver, trainer=IdleTrainer)  # type: ignore[arg-type]


def _between(operation: Any, boundary: Any) -> Any:
    def call(*args: Any, **named: Any) -> Any:
        boundary()
        result = operation(*args, **named)
        boundary()
        return result

    return call


# --- the network ----------------------------------------------------------------------------------------------------------------------


class Network:
    def __init__(self, directory: Path) -> None:
        self.troubles: list[str] = []
        self.homes: list[Home] = []
        self.lives = 0
        self._pids: dict[int, int] = {}
        self._ports = free_ports(NODES)
        founders = identities(NODES)
        addresses = tuple(f"127.0.0.1:{port}" for port in self._ports)
        self.genesis = make_genesis(founders, addresses=addresses)
        for place, founder in enumerate(founders):
            home = Home(directory / f"node-{place + 1}")
            home.create()
            home.key.touch(0o600)
            home.key.write_text(bytes(founder._key).hex() + "\n")
            write_genesis(home, self.genesis)
            open_blobs(home).put(TEXT)
            self.homes.append(home)

    def start(self, place: int, *, die_after: int = 0, early: bool = False) -> None:
        self.lives += 1
        home = self.homes[place]
        peers = tuple(Endpoint("127.0.0.1", port) for port in self._ports if port != self._ports[place])
        listen = Endpoint("127.0.0.1", self._ports[place])
        config = Config(
            home=home.path, listen=listen, bootstrap=peers, repl=False, threads=1, origins={"listen": "--listen"}
        )
        pid = os.fork()
        if pid:
            self._pids[place] = pid
            return
        code = 70
        try:
            output = os.open(home.path / "output.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            os.dup2(output, 1)
            os.dup2(output, 2)
            kit = make_kit(home, Countdown(die_after), early)
            code = launch(config, lambda home, config: node.run(home, config, kit=kit))
        except BaseException as problem:
            shown = user_error(problem)
            if shown is None:
                sys.excepthook(*sys.exc_info())
            else:
                code = shown.exit_code
                sys.stderr.write(f"{render_error(shown)}\n")
        finally:
            sys.stderr.flush()
            os._exit(code)

    def kill(self, place: int) -> None:
        os.kill(self._pids[place], signal.SIGKILL)
        self.wait(place)

    def wait(self, place: int, *expected: int) -> None:
        """Until it is gone. However it ends but by SIGKILL, in order, or as expected is trouble."""
        _, status = os.waitpid(self._pids.pop(place), 0)
        code = os.waitstatus_to_exitcode(status)
        if code not in (0, -signal.SIGKILL, *expected):
            last = (self.homes[place].path / "output.log").read_text().strip().splitlines()[-1:]
            self.troubles.append(f"node {place + 1} ended with {code}: {' '.join(last)}")

    def gone(self, place: int) -> bool:
        """Whether it has ended by itself."""
        status = Path(f"/proc/{self._pids[place]}/stat").read_text(encoding="ascii")
        return status.rsplit(")", 1)[1].split()[0] == "Z"

    def height(self, place: int) -> int:
        try:
            db = sqlite3.connect(f"{self.homes[place].chain.as_uri()}?mode=ro", uri=True)
            try:
                return int(db.execute("SELECT MAX(height) FROM blocks").fetchone()[0] or 0)
            finally:
                db.close()
        except sqlite3.Error:
            return 0

    def wait_for_height(self, height: int) -> bool:
        """Until everybody is there; a node that ended by itself is trouble, and so is one that stays behind for too long."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not all(self.height(place) >= height for place in self._pids):
            ended = [place for place in self._pids if self.gone(place)]
            if ended or time.monotonic() > deadline:
                heights = [self.height(place) for place in range(NODES)]
                self.troubles.append(
                    f"nobody goes on: heights {heights}, {height} expected, ended by themselves {ended}"
                )
                return False
            time.sleep(0.05)
        return True

    def tip(self) -> int:
        return max(self.height(place) for place in range(NODES))

    def stop(self) -> None:
        for pid in self._pids.values():
            os.kill(pid, signal.SIGTERM)
        for place in list(self._pids):
            self.wait(place)


# --- the two ways to kill, and the judge ----------------------------------------------------------------------------------------------


def kill_at_random(network: Network, kills: int, seed: int) -> None:
    """Mostly one at a time; now and then two, which stops the network, and all, as a loss of power for the whole room would."""
    draw = random.Random(seed)
    done = 0
    while done < kills and not network.troubles:
        time.sleep(draw.uniform(0.0, 0.6))
        count = draw.choices((1, 2, NODES), weights=(8, 2, 1))[0]
        victims = draw.sample(range(NODES), min(count, kills - done))
        for place in victims:
            network.kill(place)
        time.sleep(draw.choice((0.0, draw.uniform(0.0, 0.3))))
        for place in victims:
            network.start(place)
        done += len(victims)
        if draw.random() < 0.2:
            network.wait_for_height(network.tip() + 1)


def kill_at_boundaries(network: Network, boundaries: range, *, early: bool) -> list[int]:
    """Node 1 dies at each of these effects of a life of its own. Returns those that it lived to see."""
    reached = []
    for boundary in boundaries:
        network.kill(0)
        network.start(0, die_after=boundary, early=early)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not network.gone(0) and time.monotonic() < deadline:
            time.sleep(0.01)
        if network.gone(0):
            reached.append(boundary)
        network.kill(0)
        network.start(0)
        if network.troubles or not network.wait_for_height(network.tip() + 1):
            break
    return reached


def fill_the_disk(network: Network) -> list[str]:
    """Node 1 has no room until it ends by itself; then it has, and starts again. Returns its last words."""
    ballast = network.homes[0].path / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not network.gone(0) and time.monotonic() < deadline:
        time.sleep(0.05)
    if not network.gone(0):
        network.troubles.append("a full disk was not noticed")
        return []
    network.wait(0, ExitCode.SET_UP)
    words = (network.homes[0].path / "output.log").read_text().strip().splitlines()[-2:]
    ballast.unlink()
    network.start(0)
    network.wait_for_height(network.tip() + 2)
    return words


def statements(network: Network) -> Iterator[consensus.Message]:
    """Everything that anybody sent in any life; what a kill cut short was not sent."""
    chain_id = consensus.Digest(network.genesis.chain_id)
    for home in network.homes:
        data = (home.path / "said").read_bytes()
        at = 0
        while at + 4 <= len(data):
            end = at + 4 + int.from_bytes(data[at : at + 4], "big")
            if end <= len(data):
                yield message_of(chain_id, transport.Envelope.decode(data[at + 4 : end]))
            at = end


def judge(network: Network) -> dict[str, Any]:
    chain_id = consensus.Digest(network.genesis.chain_id)
    slots: dict[tuple[object, ...], consensus.Message] = {}
    count = 0
    for said in statements(network):
        if isinstance(said, consensus.ViewStatus):
            continue  # obliges to nothing
        count += 1
        slot = (said.author, said.height, said.view, said.kind, getattr(said, "purpose", None))
        other = slots.setdefault(slot, said)
        if other.statement(chain_id) != said.statement(chain_id):
            network.troubles.append(
                f"two statements for one slot: {said.kind.name} of height {said.height}, view {said.view}"
            )
    network.troubles += forgotten_locks(slots.values())
    reports = [verify(home.path, Wishes(replay=True)) for home in network.homes]
    network.troubles += [f"{report.path}: {fault.line()}" for report in reports for fault in report.faults]
    chains = [hashes(home) for home in network.homes]
    lowest = min(map(len, chains))
    if len({tuple(chain[:lowest]) for chain in chains}) != 1:
        network.troubles.append("the nodes hold different chains")
    return {
        "sound": not network.troubles,
        "lives": network.lives,
        "heights": [report.heights for report in reports],
        "replayed": [report.replayed for report in reports],
        "statements": count,
        "troubles": network.troubles,
    }


def forgotten_locks(said: Any) -> Iterator[str]:
    """A COMMIT for a block, and later a PREPARE for another that nothing newer justifies."""
    commits = [m for m in said if isinstance(m, consensus.Commit) and m.block_hash != consensus.NIL]
    prepares: dict[tuple[bytes, int], list[consensus.Prepare]] = {}
    for message in said:
        if isinstance(message, consensus.Prepare) and message.block_hash != consensus.NIL:
            prepares.setdefault((message.author, message.height), []).append(message)
    for commit in commits:
        for prepare in prepares.get((commit.author, commit.height), []):
            if prepare.view > commit.view > prepare.valid_view and prepare.block_hash != commit.block_hash:
                yield f"a lock forgotten at height {commit.height}: view {commit.view}, then view {prepare.view}"


def hashes(home: Home) -> list[bytes]:
    db = sqlite3.connect(home.chain)
    try:
        return [row[0] for row in db.execute("SELECT hash FROM blocks ORDER BY height")]
    finally:
        db.close()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--boundaries", default="")
    parser.add_argument("--early", action="store_true")
    parser.add_argument("--full", action="store_true")
    wanted = parser.parse_args()
    network = Network(wanted.directory)
    for place in range(NODES):
        network.start(place)
    reached: list[int] = []
    words: list[str] = []
    if network.wait_for_height(2):
        if wanted.kills:
            kill_at_random(network, wanted.kills, wanted.seed)
        if wanted.boundaries:
            first, last, step = map(int, wanted.boundaries.split(":"))
            reached = kill_at_boundaries(network, range(first, last + 1, step), early=wanted.early)
        if wanted.full:
            words = fill_the_disk(network)
        if not network.troubles:
            network.wait_for_height(network.tip() + 2)
    network.stop()
    result = judge(network) | {"boundaries": reached, "last_words": words}
    sys.stdout.write(f"{json.dumps(result)}\n")
    return 0 if result["sound"] else 1


if __name__ == "__main__":
    sys.exit(main())
