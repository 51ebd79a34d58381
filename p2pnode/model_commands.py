"""`p2pnode export` and `refound`, for the command line: parse, call, print.

What it is not: what an exported folder holds (``exporting``), or a new network rests on (``refounding``). For editors: as for ``cli``,
which registers these.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from p2pnode import render
from p2pnode.client import Client
from p2pnode.config import load_config
from p2pnode.errors import ExitCode, NoRunningNode
from p2pnode.home import Home, find_home

_HomeFlag = Annotated[
    Path | None, typer.Option("--home", metavar="DIR", help="The node's directory.", show_default=False)
]
_JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.", show_default=False)]


def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder, or an earlier export.")],
    *,
    home: _HomeFlag = None,
    as_json: _JsonFlag = False,
) -> int:
    """Write the agreed model as a folder that transformers loads; its node may run."""
    place = find_home(home)
    try:
        facts = Client(place).export(folder)
    except NoRunningNode:
        if place.running_pid() is not None:
            raise  # it starts or ends: its home is not ours to read
        facts = _export_offline(place, folder)
    _show(facts, as_json)
    _say(f"transformers loads it; p2pnode verify {folder} checks it against its chain")
    return ExitCode.OK


def _export_offline(home: Home, folder: Path) -> dict[str, Any]:
    """The last model that a home can prove."""
    from p2pnode import founding, refounding, texts
    from p2pnode.errors import SetUpError
    from p2pnode.exporting import CertifiedModel, export_model
    from p2pnode.store import Store

    if not home.initialised:
        raise SetUpError(f"{home} belongs to no network", "--home names a node's home")
    with home.locked():
        last = refounding.last_model(home)
        if last.state.height < last.tip:
            typer.echo(
                f"the chain goes on to height {last.tip}, but {home} holds no payloads beyond {last.state.height}",
                err=True,
            )
        tokenizer = texts.tokenizer_of(last.genesis, founding.open_blobs(home))
        store = Store(home.chain, last.genesis.chain_id)
        try:
            model = CertifiedModel(
                genesis=last.genesis, state=last.state, replica=last.replica, tokenizer=tokenizer, store=store
            )
            return export_model(folder, model)
        finally:
            store.close()


def refound(
    *,
    source: Annotated[Path, typer.Option("--from", metavar="HOME", help="A survivor's home, stopped.")],
    home: _HomeFlag = None,
    founder: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY@HOST:PORT", help="A first member, as its `p2pnode id` prints it; repeatable."),
    ] = None,
    as_json: _JsonFlag = False,
) -> int:
    """Found a new network on the last model of one that lost its quorum for good."""
    settings = load_config({"home": home})
    place, old = Home(settings.home), Home(source)
    from p2pnode import refounding

    genesis, last = refounding.refound(place, settings, source=old, founders=founder or [])
    if last.state.height < last.tip:
        _say(f"the old chain goes on to height {last.tip}, but {old} holds no payloads beyond {last.state.height}")
    facts = {
        "network": genesis.chain_id.hex(),
        "from_network": last.genesis.chain_id.hex(),
        "from_height": last.state.height,
        "model_root": genesis.model_root.hex(),
    }
    _show(facts, as_json)
    _say(
        f"ready in {place}; p2pnode start --home {place} starts it, and the others join into fresh homes with --bootstrap"
    )
    return ExitCode.OK


def _show(facts: dict[str, Any], as_json: bool) -> None:
    typer.echo(json.dumps(facts, indent=2) if as_json else render.facts(facts))


def _say(line: str) -> None:
    typer.echo(line, err=True)
