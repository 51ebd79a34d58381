"""`p2pnode generate`: of a running node while it trains, of a home at rest, of a snapshot; what it prints, and how it ends."""

import io
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model.generation.settings import Settings
from model.generation.text_stream import text_after
from model.interchange.writing import write_model
from model.tokenizer import ByteTokenizer
from p2pnode import generate_command, render
from p2pnode.errors import UserError
from p2pnode.founding import first_model
from p2pnode.genesis import parse
from p2pnode.home import Home
from tests.model.texts import replica_of, words, write
from tests.p2pnode.conftest import FACTS, ROOT, Cli, RunningNode
from tests.p2pnode.little import MODEL, Chain
from tests.p2pnode.machines import SMALL, Machine, founder
from tests.p2pnode.test_refounding import survivor


@pytest.fixture(scope="module")
def chain() -> Chain:
    return Chain(4).grow(6)


@pytest.fixture
def at_rest(tmp_path: Path, chain: Chain) -> Home:
    return survivor(tmp_path / "at-rest", chain, heights=6, snapshots=(4,))


# --- what it prints ----------------------------------------------------------------------------------------------------------


def test_the_text_is_data_and_where_it_comes_from_is_talk(node: RunningNode, cli: Cli) -> None:
    done = cli("generate", "a prompt", "--max-tokens", 4, home=node.home)
    assert (done.returncode, done.stdout) == (0, "to be\nor not\n")
    assert done.stderr.splitlines() == [
        f"height 12 · root {ROOT[:12]} · 4 tokens, as many as asked for · 40 tokens/s",
        "of the prompt's 300 tokens the last 64 were read: the model's context is 128",
    ]
    assert node.target.calls == [("generate", "a prompt", {"max_tokens": 4}), ("generate_next", 7)]


def test_json_is_one_object_at_the_end(node: RunningNode, cli: Cli) -> None:
    done = cli("generate", "a prompt", "--json", home=node.home)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {"text": "to be\nor not", **FACTS}


def test_every_flag_reaches_the_node(node: RunningNode, cli: Cli) -> None:
    flags = "--temperature 0.5 --top-k 9 --top-p 0.8 --seed 4 --stop a --stop b --max-tokens 7 --no-cache"
    assert cli("generate", "x", *flags.split(), home=node.home).returncode == 0
    asked = {
        "temperature": 0.5,
        "top_k": 9,
        "top_p": 0.8,
        "seed": 4,
        "stop": ["a", "b"],
        "max_tokens": 7,
        "cached": False,
    }
    assert node.target.calls[0] == ("generate", "x", asked)
    cli("generate", "x", "--beams", 3, home=node.home)
    cli("generate", "x", "--probabilities", home=node.home)
    cli("generate", "x", "--probabilities", "--top-k", 25, home=node.home)
    asked_later = [call[2] for call in node.target.calls if call[0] == "generate"][1:]
    assert asked_later == [{"beams": 3}, {"candidates": 10}, {"top_k": 25, "candidates": 25}]


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        ("--max-tokens 0", "--max-tokens is 0, allowed are 1 to 131072"),
        ("--temperature -1", "--temperature is -1.0, allowed are 0 to 100"),
        ("--temperature nan", "--temperature is nan, allowed are 0 to 100"),
        ("--top-p 0", "--top-p is 0.0, allowed are numbers above 0, up to 1"),
        ("--beams 4 --top-k 3", "--top-k together with --beams: beam search draws nothing"),
        ("--temperature 0 --seed 1", "--seed together with --temperature 0: nothing is drawn"),
        ("--probabilities --max-tokens 3", "--max-tokens together with --probabilities: no text is written"),
        ("--probabilities --stop x", "--stop together with --probabilities: no text is written"),
        (
            "--seed x",
            "invalid value for '--seed': Input should be a valid integer, unable to parse string as an integer",
        ),
        ("another", "got unexpected extra argument(s) (another)"),
    ],
)
def test_wrong_usage_is_exit_code_2_before_anybody_is_asked(
    node: RunningNode, cli: Cli, flags: str, error: str
) -> None:
    done = cli("generate", "x", *flags.split(), home=node.home)
    assert (done.returncode, done.stdout, done.stderr.splitlines()[0]) == (2, "", f"error: {error}")
    assert not node.target.calls


def test_the_next_tokens_are_a_table() -> None:
    rows = [
        {"token": 32, "text": " ", "probability": 0.5},
        {"token": 195, "text": "\N{REPLACEMENT CHARACTER}", "probability": 0.00049},
    ]
    rows.append({"token": 27, "text": "\x1b", "probability": 0.2})
    assert render.candidates(rows).splitlines() == [
        "probability  token  text",
        "50.00%       32     ' '",
        "0.05%        195    '\N{REPLACEMENT CHARACTER}'",
        "20.00%       27     '\\x1b'",
    ]


