"""`p2pnode export`, for the command line: parse, call, print.

What it is not: what an exported folder holds; that is ``exporting``. For editors: as for ``cli``, which registers this.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from p2pnode import render
from p2pnode.client import Client
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
    typer.echo(json.dumps(facts, indent=2) if as_json else render.facts(facts))
    typer.echo(f"transformers loads it; p2pnode verify {folder} checks it against its chain", err=True)
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
