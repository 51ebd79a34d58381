"""`p2pnode generate`, for the command line: parse, ask, print.

What it is: one command for four places to have the model from: the node that runs in the home, the home of one that does not (the last
model that its chain certifies), a snapshot's file, and a folder that transformers loads. What it is not: the writing; that is ``generations``.

For editors: as for ``cli``, which registers this. A model is trained by strangers, so on a terminal its text moves no cursor.
"""

import contextlib
import json
import re
import sys
from collections.abc import Callable, Generator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from model.errors import GenerationError, ModelError
from model.generation.settings import Settings
from model.limits import PROMPT_CHARACTERS_MAX
from p2pnode import render
from p2pnode.client import Client
from p2pnode.config import load_config
from p2pnode.errors import ExitCode, NoRunningNode, SetUpError, UserError, why
from p2pnode.home import Home

if TYPE_CHECKING:
    from p2pnode.generations import AgreedModel

CANDIDATES_USUAL = 10
_SLICE_SECONDS = 0.05
_Piece = dict[str, Any]
_FLAGS = {"stop": "--stop", "candidates": "--probabilities", "cached": "--no-cache"}


def generate(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The text to go on from; - reads it from stdin.")],
    *,
    max_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="How long, in tokens (256).", show_default=False)
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(metavar="T", help="Draw each token, the freer the higher; 0: the likeliest.", show_default=False),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(metavar="K", help="Draw among the K likeliest tokens.", show_default=False)
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(metavar="P", help="Draw among the likeliest that make up the share P.", show_default=False),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Of the draws: the same text again.", show_default=False)
    ] = None,
    beams: Annotated[
        int | None, typer.Option(metavar="N", help="Beam search: the likeliest text of N.", show_default=False)
    ] = None,
    stop: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="End before this text; repeatable.", show_default=False),
    ] = None,
    probabilities: Annotated[
        bool,
        typer.Option(
            "--probabilities",
            help="No text: the likeliest next tokens, 10 or those of --top-k.",
            show_default=False,
        ),
    ] = False,
    no_cache: Annotated[
        bool,
        typer.Option("--no-cache", help="Read all of the text again for each token: slow.", show_default=False),
    ] = False,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model", metavar="PATH", help="A snapshot, or a folder that transformers loads.", show_default=False
        ),
    ] = None,
    home: Annotated[
        Path | None, typer.Option("--home", metavar="DIR", help="The node's directory.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, at the end.", show_default=False)] = False,
) -> int:
    """Let the agreed model write on, while training goes on; the likeliest tokens, unless told to draw."""
    settings = _settings(
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        beams=beams,
        stop=tuple(stop or ()),
        candidates=(top_k or CANDIDATES_USUAL) if probabilities else None,
        cached=not no_cache,
    )
    text = _from_stdin() if prompt == "-" else prompt
    pieces = _pieces(text, settings, home=home, model=model)
    if as_json:
        shown, facts = _collect(pieces, lambda _: None)
        typer.echo(json.dumps({"text": shown, **facts}, indent=2))
        return ExitCode.OK
    shown, facts = _collect(pieces, _show)
    if facts["candidates"]:
        typer.echo(render.candidates(facts["candidates"]))
    for line in render.generated(facts):
        _say(line)
    return ExitCode.OK


def _settings(**asked: Any) -> Settings:
    try:
        return Settings(**asked)
    except GenerationError as problem:
        raise UserError(_with_flags(problem.message), _with_flags(problem.hint), exit_code=ExitCode.USAGE) from None


def _with_flags(text: str) -> str:
    """A setting is called by its flag here."""
    for field in fields(Settings):
        flag = _FLAGS.get(field.name, f"--{field.name.replace('_', '-')}")
        text = re.sub(rf"\b{field.name}\b(?! string| search)", flag, text)
    return text


def _from_stdin() -> str:
    """As much as is enough to be refused: a character is four bytes at most."""
    return sys.stdin.buffer.read(4 * PROMPT_CHARACTERS_MAX + 1).decode(errors="replace")


