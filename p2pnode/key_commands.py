"""`p2pnode id`, `export-key` and `import-key`, for the command line: parse, call, print.

What it is not: what moving a key takes; that is ``moving``. For editors: as for ``cli``, which registers these.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from p2pnode import render
from p2pnode.config import load_config
from p2pnode.errors import ExitCode
from p2pnode.home import Home

_HomeFlag = Annotated[
    Path | None, typer.Option("--home", metavar="DIR", help="The node's directory.", show_default=False)
]
_JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.", show_default=False)]


def identity(*, home: _HomeFlag = None, as_json: _JsonFlag = False) -> int:
    """The node's id, key, and its line as a founder."""
    from transport.identity import Identity

    settings = load_config({"home": home})
    place = Home(settings.home)
    place.check_key_is_here()
    if place.key.exists():
        me = Identity.load(place.key)
    else:
        place.create()
        me = Identity.create(place.key)
        typer.echo(f"made a new key: {place.key}", err=True)
    key = me.public_key.hex()
    facts = {"node": me.node_id, "public_key": key, "founder": f"{key}@{settings.announce or settings.listen}"}
    return _show(facts, as_json)


def export_key(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A new file, which will hold the key.")],
    *,
    home: _HomeFlag = None,
    as_json: _JsonFlag = False,
) -> int:
    """Move the key, with all that it signed, out of a home."""
    from p2pnode import moving

    place = Home(load_config({"home": home}).home)
    moved = moving.export_key(place, file)
    _show({"node": moved.identity.node_id, "file": str(file.absolute()), "height": moved.height}, as_json)
    typer.echo(f"{place} votes no more; whoever has {file} is this node, so keep it to yourself", err=True)
    typer.echo("where it is to go on: p2pnode import-key FILE, then p2pnode start --bootstrap HOST:PORT", err=True)
    return ExitCode.OK


def import_key(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="As p2pnode export-key wrote it; it is used up.")],
    *,
    home: _HomeFlag = None,
    as_json: _JsonFlag = False,
) -> int:
    """Put a moved key into a home that has none."""
    from p2pnode import moving

    place = Home(load_config({"home": home}).home)
    moved = moving.import_key(place, file)
    network = None if moved.genesis is None else moved.genesis.chain_id.hex()
    _show({"node": moved.identity.node_id, "network": network, "height": moved.height}, as_json)
    typer.echo(f"ready in {place}; p2pnode start --bootstrap HOST:PORT starts the node", err=True)
    if moved.height:
        typer.echo(f"it votes again once it has the chain up to height {moved.height}", err=True)
    return ExitCode.OK


def _show(facts: Mapping[str, str | int | None], as_json: bool) -> int:
    typer.echo(json.dumps(facts, indent=2) if as_json else render.facts(dict(facts)))
    return ExitCode.OK
