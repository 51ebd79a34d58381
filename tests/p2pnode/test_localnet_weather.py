"""Shaped links: what may be asked for, the file that nodes read, and the shim, whose time is virtual wherever time matters."""

import math
import random
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from p2pnode.errors import UserError
from p2pnode.localnet import LocalnetOptions
from p2pnode.localnet.options import check_options
from p2pnode.localnet.processes import node_command
from p2pnode.localnet.shim import (
    PIECE_BYTES,
    RESEND_SECONDS,
    WINDOW_BYTES,
    DialedStream,
    Pace,
    ShapedMachine,
    Way,
    pieces,
    speed_left_by_loss,
    stall,
)
from p2pnode.localnet.verdict import Cut
from p2pnode.localnet.weather import FAIR, Partition, Weather, parse_partition, read_forecast, write_forecast

# --- flags -------------------------------------------------------------------------------------------------------------------


def test_a_partition_as_text() -> None:
    assert parse_partition("10:5:1,2/3,4") == Partition(10, 5, ((1, 2), (3, 4)))
    assert parse_partition("0:0.5:4").words() == "4"
    assert parse_partition("1:2:3>1,2") == Partition(1, 2, ((3,), (1, 2)), one_way=True)


@pytest.mark.parametrize(
    "text", ["", "1:2", "1:2:", "1:2:a", "1:2:1,/2", "x:2:1", "1:0:1", "-1:2:1", "1:2:1>2>3", "1:inf:1", "nan:1:1"]
)
def test_what_is_no_partition_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UserError) as refusal:
        parse_partition(text)
    assert refusal.value.message == f"--partition {text}: not AT:SECONDS:GROUPS"
    assert "10:5:1,2/3,4" in (refusal.value.hint or "")


REFUSED = [
    (Weather(latency_ms=-1), "--latency -1: out of range"),
    (Weather(latency_ms=10, jitter_ms=11), "--jitter 11: out of range"),
    (Weather(drop=1), "--drop 1: out of range"),
    (Weather(drop=float("nan")), "--drop nan: out of range"),
    (Weather(bandwidth_mbit=0), "--bandwidth 0: out of range"),
    (Weather(partitions=(Partition(1, 1, ((5,),)),)), "--partition: no node 5"),
    (Weather(partitions=(Partition(1, 1, ((1,), (1, 2))),)), "--partition: 1/1,2 names a node twice"),
]


