"""``p2pnode doctor``: each thing that can stand in a node's way, found and named, with what to do."""

import json
import os
import socket
import time
from pathlib import Path

import pytest

from cuda_ext import Status
from p2pnode import doctor
from p2pnode.config import Config, Endpoint
from p2pnode.doctor import ADVICE, OK, UNKNOWN, WRONG, Check, Report, check_clock, check_disk, check_home, meet
from p2pnode.home import Home
from tests.p2pnode.little import identities, make_genesis
from tests.p2pnode.test_node import make_home
from tests.transport.net import open_network
from transport import Address

from .conftest import Cli, RunningNode

CHECKS = ["home", "disk", "kernels", "clock", "port", "bootstrap", "reachable"]


def states(checks) -> dict[str, str]:
    return {check.check: check.state for check in checks}


def config_of(path: Path, *bootstrap: Endpoint, listen: Endpoint | None = None) -> Config:
    listen = listen or Endpoint("127.0.0.1", 0)
    return Config(home=path, bootstrap=bootstrap, listen=listen, origins={"listen": "--listen"})


# --- the whole list ------------------------------------------------------------------------------------------------------------


def test_before_anything_is_there_it_says_what_comes_first(cli: Cli, tmp_path: Path) -> None:
    done = cli("doctor", "--listen", "127.0.0.1:0", home=Home(tmp_path / "none"))
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == CHECKS
    assert lines[1].strip() == "-> p2pnode start makes it"
    assert "-> p2pnode start --bootstrap HOST:PORT joins a network" in done.stdout
    assert not (tmp_path / "none").exists()


def test_a_running_node_is_asked(node: RunningNode, cli: Cli) -> None:
    done = cli("doctor", "--json", home=node.home)
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["verdict"]) == (0, "ok")
    assert [check["check"] for check in answer["checks"]] == CHECKS
    assert {check["state"] for check in answer["checks"] if check["check"] != "kernels"} == {
        OK
    }  # not all machines compile
    assert answer["checks"][-1]["what"] == "yes (dialed back by 2 peers)"
    assert answer["checks"][5]["what"] == "connected to 3 peers"


def test_what_a_running_node_lacks_is_named_with_what_to_do(node: RunningNode, cli: Cli) -> None:
    text = "no: open TCP port 7337 to this machine, in its firewall and in the router (2 peers tried at 8.8.4.4:7337: no answer)"
    node.target.state |= {
        "reachable": {"verdict": "no", "text": text},
        "clock_seconds": -7200.0,
        "peers": 0,
        "bootstrap_failures": {"192.0.2.1:7337": "no answer"},
    }
    done = cli("doctor", home=node.home)
    assert done.returncode == 5
    assert "clock      wrong    7200 s ahead of the peers'\n" in done.stdout
    assert "bootstrap  wrong    192.0.2.1:7337: no answer\n" in done.stdout
    assert "reachable  advice   no (2 peers tried at 8.8.4.4:7337: no answer)\n" in done.stdout
    assert (
        "-> open TCP port 7337 to this machine, in its firewall and in the router; the node takes part all the same"
        in (done.stdout)
    )


def test_not_to_be_reachable_is_no_fault() -> None:
    report = Report((Check("reachable", ADVICE, "no"), Check("clock", UNKNOWN, "")))
    assert report.is_well
    assert not Report((*report.checks, Check("port", WRONG, ""))).is_well


def test_what_a_stranger_says_does_not_drive_the_terminal() -> None:
    assert "\x1b" not in Report((Check("bootstrap", WRONG, "said: \x1b[31m"),)).text()


# --- the machine ---------------------------------------------------------------------------------------------------------------


def test_a_home_and_its_key_are_the_owners_alone(tmp_path: Path) -> None:
    founders = identities(1)
    genesis = make_genesis(founders)
    home = make_home(tmp_path / "home", founders[0], genesis)
    found, check = check_home(home)
    assert (found.genesis, found.key, check.state) == (genesis, founders[0].public_key, OK)
    assert genesis.chain_id.hex()[:12] in check.what
    home.key.chmod(0o644)
    assert check_home(home)[1].state == WRONG
    home.key.chmod(0o600)
    home.path.chmod(0o777)
    _, check = check_home(home)
    assert (check.state, check.do) == (WRONG, f"chmod 700 {home}")
    home.path.chmod(0o700)
    home.genesis.write_text("{}")
    assert check_home(home)[1].state == WRONG


