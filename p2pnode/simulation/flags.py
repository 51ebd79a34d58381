"""The flags of `p2pnode simulate`, for the command line: it imports this module and, until the command runs, nothing else of the package."""

from pathlib import Path
from typing import Annotated

import typer


def simulate(
    *,
    nodes: Annotated[int | None, typer.Option(metavar="N", help="How many nodes (4).", show_default=False)] = None,
    byzantine: Annotated[
        int | None, typer.Option(metavar="K", help="Traitors; above f, forks must name them.", show_default=False)
    ] = None,
    attack: Annotated[
        str | None, typer.Option(metavar="NAME[,NAME]|help", help="What they do.", show_default=False)
    ] = None,
    partition: Annotated[
        list[str] | None,
        typer.Option(
            metavar="AT:SECONDS:GROUPS", help="Cut groups apart: 5:10:0,1/2,3; repeatable.", show_default=False
        ),
    ] = None,
    kill: Annotated[
        list[str] | None,
        typer.Option(metavar="COUNT|NODE@AT", help="Kill and restart; repeatable.", show_default=False),
    ] = None,
    heights: Annotated[
        int | None, typer.Option(metavar="N", help="Heights to decide (10).", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Of everything that is drawn.")] = 0,
    level: Annotated[
        str, typer.Option(metavar="lockstep|events|network|processes", help="How much is real.")
    ] = "events",
    drawn: Annotated[
        bool, typer.Option("--drawn", help="Draw what is not given from the seed.", show_default=False)
    ] = False,
    trace: Annotated[Path | None, typer.Option(metavar="FILE", help="Write every effect.", show_default=False)] = None,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Print every effect.", show_default=False)] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.", show_default=False)] = False,
) -> int:
    """Run and judge a simulated network; the same seed, the same run."""
    from p2pnode.simulation.command import Request, run_simulation

    request = Request(
        nodes=nodes,
        byzantine=byzantine,
        attack=attack,
        partition=tuple(partition or ()),
        kill=tuple(kill or ()),
        heights=heights,
        seed=seed,
        level=level,
        drawn=drawn,
        as_json=as_json,
        trace=trace,
        verbose=verbose,
    )
    code, lines = run_simulation(request)
    typer.echo("\n".join(lines), nl=bool(lines))
    return code