@pytest.mark.parametrize(("weather", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_cannot_be_is_refused_by_the_name_of_its_flag(weather: Weather, message: str) -> None:
    with pytest.raises(UserError) as refusal:
        check_options(LocalnetOptions(weather=weather))
    assert refusal.value.message == message
    assert refusal.value.hint


def test_who_is_cut_from_whom() -> None:
    halves = parse_partition("0:1:1,2/3")
    assert halves.sides(range(1, 6)) == ((1, 2), (3,), (4, 5))
    assert not halves.cuts(1, 2) and not halves.cuts(4, 5) and not halves.cuts(0, 4)
    assert halves.cuts(1, 3) and halves.cuts(3, 1) and halves.cuts(2, 4) and halves.cuts(0, 3)
    one_way = parse_partition("0:1:3>1,2")
    assert one_way.cuts(3, 1) and not one_way.cuts(1, 3) and not one_way.cuts(3, 4)
    assert one_way.sides([1, 2, 3, 4]) == ((1, 2, 3, 4),)


def test_a_cut_knows_whether_any_side_can_still_decide() -> None:
    assert Cut.of(parse_partition("0:1:4"), members=range(1, 5), height=3).quorum
    assert not Cut.of(parse_partition("0:1:1,2"), members=range(1, 5), height=3).quorum
    assert not Cut.of(parse_partition("0:1:1,2"), members=range(1, 7), height=3).quorum, (
        "exactly two thirds are not enough"
    )


# --- the file ----------------------------------------------------------------------------------------------------------------


def test_the_file_says_what_was_asked_for_and_when_it_began(tmp_path: Path) -> None:
    path = tmp_path / "weather.json"
    weather = Weather(20, 5, 8, 0.01, (parse_partition("2:3:1/2"), parse_partition("9:1:2>1")))
    write_forecast(path, weather, [1001, 1002], seed=7, began=None)
    waiting = read_forecast(path)
    assert waiting.weather == weather and waiting.seed == 7
    assert not waiting.is_cut(1001, 1002, now=3.0)
    write_forecast(path, weather, [1001, 1002], seed=7, began=100.0)
    begun = read_forecast(path)
    assert [begun.is_cut(1001, 1002, now=now) for now in (101.9, 102.0, 104.9, 105.0, 109.5)] == [0, 1, 1, 0, 0]
    assert begun.is_cut(1002, 1001, now=109.5)
    assert begun.is_cut(1001, 4711, now=103.0), "a node that came later is with those that are not named"
    assert [file.name for file in tmp_path.iterdir()] == ["weather.json"]


async def test_a_node_learns_of_a_partition_when_training_begins(tmp_path: Path, autojump_clock: Any) -> None:
    path = tmp_path / "weather.json"
    weather = Weather(partitions=(parse_partition("1:1:1/2"),))
    write_forecast(path, weather, [1001, 1002], seed=0, began=None)
    machine = ShapedMachine(path, 1001, clock=trio.current_time)
    assert not machine.is_cut(1001, 1002)
    write_forecast(path, weather, [1001, 1002], seed=0, began=trio.current_time())
    await trio.sleep(1.5)
    assert machine.is_cut(1001, 1002)
    await trio.sleep(1)
    assert not machine.is_cut(1001, 1002)


def test_only_a_local_network_starts_its_nodes_so(tmp_path: Path) -> None:
    here, forecast = "127.0.0.1:1001", tmp_path / "weather.json"
    honest = node_command(tmp_path, listen=here, peers=[], attack=None, forecast=forecast)
    liar = node_command(tmp_path, listen=here, peers=[], attack="huge", forecast=forecast)
    assert honest[3:8] == ("p2pnode.localnet.shaped", str(tmp_path / "weather.json"), "1001", "p2pnode", "start")
    assert liar[3:7] == ("p2pnode.localnet.shaped", str(tmp_path / "weather.json"), "1001", "p2pnode.attacks")
    assert "p2pnode.localnet.shaped" not in node_command(tmp_path, listen=here, peers=[], attack=None)


def test_shaped_runs_the_module_that_it_is_given(tmp_path: Path) -> None:
    """`shaped.py`, as a process of its own."""
    write_forecast(tmp_path / "weather.json", FAIR, [1001], seed=0, began=None)
    command = [sys.executable, "-P", *("-m", "p2pnode.localnet.shaped"), str(tmp_path / "weather.json"), "1001"]
    said = subprocess.run([*command, "p2pnode", "version"], capture_output=True, text=True, check=True)
    plain = subprocess.run([*command[:3], "p2pnode", "version"], capture_output=True, text=True, check=True)
    assert said.stdout == plain.stdout != ""


# --- the shim, in virtual time -----------------------------------------------------------------------------------------------


def way(weather: Weather, *, is_cut: Any = lambda: False) -> Way:
    return Way(weather, random.Random(1), is_cut)


async def test_bytes_take_the_latency_and_stay_in_order(autojump_clock: Any) -> None:
    link = way(Weather(latency_ms=50, jitter_ms=40))
    began, took, got = trio.current_time(), [], b""
    for number in range(100):
        await link.put(bytes([number]))
    link.end()
    while data := await link.take():
        took.append(trio.current_time() - began)
        got += data
    assert got == bytes(range(100))
    assert took[0] >= 0.010 and took[-1] <= 0.090
    assert all(a <= b for a, b in pairwise(took))


async def test_what_a_node_sends_shares_one_uplink(autojump_clock: Any) -> None:
    pace, ended = Pace(100_000.0), {}

    async def send(name: str, count: int) -> None:
        for piece in pieces(bytes(count)):
            await pace.passes(len(piece))
        ended[name] = trio.current_time()

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send, "bulk", 20 * PIECE_BYTES)
        nursery.start_soon(send, "other bulk", 20 * PIECE_BYTES)
        nursery.start_soon(send, "vote", 200)
    everything = (40 * PIECE_BYTES + 200) / 100_000
    assert max(ended.values()) - began == pytest.approx(everything, abs=0.01)
    assert ended["vote"] - began <= 3 * PIECE_BYTES / 100_000, "it waits for a piece of each, not for all of them"


async def test_a_cut_loses_nothing_and_heals_when_tcp_tries_again(autojump_clock: Any) -> None:
    began = trio.current_time()
    link = way(Weather(latency_ms=10), is_cut=lambda: trio.current_time() - began < 5)
    await link.put(b"first")
    await link.put(b" second")
    assert await link.take() == b"first second"
    assert trio.current_time() - began == pytest.approx(0.01 + RESEND_SECONDS * (1 + 2 + 4 + 8 + 16))


async def test_a_sender_waits_while_too_much_is_on_its_way(autojump_clock: Any) -> None:
    link = way(Weather(latency_ms=1000))
    began = trio.current_time()
    await link.put(bytes(WINDOW_BYTES))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.put, b"more")
        assert len(await link.take()) == WINDOW_BYTES
    assert trio.current_time() - began == 1.0


