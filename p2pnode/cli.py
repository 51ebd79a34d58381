"""The command line: parse, call, print.

What it is: one short function per command, and the one place where errors become lines and exit codes. What it is not: logic; that
lives in the modules that the commands call.

For editors: stdout is data, stderr is talk. Imports inside the commands keep ``--help`` and ``status`` quick; nothing here imports
torch or trio at the top. A flag exists only if something reads it. Every command that reads takes ``--json``.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from p2pnode import __version__, render
from p2pnode.config import Config, load_config
from p2pnode.errors import ExitCode, NoRunningNode, UserError, render_error, user_error
from p2pnode.generate_command import generate
from p2pnode.home import Home, find_home
from p2pnode.interrupting import leave_at_once
from p2pnode.key_commands import export_key, identity, import_key
from p2pnode.localnet.flags import localnet
from p2pnode.model_commands import export, refound
from p2pnode.simulation.flags import simulate
from p2pnode.text_commands import ColumnFlag, DataFlag, DatasetFlag, PairsFlag, TokenizerFlag
from p2pnode.text_commands import app as tokenizer_app

if TYPE_CHECKING:
    from p2pnode.client import Client

LEAVE_SECONDS_MAX = 180.0  # a round of a minute, and two heights until it takes effect
STOP_SECONDS_MAX = 10.0  # a node ends in two; a loaded machine gets five times that before we say so

app = typer.Typer(
    help="Train one model together with people you do not trust.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
config_app = typer.Typer(help="Show the settings of a node.", no_args_is_help=False)
app.add_typer(config_app, name="config", rich_help_panel="Settings")
app.add_typer(tokenizer_app, name="tokenizer", rich_help_panel="Train")

HomeFlag = Annotated[
    Path | None, typer.Option("--home", metavar="DIR", help="The node's directory.", show_default=False)
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.", show_default=False)]
LastFlag = Annotated[int, typer.Option("--last", metavar="N", min=1, max=10_000, help="How many, the newest.")]
BootstrapFlag = Annotated[
    list[str] | None,
    typer.Option(metavar="HOST:PORT", help="A node of the network to join; repeatable.", show_default=False),
]
ListenFlag = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="Where to listen (127.0.0.1:7337).", show_default=False)
]
SizeFlag = Annotated[
    str | None, typer.Option(metavar="NAME", help="tiny, small, base, 1b, 8b or a JSON file.", show_default=False)
]
MoeFlag = Annotated[
    bool | None, typer.Option("--moe/--no-moe", help="With experts: eight of half the width.", show_default=False)
]
TrainingFlag = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help='How the network trains, as JSON: {"optimizer": "lion", "inner_rate": "0.0003"}.',
        show_default=False,
    ),
]
PolicyFlag = Annotated[
    str | None, typer.Option(metavar="open|invite|allowlist", help="Who gets a vote.", show_default=False)
]
AllowFlag = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY", help="May become a member, under allowlist; repeatable.", show_default=False),
]
ThresholdFlag = Annotated[
    str | None,
    typer.Option(
        metavar="PERCENT", help="Of the members that must agree (67, more than two thirds).", show_default=False
    ),
]


def main() -> int:
    """The ``p2pnode`` command: runs one command and returns its exit code; every foreseen error is one line and a hint."""
    try:
        code = app(prog_name="p2pnode", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output (head, less) has seen enough. The interpreter must not complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except typer.TyperException as error:
        return _fail(_usage_error(error))
    except BaseException as error:
        if _interrupted(error):
            return ExitCode.INTERRUPTED
        if (foreseen := user_error(error)) is None:
            raise
        return _fail(foreseen)
    return int(code or 0)


# --- node ----------------------------------------------------------------------------------------------------------------------


@app.command(rich_help_panel="Node")
def init(
    *,
    home: HomeFlag = None,
    data: DataFlag = None,
    dataset: DatasetFlag = None,
    column: ColumnFlag = None,
    pairs: PairsFlag = None,
    tokenizer: TokenizerFlag = None,
    size: SizeFlag = None,
    moe: MoeFlag = None,
    training: TrainingFlag = None,
    policy: PolicyFlag = None,
    allow: AllowFlag = None,
    threshold: ThresholdFlag = None,
    founder: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY@HOST:PORT", help="A first member, as its `p2pnode id` prints it; repeatable."),
    ] = None,
    genesis: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Take part in the network that FILE founds.", show_default=False)
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="DIR", help="A first model, as transformers loads it.", show_default=False),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of the first model's parameters.", show_default=False)
    ] = None,
) -> int:
    """Found a network, or take part in a founder's."""
    of_the_network = {
        "data": data,
        "dataset": dataset,
        "column": column,
        "pairs": pairs,
        "tokenizer": tokenizer,
        "size": size,
        "moe": moe,
        "training": training,
        "policy": policy,
        "allow": allow,
        "threshold": threshold,
    }
    given = {f"--{name}" for name, value in of_the_network.items() if value not in (None, [])}
    given |= {
        name for name, value in (("--founder", founder), ("--seed", seed), ("--from", source)) if value is not None
    }
    _refuse_beside("--genesis", genesis, given - {"--genesis"}, why="the file has decided these")
    _refuse_beside("--from", source, given & {"--size", "--moe", "--seed"}, why="the folder has decided these")
    settings = load_config({"home": home, **of_the_network})
    place = Home(settings.home)
    with place.locked():
        from p2pnode.founding import initialise  # numpy, but no torch: half a second instead of two

        initialise(
            place,
            settings,
            founders=founder or [],
            genesis_file=genesis,
            seed=seed,
            model_folder=source,
            say=_say,
        )
    _say(f"ready in {place}; p2pnode start starts the node")
    return ExitCode.OK