def test_a_disk_needs_room_and_must_not_be_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check = check_disk(tmp_path / "not" / "there", None)
    assert check.state == OK and "GB free, a flush takes" in check.what
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(doctor, "FLUSH_SECONDS_MAX", 0.0)
    assert check_disk(tmp_path, None).state == ADVICE
    monkeypatch.setattr(doctor, "SPARE_BYTES", 1 << 70)
    assert check_disk(tmp_path, None).state == WRONG
    monkeypatch.setattr(os, "fdatasync", lambda _: (tmp_path / "gone").stat())
    assert check_disk(tmp_path, None).what.endswith("no such file or directory")


def test_kernels_are_good_to_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line for each way in which they can be there or not."""
    for status, state in (
        (Status("avx512bf16 on the CPU", cpu="avx512bf16"), OK),
        (Status("plain torch (P2PNODE_EXT=off)"), OK),
        (Status("plain torch, no cpu kernels built of these sources", hint="python -m cuda_ext.build"), ADVICE),
        (Status("P2PNODE_EXT is 'on'", hint="it is one of auto, off, require", is_refused=True), WRONG),
    ):
        monkeypatch.setattr("cuda_ext.status", lambda status=status: status)
        assert doctor.check_kernels() == Check("kernels", state, status.what, status.hint)


def test_a_gpu_that_runs_without_its_kernels_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cuda_ext.status", lambda: Status("avx2 on the CPU, CUDA", cpu="avx2", cuda=True))
    monkeypatch.setattr(
        "cuda_ext.gpus_in_plain_torch", lambda: ["Tesla V100 (sm_70) runs plain torch: no kernel image"]
    )
    check = doctor.check_kernels()
    assert check.state == ADVICE and check.do == doctor.OLD_GPU_HINT
    assert check.what == "avx2 on the CPU, CUDA; Tesla V100 (sm_70) runs plain torch: no kernel image"
    monkeypatch.setattr("cuda_ext.gpus_in_plain_torch", list)
    assert doctor.check_kernels() == Check("kernels", OK, "avx2 on the CPU, CUDA")


def test_a_clock_is_compared_with_the_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_clock(None).state == UNKNOWN
    assert check_clock(-0.3) == Check("clock", OK, "0.3 s from the peers'")
    assert check_clock(90.0).what == "90 s behind the peers'"
    assert check_clock(-90.0).state == WRONG
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert check_clock(0.0).what == "it says " + time.strftime("%Y-%m-%d")


# --- where no node runs --------------------------------------------------------------------------------------------------------


async def test_a_node_for_a_moment_meets_the_network_and_is_dialed_back(tmp_path):
    async with open_network() as network:
        first = await network.node()
        second = await network.node(first)
        bootstrap = Endpoint("127.0.0.1", first.address.port)
        checks = await meet(config_of(tmp_path, bootstrap), None, own_key=None)
        assert states(checks) == {"clock": OK, "port": OK, "bootstrap": OK, "reachable": OK}
        assert checks[-1].what.startswith("yes, from this machine (dialed back by ")
        await network.until(lambda: len(first.swarm.peers()) == len(second.swarm.peers()) == 1)


async def test_another_network_and_nobody_there_are_told_apart(tmp_path):
    founders = identities(1)
    async with open_network() as network:
        other = await network.node()
        with socket.socket() as held:
            held.bind(("127.0.0.1", 0))
            nobody = Endpoint("127.0.0.1", held.getsockname()[1])
            config = config_of(tmp_path, Endpoint("127.0.0.1", other.address.port), nobody)
            checks = await meet(config, make_genesis(founders), own_key=founders[0].public_key)
    bootstrap = checks[2]
    assert bootstrap.state == WRONG
    assert f"{nobody}: nobody listens there" in bootstrap.what
    assert "it is on network" in bootstrap.what


async def test_a_taken_port_is_a_fault_only_where_it_was_chosen(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = Endpoint(*taken.getsockname())
        checks = await meet(config_of(tmp_path, listen=listen), None, own_key=None)
        assert states(checks) == {"clock": UNKNOWN, "port": WRONG, "bootstrap": UNKNOWN, "reachable": UNKNOWN}
        assert "the port is taken" in checks[1].what
        checks = await meet(Config(home=tmp_path, listen=listen), None, own_key=None)
        assert checks[1].state == OK
        assert checks[1].what.startswith(f"{Address(listen.host, listen.port)} is taken, 127.0.0.1:")