class Screen(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_on_a_terminal_a_text_moves_no_cursor_and_in_a_file_it_is_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "red \x1b[31m bell \x07\x00 \x9b2J\r grün \N{RIGHT-TO-LEFT OVERRIDE}\n\tend\n"
    monkeypatch.setattr(sys, "stdout", screen := Screen())
    generate_command._show(text)
    assert screen.getvalue() == "red \\x1b[31m bell \\x07\\x00 \\x9b2J\\r grün \\u202e\n\tend\n"
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii", newline="")
    monkeypatch.setattr(sys, "stdout", file)
    generate_command._show(text)
    assert file.buffer.getvalue() == text.encode("ascii", "replace")  # type: ignore[attr-defined]


def test_ctrl_c_ends_the_text_and_its_line(node: RunningNode) -> None:
    command = [sys.executable, "-m", "p2pnode", "generate", "on and on", "--home", str(node.home)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(12) == b"to be\nor not"  # it streams: nothing waits for the end
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, b"") and out.endswith(b"\n")
    assert node.target.calls[-1] == ("generate_end", 7)


def test_it_loads_nothing_heavy_where_a_node_answers(node: RunningNode) -> None:
    code = "import sys; from p2pnode.cli import main; main(); print(*sys.modules)"
    command = [sys.executable, "-c", code, "generate", "x", "--home", str(node.home)]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1].split()
    assert not {"torch", "trio", "numpy", "structlog"} & set(loaded)


# --- where no node runs --------------------------------------------------------------------------------------------------------


def test_a_home_at_rest_writes_with_the_last_model_that_it_proves(at_rest: Home, chain: Chain, cli: Cli) -> None:
    done = cli("generate", "line", "--max-tokens", 20, "--json", home=at_rest)
    found = json.loads(done.stdout)
    text, ending = write(chain.replicas[6], "line", Settings(max_tokens=20))
    assert (found["text"], found["token_ids"]) == (text, list(ending.tokens))
    assert (found["height"], found["model_root"]) == (6, chain.states[6].model_root.hex())
    assert done.stderr == f"no running node in {at_rest}: from its last certified model\n"
    assert at_rest.running_pid() is None


def test_where_payloads_are_missing_it_says_how_far_the_model_is(tmp_path: Path, chain: Chain, cli: Cli) -> None:
    home = survivor(tmp_path / "gaps", chain, heights=6, snapshots=(3,), lost=5)
    done = cli("generate", "line", "--max-tokens", 3, home=home)
    assert done.returncode == 0 and "height 4 · " in done.stderr
    assert "its chain goes on to height 6, but no payloads are here beyond 4" in done.stderr


def test_no_home_is_no_running_node(home: Home, cli: Cli) -> None:
    done = cli("generate", "x", home=home)
    assert (done.returncode, done.stdout) == (4, "") and done.stderr.startswith(f"error: no running node in {home}")
    with home.locked():
        done = cli("generate", "x", home=home)
    assert done.returncode == 4 and "is starting or ending there" in done.stderr


@pytest.mark.parametrize("prompt", ["", "\n", "a\x00b", "\udcff\udc80", "😀" * 300, "x" * 5000])
def test_no_prompt_is_odd_enough(at_rest: Home, shell: Cli, prompt: str) -> None:
    """From stdin, where any byte can come."""
    done = shell_bytes(prompt.encode(errors="surrogateescape"), "--max-tokens", "5", "--json", home=at_rest)
    assert done["tokens"] == 5


def shell_bytes(stdin: bytes, *flags: str, home: Home) -> dict[str, Any]:
    command = [sys.executable, "-W", "error", "-m", "p2pnode", "generate", "-", *flags, "--home", str(home)]
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=60, check=True)
    return dict(json.loads(done.stdout))


