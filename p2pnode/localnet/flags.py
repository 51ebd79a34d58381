"""The flags of `p2pnode localnet`, for the command line, and nothing else: what they ask for stands in ``options`` and ``weather``."""

from pathlib import Path
from typing import Annotated

import typer

from p2pnode.text_commands import DataFlag, TokenizerFlag


def localnet(
    *,
    nodes: Annotated[int, typer.Option(metavar="N", help="How many nodes.")] = 4,
    rounds: Annotated[int, typer.Option(metavar="N", help="Rounds to commit.")] = 20,
    data: DataFlag = None,
    tokenizer: TokenizerFlag = None,
    size: Annotated[str, typer.Option(metavar="NAME", help="tiny, small, base, 1b, 8b or a JSON file.")] = "tiny",
    moe: Annotated[bool, typer.Option("--moe", help="With experts: eight of half the width.")] = False,
    seed: Annotated[int, typer.Option(metavar="N", help="Of whatever is drawn at random.")] = 0,
    home: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep the nodes' homes in DIR.", show_default=False)
    ] = None,
    kill: Annotated[int, typer.Option(metavar="K", help="Kill K nodes in mid-round and restart them.")] = 0,
    byzantine: Annotated[int, typer.Option(metavar="K", help="Nodes that attack.")] = 0,
    attack: Annotated[
        str | None,
        typer.Option(metavar="equivocate|bad-root|hollow|huge|silent", help="What they do.", show_default=False),
    ] = None,
    latency: Annotated[float, typer.Option(metavar="MS", help="Delay of every link, one way.")] = 0.0,
    jitter: Annotated[float, typer.Option(metavar="MS", help="By how much the delay varies, up and down.")] = 0.0,
    bandwidth: Annotated[
        float | None,
        typer.Option(metavar="MBIT", help="What a node sends a second, to all together.", show_default=False),
    ] = None,
    drop: Annotated[float, typer.Option(metavar="P", help="Share of segments lost, and sent again by TCP.")] = 0.0,
    partition: Annotated[
        list[str] | None,
        typer.Option(metavar="AT:SECONDS:GROUPS", help="Cut links: 10:5:1,2/3,4 or 10:5:3>1; repeatable."),
    ] = None,
    churn: Annotated[
        float | None,
        typer.Option(
            metavar="RATE", help="Members leave and join, so many changes a minute, and nodes die.", show_default=False
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(metavar="M", help="How long, in place of --rounds, under --churn.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.", show_default=False)] = False,
) -> int:
    """Run and judge a whole network on this machine."""
    from p2pnode.localnet import LocalnetOptions, run_localnet
    from p2pnode.localnet.weather import Weather, parse_partition

    options = LocalnetOptions(
        nodes=nodes,
        rounds=rounds,
        data=tuple(data or ()),
        tokenizer=tokenizer,
        size=size,
        moe=moe,
        seed=seed,
        home=home,
        json=as_json,
        kill=kill,
        byzantine=byzantine,
        attack=attack,
        weather=Weather(latency, jitter, bandwidth, drop, tuple(parse_partition(text) for text in partition or ())),
        churn=churn,
        minutes=minutes,
    )
    return run_localnet(options)
