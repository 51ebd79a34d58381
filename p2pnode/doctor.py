"""``p2pnode doctor``: what stands in this node's way, one line for each thing that can, and what to do about it.

Home, disk, kernels, clock, port, bootstrap, reachability. A running node is asked for what it has found out itself. Where none runs, a node for a
moment takes its place: with a key of its own, which is forgotten, at the port of the real one; it meets the bootstrap peers, has itself
dialed back and compares clocks. Nothing in the home is changed.

What it is not: a repair, or a check of what was agreed (``p2pnode verify``). For editors: a check is a function that returns a ``Check``;
it never raises for what it is there to find.
"""

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import trio

import transport
from p2pnode import openness
from p2pnode.client import Client
from p2pnode.config import Config, load_config
from p2pnode.errors import NoRunningNode, UserError, user_error, why
from p2pnode.founding import read_genesis
from p2pnode.genesis import Genesis
from p2pnode.home import Home
from p2pnode.logs import get_logger
from p2pnode.render import printable
from transport import Reach, Verdict

MODELS_KEPT = 6  # two snapshots, the trainer's state, and what is on its way
SPARE_BYTES = 1 << 30  # payloads of 20 heights, the chain, logs
FLUSHES = 9  # the middle of so many
FLUSH_SECONDS_MAX = 0.05  # a vote waits for one; a height for three
CLOCK_SECONDS_MAX = 60.0  # the network needs no clock, but a record a day ahead is ignored, and logs must be comparable
MEET_SECONDS_MAX = 20.0  # to reach a bootstrap peer and be dialed back: 3 + 5 + 5 s there, and the same here
OLD_GPU_HINT = "kernels are for sm_80 (Ampere) and later, and for drivers as new as the nvcc that compiled them; the GPU trains without, only slower"
YEAR_2024 = 1_704_067_200.0
OK, ADVICE, WRONG, UNKNOWN = "ok", "advice", "wrong", "unknown"


@dataclass(frozen=True, slots=True)
class Check:
    """``do`` is what helps, empty where nothing needs help. A node runs with an ``ADVICE``, and not with what is ``WRONG``."""

    check: str
    state: str
    what: str
    do: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    checks: tuple[Check, ...]

    @property
    def is_well(self) -> bool:
        return all(check.state != WRONG for check in self.checks)

    def to_dict(self) -> Mapping[str, Any]:
        return {"verdict": OK if self.is_well else WRONG, "checks": [asdict(check) for check in self.checks]}

    def text(self) -> str:
        """One line for each check, and below it what to do."""
        width, states = max(len(check.check) for check in self.checks), max(map(len, (OK, ADVICE, WRONG, UNKNOWN)))
        lines = []
        for check in self.checks:
            lines.append(f"{check.check.ljust(width)}  {check.state.ljust(states)}  {check.what}")
            if check.do:
                lines.append(f"{' ' * (width + states)}    -> {check.do}")
        return "\n".join(map(printable, lines))


def examine(flags: Mapping[str, object]) -> Report:
    """Every check, in the order in which one would put things right. ``flags`` are settings as ``start`` takes them."""
    config = load_config(flags)
    home = Home(config.home)
    try:
        status = Client(home).status()
    except NoRunningNode:
        status = None
    found, home_check = check_home(home)
    checks = [home_check, check_disk(home.path, found.genesis), check_kernels()]
    if status is not None:
        return Report((*checks, *running(status, config)))
    return Report((*checks, *trio.run(partial(meet, config, found.genesis, own_key=found.key))))


# --- the machine ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Found:
    """What a home holds, as far as it can be read."""

    genesis: Genesis | None = None
    key: bytes | None = None