def test_a_prompt_without_end_is_refused(at_rest: Home) -> None:
    with Path("/dev/zero").open("rb") as endless:
        command = [sys.executable, "-m", "p2pnode", "generate", "-", "--home", str(at_rest)]
        done = subprocess.run(command, stdin=endless, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "error: a prompt of 4194305 characters, at most 1048576 are read" in done.stderr


def test_a_snapshot_writes_by_itself(at_rest: Home, chain: Chain, cli: Cli, home: Home) -> None:
    file = at_rest.snapshots / "000000000004.safetensors"
    done = cli("generate", "line", "--max-tokens", 9, "--model", file, "--json", home=home)
    found = json.loads(done.stdout)
    assert found["text"] == write(chain.replicas[4], "line", Settings(max_tokens=9))[0]
    assert (found["height"], found["model_root"]) == (None, chain.states[4].model_root.hex())
    assert not home.initialised


def test_a_folder_that_transformers_loads_writes_by_itself(tmp_path: Path, chain: Chain, cli: Cli, home: Home) -> None:
    folder, replica = tmp_path / "model", chain.replicas[4]
    folder.mkdir()
    write_model(folder, replica.config, replica.theta, end=None)
    done = cli("generate", "line", "--model", folder, home=home)
    assert (done.returncode, done.stdout) == (3, "") and "no tokenizer.json says what its tokens mean" in done.stderr
    (folder / "tokenizer.json").write_bytes(ByteTokenizer().to_json())
    found = json.loads(cli("generate", "line", "--max-tokens", 9, "--model", folder, "--json", home=home).stdout)
    assert found["text"] == write(replica, "line", Settings(max_tokens=9))[0]
    assert (found["height"], found["model_root"]) == (None, None)
    done = cli("generate", "line", "--max-tokens", 9, "--model", folder, home=home)
    assert done.stderr.startswith("9 tokens") and not home.initialised
    (folder / "config.json").write_text("{}")
    done = cli("generate", "line", "--model", folder, home=home)
    assert done.stderr.startswith(f"error: {folder}/config.json: model_type is null")


def test_a_snapshot_of_words_asks_which_words(tmp_path: Path, home: Home, cli: Cli) -> None:
    from dataclasses import replace

    file = tmp_path / "model.safetensors"
    replica_of(replace(MODEL, vocabulary=6)).save(file, {})
    done = cli("generate", "x", "--model", file, home=home)
    assert done.returncode == 1
    assert f"error: {file}: a model of 6 words, and no home that says which" in done.stderr


def test_a_network_of_words_writes_words_at_rest_and_from_a_snapshot(tmp_path: Path, home: Home, cli: Cli) -> None:
    size, text, tokenizer = tmp_path / "size.json", tmp_path / "text.txt", tmp_path / "tokenizer.json"
    vocabulary = words("to", "be", "or", "not")
    size.write_text(json.dumps({**SMALL, "vocabulary": vocabulary.vocabulary}))
    text.write_text("to be or not to be\n" * 5000)
    tokenizer.write_bytes(vocabulary.to_json())
    flags = ["--size", size, "--data", text, "--tokenizer", tokenizer, "--seed", 3]
    founded = cli("init", *flags, home=home)
    assert founded.returncode == 0, founded.stderr
    found = json.loads(cli("generate", "to be", "--max-tokens", 12, "--json", home=home).stdout)
    assert (found["height"], found["prompt_tokens"]) == (0, 2)
    assert found["text"] == text_after(
        vocabulary, vocabulary.encode("to be"), [t for t in found["token_ids"] if t != 1]
    )
    genesis = parse(home.genesis.read_bytes())
    file = tmp_path / "model.safetensors"
    first_model(genesis, None).save(file, {})
    same = json.loads(cli("generate", "to be", "--max-tokens", 12, "--json", "--model", file, home=home).stdout)
    assert (same["text"], same["model_root"]) == (found["text"], found["model_root"])


@pytest.mark.parametrize("what", ["none", "directory", "text", "cut", "large-header"])
def test_what_is_no_snapshot_is_one_line(what: str, at_rest: Home, tmp_path: Path, home: Home, cli: Cli) -> None:
    file = tmp_path / "model"
    sound = (at_rest.snapshots / "000000000004.safetensors").read_bytes()
    match what:
        case "directory":
            file.mkdir()
        case "text":
            file.write_text("a text that is no model\n")
        case "cut":
            file.write_bytes(sound[: len(sound) // 2])
        case "large-header":
            file.write_bytes((1 << 40).to_bytes(8, "little") + sound[8:])
    done = cli("generate", "x", "--model", file, home=home)
    assert (done.returncode, done.stdout) == (3 if what == "directory" else 1, "")
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr and len(done.stderr.splitlines()) <= 2


# --- a real node ---------------------------------------------------------------------------------------------------------------


def test_a_node_writes_while_it_trains_and_its_home_the_same_when_it_has_ended(
    machines: Callable[[str], Machine], tmp_path: Path, cli: Cli
) -> None:
    node = machines("one")
    founder(node, tmp_path)
    before = node.until(lambda s: s["height"] >= 2)["height"]
    pieces = node.client.generate("It was", {"max_tokens": 100_000, "seed": 1})
    begun = next(pieces)
    piece = begun
    while piece["ended"] is None:  # rounds go on beside it
        piece = next(pieces)
        if node.status().get("height", 0) >= before + 3:
            break
    assert piece["tokens"] > begun["tokens"] and piece["ended"] is None
    several = [node.client.generate("It was", {"max_tokens": 100_000}) for _ in range(3)]
    assert all(next(each)["tokens"] for each in several)
    with pytest.raises(UserError, match="4 texts are being written already"):
        next(node.client.generate("It was", {}))
    several[0].close()
    greedy = json.loads(cli("generate", "It was", "--max-tokens", 30, "--json", home=node.home).stdout)
    assert node.roots()[greedy["height"]] == greedy["model_root"]
    node.client.pause()
    idle = json.loads(cli("generate", "It was", "--max-tokens", 30, "--json", home=node.home).stdout)
    # It ends in the middle of texts, and leaves nothing behind.
    assert node.end(signal.SIGINT) == 0
    with pytest.raises(UserError, match="no running node"):
        list(pieces)
    rested = json.loads(cli("generate", "It was", "--max-tokens", 30, "--json", home=node.home).stdout)
    assert rested["height"] >= idle["height"]
    if rested["height"] == idle["height"]:
        assert (rested["text"], rested["model_root"]) == (idle["text"], idle["model_root"])
    assert rested["text"].strip()
