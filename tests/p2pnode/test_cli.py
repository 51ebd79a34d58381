"""The command line as a shell sees it: real processes, exit codes, stdout for data, stderr for talk."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from p2pnode import cli as command_line
from p2pnode.config import Config, load_config
from p2pnode.errors import SetUpError
from p2pnode.home import Home
from p2pnode.logs import get_logger, read_log
from p2pnode.tokens import Token, token_text

from .conftest import NODE, TOKEN, Cli, RunningNode


def test_in_a_real_process_each_exit_code_is_what_the_shell_sees(node: RunningNode, shell: Cli, tmp_path: Path) -> None:
    done = shell("status", home=node.home)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("healthy: ")
    assert "\x1b" not in done.stdout, "no colour into a pipe"
    assert shell("test", home=node.home).returncode == 1
    assert shell("stauts").returncode == 2
    assert shell("start", home=node.home).returncode == 3
    assert shell("peers", home=Home(tmp_path / "none")).returncode == 4
    node.target.state |= {"verdict": "degraded"}
    assert shell("status", "--json", home=node.home).returncode == 5
    assert shell("attach", home=node.home, stdin="pause\n").stdout == "state  paused\n"
    assert shell("stop", home=node.home).returncode == 0


READS = ["status", "peers", "rounds", "trace 12", "log"]


@pytest.mark.parametrize("words", READS)
def test_every_read_prints_for_people_and_for_programs(node: RunningNode, cli: Cli, words: str) -> None:
    text = cli(*words.split(), home=node.home)
    assert (text.returncode, text.stderr) == (0, "")
    assert text.stdout.strip()
    answer = cli(*words.split(), "--json", home=node.home)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert json.loads(answer.stdout)


@pytest.mark.parametrize("words", [*READS[:4], "evidence", "log", "train", "pause", "test", "stop", "attach"])
def test_no_running_node_is_exit_code_4(home: Home, cli: Cli, words: str) -> None:
    done = cli(*words.split(), home=home)
    assert (done.returncode, done.stdout) == (4, "")
    assert (
        done.stderr == f"error: no running node in {home}\nhint: p2pnode start starts one; --home names another home\n"
    )


def test_an_unhealthy_node_is_exit_code_5(node: RunningNode, cli: Cli) -> None:
    node.target.state |= {"verdict": "halted", "reason": "no quorum: 2 of 5 members reachable, 4 needed"}
    done = cli("status", home=node.home)
    assert (done.returncode, done.stderr) == (5, "")
    assert done.stdout.startswith("halted: no quorum: 2 of 5 members reachable, 4 needed\n")
    assert cli("status", "--json", home=node.home).returncode == 5
    node.target.state |= {"verdict": "idle", "reason": "nobody is training"}
    assert cli("status", home=node.home).returncode == 0


def test_a_refusal_of_the_node_is_exit_code_1(node: RunningNode, cli: Cli) -> None:
    done = cli("test", home=node.home)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "error: test: one probe per 10 heights, the last was at height 9\nhint: try again at height 19\n"
    )
    done = cli("trace", 99, home=node.home)
    assert done.stderr.startswith("error: height 99: this node has no trace of it\nhint: ")


def test_commands_reach_the_node(node: RunningNode, cli: Cli) -> None:
    assert cli("train", 5, home=node.home).stdout == "state         training\nuntil height  17\n"
    assert json.loads(cli("train", "--json", home=node.home).stdout)["until_height"] is None
    assert cli("pause", home=node.home).stdout == "state  paused\n"
    assert node.target.calls == [("train", 5), ("train", None), "pause"]


def test_stop_waits_until_the_node_is_gone(node: RunningNode, cli: Cli) -> None:
    done = cli("stop", home=node.home)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "stopped\n")
    assert node.home.running_pid() is None
    assert not node.home.control_socket().exists()


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        ("stauts", "no such command 'stauts'", "did you mean 'status'"),
        ("status --jsn", "no such option: --jsn", "p2pnode status --help"),
        ("trace", "missing argument 'HEIGHT'", "p2pnode trace --help"),
        ("trace x", "invalid value for 'HEIGHT'", "p2pnode trace --help"),
        ("rounds --last 0", "invalid value for '--last'", "p2pnode rounds --help"),
        ("start --listen 1:2:3", "--listen '1:2:3': an IPv6 address needs brackets", "it takes HOST:PORT"),
        ("start --bootstrap nowhere", "--bootstrap ['nowhere']: not HOST:PORT", "it takes HOST:PORT"),
        ("start --threads 0", "--threads 0: not valid", "it takes a whole number from 1"),
        ("start --precision fp16", "--precision fp16: fp16 on a CPU", "take bf16"),
        ("start --policy closed", "--policy 'closed': not valid", "it takes open or invite"),
        (
            "init --genesis g.json --size tiny",
            "--genesis with --size: the file has decided these",
            "give --genesis alone",
        ),
        ("init --genesis g.json --from d --seed 1", "--genesis with --from, --seed: the file", "give --genesis alone"),
        (
            "init --from d --moe --seed 1",
            "--from with --moe, --seed: the folder has decided these",
            "give --from alone",
        ),
    ],
)
def test_wrong_usage_is_exit_code_2(cli: Cli, words: str, error: str, hint: str) -> None:
    done = cli(*words.split())
    assert (done.returncode, done.stdout) == (2, "")
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    assert lines[0].lower().startswith(f"error: {error}".lower())
    assert lines[1].startswith(f"hint: {hint}")


def test_a_second_start_in_one_home_is_exit_code_3(home: Home, cli: Cli) -> None:
    with home.locked():
        done = cli("start", home=home)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith(f"error: home {home}: a node is running in it already (pid {os.getpid()})\nhint: ")


def test_a_corrupt_config_is_exit_code_3(home: Home, cli: Cli) -> None:
    home.config.write_text("threads = many\n")
    for words in (["start"], ["config", "show"]):
        done = cli(*words, home=home)
        assert done.returncode == 3
        assert done.stderr.startswith(f"error: {home.config}:1: not valid TOML: ")
        assert "Traceback" not in done.stderr


def test_config_show_says_where_each_value_comes_from(home: Home, cli: Cli) -> None:
    home.config.write_text('size = "small"\n')
    lines = cli("config", "show", "--origin", home=home, P2PNODE_NAME="alice").stdout.splitlines()
    rows = [line.split() for line in lines]
    assert rows[0] == ["setting", "value", "origin"]
    assert ["name", "alice", "P2PNODE_NAME"] in rows
    assert ["size", "small", "config.toml"] in rows
    assert ["listen", "127.0.0.1:7337", "default"] in rows
    values = json.loads(cli("config", "show", "--origin", "--json", home=home).stdout)
    assert values["size"] == {"value": "small", "origin": "config.toml"}
    assert json.loads(cli("config", "show", "--json", P2PNODE_HOME=str(home)).stdout)["home"] == str(home)


def test_id_makes_a_key_once_and_keeps_it_private(home: Home, cli: Cli) -> None:
    first = cli("id", "--json", home=home)
    assert first.returncode == 0
    assert first.stderr == f"made a new key: {home.key}\n"
    facts = json.loads(first.stdout)
    assert facts["founder"] == f"{facts['public_key']}@127.0.0.1:7337"
    assert (len(facts["node"]), len(facts["public_key"])) == (40, 64)
    again = cli("id", "--json", home=home, P2PNODE_ANNOUNCE="node.example.org:1")
    assert again.stderr == ""
    assert json.loads(again.stdout) == facts | {"founder": f"{facts['public_key']}@node.example.org:1"}
    home.key.chmod(0o644)
    refused = cli("id", home=home)
    assert refused.returncode == 3
    assert refused.stderr.endswith(f"hint: chmod 600 {home.key}\n")


def test_log_of_a_node_that_has_ended_comes_from_its_file(home: Home, cli: Cli) -> None:
    home.log.write_text('{"time":"2025-01-01T00:00:00+00:00","level":"error","event":"disk full"}\n')
    done = cli("log", home=home)
    assert done.returncode == 0
    assert done.stdout.endswith(" error: disk full\n")
    assert done.stderr == f"no running node; from {home.log}:\n"


def test_help_version_and_no_words_at_all(cli: Cli) -> None:
    for words in ([], ["--help"], ["config"], ["start", "-h"]):
        done = cli(*words)
        assert (done.returncode, done.stderr) == (0, "")
        assert "Usage: p2pnode" in done.stdout
    assert json.loads(cli("version", "--json").stdout)["p2pnode"]


def test_a_reader_that_has_seen_enough_is_no_error(node: RunningNode) -> None:
    command = [sys.executable, "-m", "p2pnode", "log", "--last", "10000", "--home", str(node.home)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""


def test_ctrl_c_while_waiting_is_quiet(node: RunningNode) -> None:
    code = "import sys; from p2pnode.client import Client; Client.test = Client.evaluate; from p2pnode.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "test", "--home", str(node.home)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert node.target.testing.wait(20)
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=20)
    assert (process.returncode, output) == (130, (b"", b""))


def test_commands_that_only_read_load_nothing_heavy(node: RunningNode) -> None:
    code = "import sys; from p2pnode.cli import main; main(); print(*sys.modules)"
    command = [sys.executable, "-c", code, "status", "--home", str(node.home)]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1].split()
    assert not {"torch", "trio", "numpy", "prompt_toolkit", "structlog", "asyncio", "rich"} & set(loaded)


def test_launch_locks_the_home_and_logs_into_it(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    def run(place: Home, config: Config) -> int:
        assert place.running_pid() == os.getpid()
        get_logger().info("node started", name=config.name)
        return 7

    config = load_config({"home": home.path, "name": "alice"}, environ={})
    assert command_line.launch(config, run) == 7
    assert [record["event"] for record in read_log(home.log, 5)] == ["node started"]
    assert capsys.readouterr().err.endswith(" node started name=alice\n")
    assert home.running_pid() is None


def test_errors_inside_trios_groups_are_lines_and_bugs_are_tracebacks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail_with(error: BaseException) -> None:
        def app(**_: object) -> None:
            raise error

        monkeypatch.setattr(command_line, "app", app)

    fail_with(ExceptionGroup("", [SetUpError("port 7337: in use", "use --listen")]))
    assert command_line.main() == 3
    assert capsys.readouterr().err == "error: port 7337: in use\nhint: use --listen\n"
    fail_with(BaseExceptionGroup("", [KeyboardInterrupt()]))
    assert command_line.main() == 130
    fail_with(ExceptionGroup("", [ValueError("bug")]))
    with pytest.raises(ExceptionGroup):
        command_line.main()
    fail_with(BaseExceptionGroup("", [KeyboardInterrupt(), ValueError("bug")]))
    with pytest.raises(BaseExceptionGroup):
        command_line.main()


def test_what_stands_in_a_peers_table_is_short(node: RunningNode, cli: Cli) -> None:
    assert NODE not in cli("peers", home=node.home).stdout
    assert NODE in cli("peers", "--json", home=node.home).stdout


def test_piped_commands_work_without_a_terminal(node: RunningNode, cli: Cli) -> None:
    done = cli("attach", home=node.home, stdin="pause\nstat\n\nquit\npeers\n")
    assert done.returncode == 0
    assert done.stdout == "state  paused\nerror: unknown command: stat\nhint: did you mean stats?\n"
    assert done.stderr == "the node runs on; p2pnode stop ends it\n"


def test_a_home_in_a_long_path_works_like_any_other(tmp_path: Path, cli: Cli) -> None:
    from .conftest import run_node

    home = Home(tmp_path / ("x" * 120))
    home.create()
    for node in run_node(home):
        assert cli("status", home=node.home).returncode == 0
        assert cli("stop", home=node.home).returncode == 0
    assert not home.control_pointer.exists()


def test_an_invitation_is_data_and_what_to_do_with_it_is_talk(node: RunningNode, cli: Cli) -> None:
    done = cli("invite", "--expires", 50, home=node.home)
    assert (done.returncode, done.stdout) == (0, TOKEN + "\n")
    assert done.stderr.splitlines()[0] == "good once, until height 62; the newcomer starts with:"
    assert done.stderr.splitlines()[1].endswith(f"--bootstrap 127.0.0.1:7337 --invite {TOKEN}")
    assert json.loads(cli("invite", "--json", home=node.home).stdout)["expiry_height"] == 10_012
    assert node.target.calls == [("invite", 50), ("invite", None)]


def test_leaving_is_for_good_so_it_is_asked(node: RunningNode, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    done = cli("leave", home=node.home)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: leaving is for good (3 of 4 members remain, 3 needed: no fault tolerated)\n"
        "hint: --yes leaves without a question\n"
    )
    monkeypatch.setattr(command_line, "_at_terminal", lambda: True)
    assert cli("leave", home=node.home, stdin="n\n").returncode == 1
    assert node.target.calls == []
    done = cli("leave", home=node.home, stdin="y\n")
    assert done.stdout == "left at height 12: 3 of 4 members remain, 3 needed: no fault tolerated\n"
    assert json.loads(cli("leave", "--yes", "--json", home=node.home).stdout)["remaining"] == 3
    assert node.target.calls == ["leave", "leave"]


def test_who_asks_to_leave_and_is_not_let_go_hears_so(
    node: RunningNode, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_line, "LEAVE_SECONDS_MAX", 0.0)
    done = cli("leave", "--yes", home=node.home)
    assert done.returncode == 1 and "asked to leave, and not agreed on" in done.stderr


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("init --threshold 50", "with two thirds or less, two halves of a network could decide differently"),
        ("init --policy allowlist", "--policy allowlist names nobody"),
        ("init --allow " + "00" * 32, "--allow: the policy is open, which asks no list"),
        ("init --allow nobody --policy allowlist", "not valid"),
        ("init --genesis g.json --threshold 80", "the file has decided these"),
        ("start --invite p2pnode1-x", "a part of it is missing"),
        ("start --invite " + token_text(Token(bytes(32), bytes(32), 7, bytes(32), bytes(64))), "--invite without"),
    ],
)
def test_who_may_join_is_said_clearly_or_refused(home: Home, cli: Cli, words: str, error: str) -> None:
    done = cli(*words.split(), home=home)
    assert done.returncode in (2, 3) and error in done.stderr and "hint: " in done.stderr