def check_home(home: Home) -> tuple[Found, Check]:
    """Its owner, modes, key and genesis. A home that there is not yet is none that is wrong."""
    if not home.path.exists():
        return Found(), Check("home", OK, f"{home} is not there yet", "p2pnode start makes it")
    try:
        home.create()
        home.check_key_is_here()
        identity = transport.Identity.load(home.key) if home.key.exists() else None
        genesis = read_genesis(home.genesis) if home.initialised else None
    except (UserError, transport.UserError) as problem:
        return Found(), Check("home", WRONG, problem.message, problem.hint)
    who = f"node {identity.node_id[:8]}" if identity is not None else "no key yet"
    network = f"network {genesis.chain_id.hex()[:12]}" if genesis is not None else "no network yet"
    key = identity.public_key if identity is not None else None
    return Found(genesis, key), Check("home", OK, f"{home}: {who}, {network}")


def check_disk(path: Path, genesis: Genesis | None) -> Check:
    """Room for the model, and how long a vote waits until it is on the disk."""
    place = next(parent for parent in (path, *path.parents) if parent.exists())
    needed = SPARE_BYTES + MODELS_KEPT * 4 * (genesis.model.parameters if genesis is not None else 0)
    try:
        free = shutil.disk_usage(place).free
        flush = _flush_seconds(place)
    except OSError as problem:
        return Check("disk", WRONG, f"{place}: {why(problem)}", "check who owns it and its mode, or choose --home")
    facts = f"{free / 1e9:.1f} GB free, a flush takes {flush * 1000:.1f} ms"
    if free < needed:
        return Check("disk", WRONG, facts, f"free {needed / 1e9:.1f} GB in {place}, or choose another --home")
    if flush > FLUSH_SECONDS_MAX:
        return Check(
            "disk", ADVICE, facts, "each vote waits for a flush: put the home on a local disk, not a network's"
        )
    return Check("disk", OK, facts)


def _flush_seconds(place: Path) -> float:
    with tempfile.TemporaryFile(dir=place) as file:
        took = []
        for _ in range(FLUSHES):
            began = time.perf_counter()
            file.write(bytes(256))
            file.flush()
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - began)
    return statistics.median(took)


def check_kernels() -> Check:
    """Whether the model's operators have kernels here. Without them a node trains slower, and that is all."""
    import cuda_ext

    status = cuda_ext.status()
    if status.is_refused:
        return Check("kernels", WRONG, status.what, status.hint)
    if not status.hint and (fallen_back := cuda_ext.gpus_in_plain_torch()):
        return Check("kernels", ADVICE, "; ".join([status.what, *fallen_back]), OLD_GPU_HINT)
    return Check("kernels", ADVICE if status.hint else OK, status.what, status.hint)


def check_clock(ahead_seconds: float | None) -> Check:
    """Against peers' clocks, the middle of those that answered."""
    if time.time() < YEAR_2024:
        return Check("clock", WRONG, f"it says {time.strftime('%Y-%m-%d')}", "set it: timedatectl set-ntp true")
    if ahead_seconds is None:
        return Check("clock", UNKNOWN, f"it says {time.strftime('%Y-%m-%d %H:%M:%S %Z')}; no peer's to compare it with")
    if abs(ahead_seconds) <= CLOCK_SECONDS_MAX:
        return Check("clock", OK, f"{abs(ahead_seconds):.1f} s from the peers'")
    behind = "behind" if ahead_seconds > 0 else "ahead of"
    return Check("clock", WRONG, f"{abs(ahead_seconds):.0f} s {behind} the peers'", "set it: timedatectl set-ntp true")


# --- a node that runs ----------------------------------------------------------------------------------------------------------


def running(status: Mapping[str, Any], config: Config) -> Sequence[Check]:
    """What it says of itself."""
    failures = status["bootstrap_failures"]
    reachable = status["reachable"]
    met = f"{status['peers']} peers" if status["peers"] != 1 else "1 peer"
    return (
        check_clock(status["clock_seconds"]),
        Check("port", OK, f"the node listens on {status['listen']}"),
        check_bootstrap(failures, met if status["peers"] else None, is_named=bool(failures or config.bootstrap)),
        check_reachable(reachable["verdict"], reachable["text"]),
    )


