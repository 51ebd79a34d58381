"""Whole networks on this machine, as a user runs them: real processes, real sockets, the verdict read as JSON.

The short ones use a very small model and few rounds, so that what they spend is mostly the start of the processes. The ``long`` ones
are runs of full length.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from p2pnode.localnet import ATTACKS

SMALL = {"width": 32, "layers": 1, "heads": 2, "key_value_heads": 1, "feed_forward": 64, "context": 128}
SECONDS_MAX = 180.0  # a short run takes ten to twenty
COMMAND = (sys.executable, "-m", "p2pnode", "localnet", "--json")


@pytest.fixture
def small(tmp_path: Path) -> str:
    path = tmp_path / "small.json"
    path.write_text(json.dumps(SMALL))
    return str(path)


def localnet(*flags: str, seconds_max: float = SECONDS_MAX) -> dict[str, Any]:
    """Run it and return its JSON; a verdict other than ok fails the test with everything that the run said."""
    process = subprocess.run([*COMMAND, *flags], capture_output=True, text=True, timeout=seconds_max, check=False)
    said = f"{process.stdout}\n{process.stderr}"
    assert process.stdout.strip(), said
    result: dict[str, Any] = json.loads(process.stdout.strip().splitlines()[-1])
    assert result["verdict"] == "ok", said
    assert process.returncode == 0, said
    assert len(set(result["model_roots"].values())) == 1, said
    return result


def test_four_nodes_train_and_two_of_them_are_killed_on_the_way(small: str) -> None:
    result = localnet("--size", small, "--rounds", "8", "--kill", "2")
    assert result["nodes"] == 4
    assert set(result["heights"].values()) == {8}
    assert result["rounds_committed"] == 8
    assert result["validation_loss_last"] < result["validation_loss_first"]
    assert result["evidence"] == []
    assert len({kill["node"] for kill in result["killed"]}) == 2
    for kill in result["killed"]:
        assert 1 <= kill["height"] <= 8
        assert kill["seconds_down"] > 0


@pytest.mark.parametrize("attack", ATTACKS)
def test_one_of_four_attacks(small: str, attack: str) -> None:
    result = localnet("--size", small, "--rounds", "4", "--byzantine", "1", "--attack", attack)
    (liar,) = result["byzantine"]
    accused = {entry["node"] for entry in result["evidence"]}
    # Only who signed two things for one slot can be proven guilty; a wrong root or silence leaves no such pair.
    assert accused == ({liar} if attack == "equivocate" else set())
    assert set(result["evicted"]) == accused
    assert result["rounds_committed"] == 4  # a hollow proposer throws nothing away
    assert set(result["heights"]) == set(result["model_roots"])
    assert len(result["heights"]) == 3


def test_links_that_are_slow_lose_and_are_cut(small: str) -> None:
    """At first one is cut off and three go on, then nobody can decide, then one link carries nothing one way."""
    cuts = ("4", "1,2/3,4", "3>1")
    times = (
        "0.2:0.8",
        "1.2:0.8",
        "2.2:0.8",
    )  # nobody decides from 1.2 to 2 s: no machine is quick enough to miss the last one
    flags = [word for at, groups in zip(times, cuts, strict=True) for word in ("--partition", f"{at}:{groups}")]
    links = ("--latency", "20", "--jitter", "5", "--drop", "0.01", "--bandwidth", "20")
    result = localnet("--size", small, "--rounds", "10", *links, *flags)
    assert [(cut["groups"], cut["quorum"]) for cut in result["partitions"]] == [
        ("4", True),
        ("1,2/3,4", False),
        ("3>1", True),
    ]
    assert result["rounds_committed"] == 10
    assert result["consensus_seconds_p50"] >= 0.040  # a proposal and two votes, each 20 ms away


def test_ctrl_c_ends_everything_within_two_seconds(small: str, tmp_path: Path) -> None:
    temporary = tmp_path / "t"
    temporary.mkdir()
    mark = f"LOCALNET_TEST_{os.getpid()}"
    environment = {**os.environ, "TMPDIR": str(temporary), mark: "1"}
    flags = ("--size", small, "--rounds", "1000")
    with subprocess.Popen([*COMMAND, *flags], stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("round   1/"):
                break
        asked_at = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.stderr.read()
        process.wait()
    assert time.monotonic() - asked_at < 2
    assert process.returncode == 130
    assert list(temporary.glob("p2pnode*")) == []  # torch makes a folder of its own there
    assert processes_with(mark) == []


def test_what_cannot_work_is_refused_in_one_line_with_a_hint() -> None:
    process = subprocess.run([*COMMAND, "--byzantine", "2"], capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert process.stderr.splitlines() == [
        "error: --byzantine 2: 4 nodes tolerate 1",
        "hint: --nodes 7 or more tolerate 2",
    ]


def processes_with(variable: str) -> list[str]:
    """The command lines of all processes that inherited ``variable``."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if f"\0{variable}=" in f"\0{(entry / 'environ').read_text(errors='replace')}":
                found.append((entry / "cmdline").read_text(errors="replace").replace("\0", " "))
        except OSError:
            continue  # gone, or another user's
    return found


# --- at full length ----------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_the_demonstration_takes_ninety_seconds_at_most() -> None:
    result = localnet(seconds_max=240)
    assert result["rounds_committed"] == 20
    assert result["wall_seconds"] <= 90


@pytest.mark.long
def test_members_leave_and_join_and_die_while_the_network_trains(small: str) -> None:
    result = localnet("--size", small, "--nodes", "6", "--churn", "6", "--minutes", "2", seconds_max=600)
    changes = [row["change"] for row in result["membership"]]
    assert {"left", "joined"} <= set(changes) and result["killed"]
    assert result["rounds_committed"] == result["height"]


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3))
def test_seven_nodes_lose_four_on_the_way(small: str, seed: int) -> None:
    result = localnet(
        "--size", small, "--nodes", "7", "--rounds", "20", "--kill", "4", "--seed", str(seed), seconds_max=400
    )
    assert len(result["killed"]) == 4


@pytest.mark.long
@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_and_a_crash_together(small: str, attack: str) -> None:
    flags = ("--byzantine", "1", "--attack", attack, "--kill", "1")
    result = localnet("--size", small, "--rounds", "20", *flags, seconds_max=400)
    assert len(result["killed"]) == 1
