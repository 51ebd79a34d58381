"""The flags that name a text, and the commands about tokenizers: ``p2pnode tokenizer train``, ``convert``.

What it is: arguments in, lines out, as in ``cli``. What it is not: the formats (``model/text``) or the learning (``model/tokenizer_training``).
Nothing heavy is imported before a command runs.
"""

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from p2pnode.config import load_config
from p2pnode.errors import ExitCode, UserError, why
from p2pnode.interrupting import interruptible

DataFlag = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATH",
        help="The text to found a network on: a file, folder, pattern or `synthetic`; repeatable.",
        show_default=False,
    ),
]
DatasetFlag = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Text of Hugging Face's: NAME[:CONFIG[:SPLIT]]; repeatable.", show_default=False),
]
ColumnFlag = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME", help="Of jsonl, csv, parquet (text); twice: an input and its target.", show_default=False
    ),
]
PairsFlag = Annotated[
    bool | None,
    typer.Option("--pairs/--no-pairs", help="Lines are `input |target` (as they look).", show_default=False),
]
TokenizerFlag = Annotated[
    str | None,
    typer.Option(metavar="FILE|NAME", help="A tokenizer.json, or tiktoken's name (bytes).", show_default=False),
]

app = typer.Typer(help="Make a tokenizer to found a network with.", no_args_is_help=False)
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.", show_default=False)]
OutFlag = Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write it.")]


@app.command("train")
def train(
    *,
    data: DataFlag = None,
    dataset: DatasetFlag = None,
    column: ColumnFlag = None,
    pairs: PairsFlag = None,
    vocabulary: Annotated[
        int | None,
        typer.Option(metavar="N", help="How many tokens, bytes and end included (8192).", show_default=False),
    ] = None,
    out: OutFlag = Path("tokenizer.json"),
    as_json: JsonFlag = False,
) -> int:
    """Learn a byte-level BPE from a text; `init --tokenizer FILE` founds a network with it."""
    config = load_config({"data": data, "dataset": dataset, "column": column, "pairs": pairs})
    from model.tokenizer_training import DEFAULT_VOCABULARY
    from p2pnode.reading import learn_tokenizer

    learn = partial(learn_tokenizer, config, vocabulary or DEFAULT_VOCABULARY, say=_say)
    document, facts = interruptible(learn)
    return _written(out, document, facts, as_json)


@app.command("convert")
def convert(
    name: Annotated[str, typer.Argument(metavar="FILE|NAME", help="As `init --tokenizer` takes it.")],
    *,
    out: OutFlag = Path("tokenizer.json"),
    as_json: JsonFlag = False,
) -> int:
    """Write a tokenizer, of tiktoken for example, as a tokenizer.json that needs nothing but this file."""
    from p2pnode.reading import facts_of, tokenizer_named

    tokenizer = tokenizer_named(load_config({"tokenizer": name}))
    return _written(out, tokenizer.to_json(), facts_of(tokenizer), as_json)


@app.callback(invoke_without_command=True)
def _root(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _written(out: Path, document: bytes, facts: dict[str, object], as_json: bool) -> int:
    from model.files import write_atomically

    try:
        write_atomically(out, lambda path: _write(path, document))
    except OSError as problem:
        raise UserError(f"{out}: {why(problem)}", "name another file with --out") from None
    if as_json:
        typer.echo(json.dumps({"file": str(out), **facts}, indent=2))
    else:
        words = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in facts.items())
        typer.echo(f"{out}: {words}")
    return ExitCode.OK


def _write(path: Path, document: bytes) -> None:
    path.write_bytes(document)


def _say(line: str) -> None:
    typer.echo(line, err=True)