def check_bootstrap(failures: Mapping[str, str], met: str | None, *, is_named: bool) -> Check:
    """Whether anybody of the network is there."""
    if met is not None:
        return Check("bootstrap", OK, f"connected to {met}")
    if not is_named:
        return Check("bootstrap", UNKNOWN, "no address is known", "p2pnode start --bootstrap HOST:PORT joins a network")
    said = ", ".join(f"{address}: {reason}" for address, reason in failures.items())
    return Check(
        "bootstrap", WRONG, said or "nobody answers", "is a node running there, and its port open to this one?"
    )


def check_reachable(verdict: str, text: str) -> Check:
    """From the line that ``status`` shows. Not to be reachable is no fault."""
    match verdict:
        case Verdict.YES:
            return Check("reachable", OK, text)
        case Verdict.NO:
            advice, _, tried = text.removeprefix("no: ").partition(" (")
            return Check("reachable", ADVICE, f"no ({tried}", f"{advice}; the node takes part all the same")
        case _:
            return Check("reachable", UNKNOWN, text.removeprefix("unknown: "))


# --- where none runs -----------------------------------------------------------------------------------------------------------


async def meet(config: Config, genesis: Genesis | None, *, own_key: bytes | None) -> Sequence[Check]:
    """Be a node of the network for a moment."""
    bootstrap = [transport.Address(e.host, e.port) for e in config.bootstrap]
    founders = genesis.founders if genesis is not None else ()
    bootstrap += [transport.Address.parse(f.address) for f in founders if f.address and f.public_key != own_key]
    bootstrap = list(dict.fromkeys(bootstrap))
    listen = transport.Address(config.listen.host, config.listen.port)
    announced = None if config.announce is None else transport.Address(config.announce.host, config.announce.port)
    swarm = transport.Swarm(
        identity=transport.Identity.generate(),
        listen=listen,
        listen_fallback=not config.given("listen"),
        announce=announced,
        bootstrap=bootstrap,
        book=transport.PeerBook(),
        chain_id=None if genesis is None else transport.ChainId(genesis.chain_id),
        handler=_refuse,
        blobs=transport.MemoryBlobs(),
        log=get_logger(part="doctor"),
    )
    failures: dict[str, str] = {}
    try:
        async with trio.open_nursery() as nursery:
            bound = await nursery.start(swarm.run)
            with trio.move_on_after(MEET_SECONDS_MAX if bootstrap else 0):
                await _until_known(swarm, failures, bootstrap)
            reach, peers = swarm.reach(), swarm.peers()
            nursery.cancel_scope.cancel()
    except ExceptionGroup as group:
        problem = user_error(group)
        if problem is None:
            raise
        unknown = "not tried without the port"
        port = Check("port", WRONG, problem.message, f"{problem.hint}; or does a node of another home have it?")
        return (check_clock(None), port, Check("bootstrap", UNKNOWN, unknown), Check("reachable", UNKNOWN, unknown))
    return _met(reach, len(peers), failures, listen=listen, bound=bound, announced=announced, is_named=bool(bootstrap))


def _met(
    reach: Reach,
    peers: int,
    failures: Mapping[str, str],
    *,
    listen: transport.Address,
    bound: transport.Address,
    announced: transport.Address | None,
    is_named: bool,
) -> Sequence[Check]:
    text = openness.line(reach, listen=bound, announced=announced)
    return (
        check_clock(reach.clock_seconds),
        Check("port", OK, f"{bound} is free" if bound == listen else f"{listen} is taken, {bound} is free"),
        check_bootstrap(failures, f"{peers} of the network" if peers else None, is_named=is_named),
        check_reachable(reach.verdict, text),
    )


async def _until_known(
    swarm: transport.Swarm, failures: dict[str, str], bootstrap: Sequence[transport.Address]
) -> None:
    async for event in swarm.events:
        match event:
            case transport.BootstrapFailed(address=address, reason=reason):
                failures[str(address)] = reason
                if len(failures) == len(bootstrap):
                    return
            case transport.ReachabilityChanged(reach=reach) if reach.verdict is not Verdict.UNKNOWN:
                return
            case _:
                pass


async def _refuse(peer: transport.PublicKey, method: int, body: bytes) -> bytes:
    raise transport.RequestRefused("this is only a doctor")