async def test_whoever_waits_for_a_link_that_breaks_is_told(autojump_clock: Any) -> None:
    link = way(FAIR)
    async with trio.open_nursery() as nursery:

        async def break_off() -> None:
            await trio.testing.wait_all_tasks_blocked()
            link.break_off()

        nursery.start_soon(break_off)
        with pytest.raises(trio.BrokenResourceError):
            await link.take()
    await link.put(b"nobody is there")


def test_loss_is_a_wait_longer_for_what_goes_alone() -> None:
    dice, weather = random.Random(3), Weather(latency_ms=20, drop=0.05)
    alone = [stall(weather, dice, 300) for _ in range(4000)]
    many = [stall(weather, dice, 20 * 1448) for _ in range(4000)]
    assert sum(map(bool, alone)) == pytest.approx(4000 * 0.05, rel=0.3)
    assert sum(map(bool, many)) == pytest.approx(4000 * (1 - 0.95**20), rel=0.1)
    assert min(filter(None, alone)) == RESEND_SECONDS + 0.040
    assert min(filter(None, many)) == 0.040
    assert stall(Weather(latency_ms=20), dice, 300) == 0


def test_loss_leaves_a_connection_the_speed_of_congestion_control() -> None:
    assert speed_left_by_loss(Weather(latency_ms=20)) == math.inf
    assert speed_left_by_loss(Weather(latency_ms=20, drop=0.01)) == pytest.approx(1.22 * 1448 / (0.040 * 0.1), rel=0.01)


# --- the shim, on real sockets: nothing here measures time -------------------------------------------------------------------


@pytest.mark.parametrize("weather", [FAIR, Weather(latency_ms=2, jitter_ms=1, bandwidth_mbit=400, drop=0.001)])
async def test_both_ends_get_what_the_other_sent_and_the_end_after_it(tmp_path: Path, weather: Weather) -> None:
    path = tmp_path / "weather.json"
    write_forecast(path, weather, [1001, 1002], seed=0, began=None)
    one, other = ShapedMachine(path, 1001), ShapedMachine(path, 1002)
    (listener,) = await one.listen("127.0.0.1", 0)
    dialed = await other.connect("127.0.0.1", listener.socket.getsockname()[1])
    accepted = await listener.accept()
    up, down = random.Random(1).randbytes(300_000), random.Random(2).randbytes(300_000)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(dialed.send_all, up)
        nursery.start_soon(accepted.send_all, down)
        assert await _exactly(accepted, len(up)) == up
        assert await _exactly(dialed, len(down)) == down
    await dialed.send_all(b"bye")
    await dialed.aclose()
    assert await _exactly(accepted, 3) == b"bye"
    assert await accepted.receive_some() == b""
    with pytest.raises(trio.ClosedResourceError):
        await dialed.send_all(b"late")
    with pytest.raises(trio.ClosedResourceError):
        await dialed.receive_some()
    await accepted.aclose()
    await listener.aclose()


async def test_the_dialing_end_hears_that_the_other_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "weather.json"
    write_forecast(path, FAIR, [1001, 1002], seed=0, began=None)
    machine = ShapedMachine(path, 1001)
    (listener,) = await machine.listen("127.0.0.1", 0)
    dialed = await machine.connect("127.0.0.1", listener.socket.getsockname()[1])
    accepted = await listener.accept()
    await accepted.send_all(b"bye")
    await accepted.aclose()
    assert await dialed.receive_some(1) + await dialed.receive_some() == b"bye"
    assert await dialed.receive_some() == b""
    with pytest.raises(trio.BrokenResourceError):
        await dialed.send_all(b"hello?")
    await dialed.aclose()
    await listener.aclose()


async def _exactly(stream: trio.abc.ReceiveStream | DialedStream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = await stream.receive_some()
        assert more
        data += more
    return data