app.command(rich_help_panel="Node")(refound)


@app.command(rich_help_panel="Node")
def start(
    *,
    home: HomeFlag = None,
    name: Annotated[str | None, typer.Option(help="What others see beside the node id.", show_default=False)] = None,
    bootstrap: BootstrapFlag = None,
    listen: ListenFlag = None,
    announce: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where others reach it, if elsewhere.", show_default=False)
    ] = None,
    upload_mbit: Annotated[
        float | None,
        typer.Option(metavar="MBIT", help="What payloads may take of the uplink (all).", show_default=False),
    ] = None,
    network: Annotated[
        str | None, typer.Option(metavar="ID", help="Join no network but this one.", show_default=False)
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(metavar="HEIGHT:HASH", help="Follow no history without this block.", show_default=False),
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="cpu|cuda[:N]", help="Where to train (cpu).", show_default=False)
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(metavar="fp32|bf16|fp16", help="Of its matrix products (fp32).", show_default=False),
    ] = None,
    compiled: Annotated[
        bool | None,
        typer.Option("--compile/--no-compile", help="Its training step, by torch (no).", show_default=False),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(metavar="N", help="Threads of a training step (1).", show_default=False)
    ] = None,
    data: DataFlag = None,
    dataset: DatasetFlag = None,
    column: ColumnFlag = None,
    pairs: PairsFlag = None,
    tokenizer: TokenizerFlag = None,
    size: SizeFlag = None,
    moe: MoeFlag = None,
    training: TrainingFlag = None,
    policy: PolicyFlag = None,
    allow: AllowFlag = None,
    threshold: ThresholdFlag = None,
    invite: Annotated[
        str | None,
        typer.Option(metavar="TOKEN", help="A member's invitation, where votes ask one.", show_default=False),
    ] = None,
    train: Annotated[
        bool | None, typer.Option("--train/--no-train", help="Contribute (yes), or only vote.", show_default=False)
    ] = None,
    repl: Annotated[
        bool | None, typer.Option("--repl/--no-repl", help="Open the prompt (yes, on a terminal).", show_default=False)
    ] = None,
) -> None:
    """Run a node until Ctrl-C; it founds or joins a network at first."""
    settings = load_config(locals())  # every parameter is the setting of its name
    leave_at_once(launch(settings, _run_node))


def launch(config: Config, run: Callable[[Home, Config], int]) -> int:
    """Run a node with its home locked and its log open."""
    from p2pnode.logs import logging_to

    home = Home(config.home)
    with home.locked(), logging_to(home, config.log_level):
        return run(home, config)


def _run_node(home: Home, config: Config) -> int:
    from p2pnode import node  # torch and all: only after the home is ours

    return node.run(home, config)


@app.command(rich_help_panel="Node")
def attach(*, home: HomeFlag = None) -> int:
    """Open the prompt of a running node."""
    client = _client(home)
    client.status()  # no node: say so before the prompt appears
    from p2pnode.repl import run_repl

    run_repl(client)
    return ExitCode.OK


@app.command(rich_help_panel="Node")
def stop(*, home: HomeFlag = None) -> int:
    """End a running node and wait until it is gone."""
    client = _client(home)
    pid = client.home.running_pid()
    answer = client.stop()
    if answer:
        _say(render.facts(answer))
    if not client.home.wait_released(timeout_seconds=STOP_SECONDS_MAX):
        raise UserError(
            f"the node in {client.home} was asked to end and still runs after {STOP_SECONDS_MAX:.0f} s (pid {pid})",
            f"see {client.home.log}; kill {pid} ends it without ceremony, and loses nothing that was committed",
        )
    _say("stopped")
    return ExitCode.OK


# --- watch ---------------------------------------------------------------------------------------------------------------------