def _pieces(prompt: str, settings: Settings, *, home: Path | None, model: Path | None) -> Generator[_Piece, None, None]:
    """From whoever has the model."""
    place = Home(load_config({"home": home}).home)
    if model is None:
        begun = False
        try:
            with contextlib.closing(Client(place).generate(prompt, settings.to_dict())) as answers:
                for answer in answers:
                    begun = True
                    yield answer
        except NoRunningNode as nobody:
            if begun or place.running_pid() is not None or not place.initialised:
                raise
            typer.echo(f"{nobody.message}: from its last certified model", err=True)
        else:
            return
    from p2pnode.generations import Text

    text = Text(_model_of(place) if model is None else _named(model, place), prompt, settings)
    ended = False
    while not ended:
        piece = text.advance(_SLICE_SECONDS)
        ended = piece["ended"] is not None
        yield dict(piece)


def _model_of(home: Home) -> "AgreedModel":
    """The last one that a home can prove. Raises SetUpError."""
    from p2pnode.founding import open_blobs
    from p2pnode.generations import AgreedModel
    from p2pnode.refounding import last_model
    from p2pnode.texts import tokenizer_of

    with home.locked():
        last = last_model(home)
        tokenizer = tokenizer_of(last.genesis, open_blobs(home))
    if last.state.height < last.tip:
        typer.echo(
            f"its chain goes on to height {last.tip}, but no payloads are here beyond {last.state.height}", err=True
        )
    root = last.state.model_root.hex()
    return AgreedModel(last.replica, tokenizer, last.state.height, root, device=load_config({"home": home.path}).device)


def _named(path: Path, home: Home) -> "AgreedModel":
    return _folder(path, home) if path.is_dir() else _snapshot(path, home)


def _folder(path: Path, home: Home) -> "AgreedModel":
    """Of an export, or of anybody's: no chain is asked about it here."""
    from model.config import TrainingConfig
    from p2pnode.generations import AgreedModel
    from p2pnode.importing import open_model

    imported = open_model(path)
    if imported.tokenizer is None:
        raise SetUpError(f"{path}: no tokenizer.json says what its tokens mean", "add that of the model")
    replica = imported.replica(TrainingConfig(), _say)
    return AgreedModel(replica, imported.tokenizer, None, None, device=load_config({"home": home.path}).device)


def _snapshot(path: Path, home: Home) -> "AgreedModel":
    """A file says which model it holds; what its tokens mean stands in a home of its network, unless they are bytes."""
    from model.replica import Replica
    from model.tokenizer import ByteTokenizer
    from p2pnode.founding import open_blobs, read_genesis
    from p2pnode.generations import AgreedModel
    from p2pnode.texts import tokenizer_of
    from transport import content

    if not path.is_file():
        raise UserError(
            f"{path}: not a file",
            "--model takes a snapshot, as in a home's snapshots directory, or a folder of transformers",
        )
    try:
        replica = Replica.load(path)
    except ModelError as problem:
        raise UserError(problem.message, problem.hint) from None
    except OSError as problem:
        raise UserError(f"{path}: {why(problem)}", "check who owns it and its mode") from None
    genesis = read_genesis(home.genesis) if home.initialised else None
    if genesis is not None and genesis.model == replica.config:
        tokenizer = tokenizer_of(genesis, open_blobs(home))
    elif replica.config.vocabulary == ByteTokenizer.vocabulary:
        tokenizer = ByteTokenizer()
    else:
        raise UserError(
            f"{path}: a model of {replica.config.vocabulary} words, and no home that says which",
            "--home names one of its network, also where no node runs",
        )
    root = content.content_digest(replica.leaves(), replica.byte_length).hex()
    return AgreedModel(replica, tokenizer, None, root, device=load_config({"home": home.path}).device)


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _collect(pieces: Generator[_Piece, None, None], show: Callable[[str], object]) -> tuple[str, dict[str, Any]]:
    """All of the text, shown while it comes, and the facts at its end. Whatever happens, the last line is ended."""
    shown, facts = "", dict[str, Any]()
    with contextlib.closing(pieces):
        try:
            for piece in pieces:
                shown += piece["text"]
                show(piece["text"])
                facts = piece["ended"] or {}
        finally:
            if shown and not shown.endswith("\n"):
                show("\n")
    return shown, facts


def _show(text: str) -> None:
    if not text:
        return
    if sys.stdout.isatty():
        text = render.printable_lines(text)
    sys.stdout.write(text.encode(sys.stdout.encoding, "replace").decode(sys.stdout.encoding))
    sys.stdout.flush()
