"""Homes, keys and one genesis for all founders, through the commands that a user has.

What it is: the set-up before any node starts. What it is not: knowledge of the genesis; ``p2pnode init`` writes it.

For editors: the order is forced. Every key must exist before the genesis can name it, and the genesis before the other
homes can take it. Only the first ``init`` builds a model (for the root of M(0)).
"""

from collections.abc import Sequence
from glob import has_magic
from pathlib import Path

import trio

from p2pnode.home import Home
from p2pnode.localnet.ground import GROUND
from p2pnode.localnet.options import LocalnetOptions
from p2pnode.localnet.processes import PYTHON, Fleet, Node, free_ports, node_command
from p2pnode.localnet.readings import NodeId
from p2pnode.localnet.weather import write_forecast
from transport.identity import Identity


async def found(fleet: Fleet, options: LocalnetOptions, directory: Path) -> list[Node]:
    """Make every home under ``directory`` and return the nodes, ready to be started."""
    ports = free_ports(options.nodes)
    identities: list[Identity] = []
    nodes: list[Node] = []
    ground = GROUND.get()
    where = [f"{ground.host(index)}:{port}" for index, port in enumerate(ports)]
    weather = ground.left_to_shim(options.weather)
    forecast = None if weather.is_fair else forecast_in(directory)
    if forecast is not None:
        write_forecast(forecast, weather, ports, seed=options.seed, began=None)
    for index, port in enumerate(ports):
        await ground.add(index)
        home = Home(directory / f"node-{index + 1}")
        home.create()
        identity = Identity.create(home.key)
        attack = options.attack_name if index in options.byzantine_indices else None
        peers = [other for other in where if other != where[index]]
        command = node_command(home.path, listen=where[index], peers=peers, attack=attack, forecast=forecast)
        nodes.append(Node(index, NodeId(identity.node_id), home, port, (*ground.inside(index), *command), attack))
        identities.append(identity)
    founders = [f"{who.public_key.hex()}@{at}" for who, at in zip(identities, where, strict=True)]
    await fleet.run(_founding_command(nodes[0], options, founders), what="founding the network")
    async with trio.open_nursery() as nursery:
        for node in nodes[1:]:
            nursery.start_soon(_take_genesis, fleet, node, nodes[0].home.genesis)
    return nodes


async def newcomer(fleet: Fleet, options: LocalnetOptions, nodes: Sequence[Node], known: Sequence[Node]) -> Node:
    """One more home beside those of ``nodes``, with a key of its own: it has the genesis, and the addresses of ``known``."""
    taken, index = {node.port for node in nodes}, len(nodes)
    port = next(port for port in free_ports(len(taken) + 1) if port not in taken)  # a dead node wants its own again
    directory, host = nodes[0].home.path.parent, GROUND.get().host
    await GROUND.get().add(index)
    home = Home(directory / f"node-{index + 1}")
    home.create()
    identity = Identity.create(home.key)
    forecast = None if GROUND.get().left_to_shim(options.weather).is_fair else forecast_in(directory)
    peers = [f"{host(node.index)}:{node.port}" for node in known]
    command = node_command(home.path, listen=f"{host(index)}:{port}", peers=peers, attack=None, forecast=forecast)
    node = Node(index, NodeId(identity.node_id), home, port, (*GROUND.get().inside(index), *command))
    await _take_genesis(fleet, node, nodes[0].home.genesis)
    return node


def _from_anywhere(name: str) -> str:
    """What means a file or a pattern here, as it is called from another directory; any other name as it is."""
    return str(Path(name).absolute()) if Path(name).exists() or has_magic(name) else name


def forecast_in(directory: Path) -> Path:
    """Where the nodes of a run read what their links are like."""
    return directory / "weather.json"


async def _take_genesis(fleet: Fleet, node: Node, genesis: Path) -> None:
    command = (*PYTHON, "p2pnode", "init", "--home", str(node.home), "--genesis", str(genesis))
    await fleet.run(command, what=f"setting up node {node.index + 1}")


def _founding_command(node: Node, options: LocalnetOptions, founders: list[str]) -> tuple[str, ...]:
    data = [word for name in options.data for word in ("--data", _from_anywhere(name))]
    tokenizer = () if options.tokenizer is None else ("--tokenizer", _from_anywhere(options.tokenizer))
    founder_flags = [word for founder in founders for word in ("--founder", founder)]
    return (
        *(*PYTHON, "p2pnode", "init", "--home", str(node.home), "--size", options.size),
        *(("--moe",) if options.moe else ()),
        *("--policy", "open", "--seed", str(options.seed), *data, *tokenizer, *founder_flags),
    )