@app.command(rich_help_panel="Watch")
def status(*, home: HomeFlag = None, as_json: JsonFlag = False) -> int:
    """One verdict and its reason; exit code 5 if not healthy."""
    answer = _client(home).status()
    _show(answer, as_json, lambda s: render.status(s, coloured=_coloured()))
    return ExitCode.OK if render.is_well(answer) else ExitCode.UNHEALTHY


@app.command(rich_help_panel="Watch")
def doctor(
    *, home: HomeFlag = None, bootstrap: BootstrapFlag = None, listen: ListenFlag = None, as_json: JsonFlag = False
) -> int:
    """What stands in a node's way, running or not, and what to do; exit code 5 if something is wrong."""
    from p2pnode.doctor import examine

    report = examine({"home": home, "bootstrap": bootstrap, "listen": listen})
    _show(report.to_dict() if as_json else report, as_json, lambda r: r.text())
    return ExitCode.OK if report.is_well else ExitCode.UNHEALTHY


@app.command(rich_help_panel="Watch")
def peers(*, home: HomeFlag = None, as_json: JsonFlag = False) -> int:
    """The nodes it is connected to."""
    return _show(_client(home).peers(), as_json, render.peers)


@app.command(rich_help_panel="Watch")
def rounds(*, home: HomeFlag = None, last: LastFlag = 20, as_json: JsonFlag = False) -> int:
    """The newest rounds: root, contributions, loss, seconds."""
    return _show(_client(home).rounds(last), as_json, render.rounds)


@app.command(rich_help_panel="Watch")
def trace(
    height: Annotated[int, typer.Argument(min=1, help="A round's height.")],
    *,
    home: HomeFlag = None,
    as_json: JsonFlag = False,
) -> int:
    """The path of one gradient through a round, timed."""
    return _show(_client(home).trace(height), as_json, render.trace)


@app.command(rich_help_panel="Watch")
def evidence(*, home: HomeFlag = None, as_json: JsonFlag = False) -> int:
    """Who is proven to have signed two things for one slot."""
    return _show(_client(home).evidence(), as_json, render.evidence)


@app.command(rich_help_panel="Watch")
def log(*, home: HomeFlag = None, last: LastFlag = 20, as_json: JsonFlag = False) -> int:
    """The newest log lines, also of a node that has ended."""
    client = _client(home)
    try:
        records = client.log(last)
    except NoRunningNode:
        from p2pnode.logs import read_log

        records = read_log(client.home.log, last)
        if not records:
            raise
        _say(f"no running node; from {client.home.log}:")
    return _show(records, as_json, lambda r: render.log(r, coloured=_coloured()))


@app.command(rich_help_panel="Watch")
def verify(
    path: Annotated[
        Path | None,
        typer.Argument(metavar="[HOME|FILE|DIR]", help="A home, an exported chain or model.", show_default=False),
    ] = None,
    *,
    home: HomeFlag = None,
    replay: Annotated[
        bool, typer.Option("--replay", help="Compute every model again whose payloads are kept.", show_default=False)
    ] = False,
    export: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="If it is sound, write the chain to FILE, which verifies alone.", show_default=False
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> int:
    """Check a home, or an exported chain or model, from the genesis on, offline; exit code 1 if anything is wrong."""
    from p2pnode.verify import Wishes, verify

    if path is not None and home is not None:
        raise UserError("HOME and --home: one of them", "p2pnode verify --help", exit_code=ExitCode.USAGE)
    wishes = Wishes(replay=replay, export=export, progress=lambda line: _say(f"verifying: {line}"))
    report = verify(path or find_home(home).path, wishes)
    _show(report.to_dict() if as_json else report, as_json, lambda r: r.text())
    return ExitCode.OK if report.sound else ExitCode.FAILED


# --- train ---------------------------------------------------------------------------------------------------------------------


@app.command(rich_help_panel="Train")
def train(
    rounds: Annotated[int | None, typer.Argument(metavar="[N]", min=1, help="For N heights from now.")] = None,
    *,
    home: HomeFlag = None,
    as_json: JsonFlag = False,
) -> int:
    """Contribute to rounds, without end or for N heights."""
    return _show(_client(home).train(rounds), as_json, render.facts)


@app.command(rich_help_panel="Train")
def pause(*, home: HomeFlag = None, as_json: JsonFlag = False) -> int:
    """Stop contributing; the node goes on voting."""
    return _show(_client(home).pause(), as_json, render.facts)


@app.command(rich_help_panel="Train")
def test(*, home: HomeFlag = None, as_json: JsonFlag = False) -> int:
    """Send a probe of the model's size through a round."""
    return _show(_client(home).test(), as_json, render.facts)


app.command(rich_help_panel="Use")(generate)
app.command(rich_help_panel="Train")(localnet)


# --- members -------------------------------------------------------------------------------------------------------------------


@app.command(rich_help_panel="Members")
def invite(
    *,
    expires: Annotated[
        int | None, typer.Option(metavar="HEIGHTS", min=1, help="How long it lasts (10000).", show_default=False)
    ] = None,
    home: HomeFlag = None,
    as_json: JsonFlag = False,
) -> int:
    """Print a token that makes one newcomer a member."""
    answer = _client(home).invite(expires)
    if as_json:
        return _show(answer, True, str)
    typer.echo(answer["token"])
    _say(f"good once, until height {answer['expiry_height']}; the newcomer starts with:")
    _say(f"  {answer['join']}")
    return ExitCode.OK


@app.command(rich_help_panel="Members")
def leave(
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.", show_default=False)] = False,
    home: HomeFlag = None,
    as_json: JsonFlag = False,
) -> int:
    """Be a member no longer, for good; the node runs on as an observer."""
    client = _client(home)
    what = client.parting()["reason"]
    if not yes:
        if not _at_terminal():
            raise UserError(
                f"leaving is for good ({what})", "--yes leaves without a question", exit_code=ExitCode.USAGE
            )
        _say(what)
        if not _confirmed("leave for good?"):
            return ExitCode.FAILED
    answer = client.leave()
    gone = client.wait_left(timeout_seconds=LEAVE_SECONDS_MAX)
    if gone is None:
        raise UserError(
            f"asked to leave, and not agreed on within {LEAVE_SECONDS_MAX:.0f} s",
            "the node goes on asking; p2pnode status says whether the network makes progress",
        )
    return _show({"left": True, "height": gone, **answer}, as_json, lambda a: f"left at height {gone}: {a['reason']}")


app.command(rich_help_panel="Train")(simulate)


# --- settings ------------------------------------------------------------------------------------------------------------------


app.command(rich_help_panel="Train")(export)
app.command("id", rich_help_panel="Settings")(identity)
app.command("export-key", rich_help_panel="Settings")(export_key)
app.command("import-key", rich_help_panel="Settings")(import_key)


@config_app.command("show")
def config_show(
    *,
    home: HomeFlag = None,
    origin: Annotated[
        bool, typer.Option("--origin", help="Say where each value comes from.", show_default=False)
    ] = False,
    as_json: JsonFlag = False,
) -> int:
    """Every setting as `p2pnode start` would take it now."""
    values = load_config({"home": home}).shown()
    if as_json:
        return _show({k: {"value": v, "origin": o} if origin else v for k, (v, o) in values.items()}, True, str)
    rows = [[key, render.setting(value), *([source] if origin else [])] for key, (value, source) in values.items()]
    typer.echo(render.table(["setting", "value", *(["origin"] if origin else [])], rows))
    return ExitCode.OK


@app.command(rich_help_panel="Settings")
def version(*, as_json: JsonFlag = False) -> int:
    """The versions that matter in a bug report."""
    import platform
    from importlib.metadata import distributions

    installed = {found.name.lower(): found.version for found in distributions()}
    parts = {"p2pnode": __version__, "python": platform.python_version()}
    parts |= {name: installed.get(name, "not installed") for name in ("torch", "trio", "cryptography", "pynacl")}
    return _show(parts | {"platform": platform.platform()}, as_json, render.facts)


@app.callback(invoke_without_command=True)
def _root(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@config_app.callback(invoke_without_command=True)
def _config_root(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


# --- pieces --------------------------------------------------------------------------------------------------------------------


def _refuse_beside(flag: str, value: object, others: set[str], *, why: str) -> None:
    if value is not None and others:
        raise UserError(
            f"{flag} with {', '.join(sorted(others))}: {why}", f"give {flag} alone", exit_code=ExitCode.USAGE
        )


def _client(home: Path | None) -> "Client":
    from p2pnode.client import Client

    return Client(find_home(home))


def _show(answer: Any, as_json: bool, text: Callable[[Any], str]) -> int:
    typer.echo(json.dumps(answer, indent=2) if as_json else text(answer))
    return ExitCode.OK


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _at_terminal() -> bool:
    return sys.stdin.isatty()


def _confirmed(question: str) -> bool:
    """Asked on stderr, for stdout is data. Anything but yes is no."""
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _coloured() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def _fail(error: UserError) -> int:
    _say(render_error(error))
    return error.exit_code


def _usage_error(error: typer.TyperException) -> UserError:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "p2pnode"
    message, _, suggestion = error.format_message().partition(" Did you mean ")
    message = message[:1].lower() + message[1:].rstrip(".")
    hint = f"did you mean {suggestion}" if suggestion else f"{command} --help"
    return UserError(message, hint, exit_code=ExitCode.USAGE)


def _interrupted(error: BaseException) -> bool:
    """Ctrl-C, also inside the groups that trio makes of errors."""
    if isinstance(error, BaseExceptionGroup):
        return all(_interrupted(inner) for inner in error.exceptions)
    return isinstance(error, KeyboardInterrupt)
