"""The benchmarks' form, never their figures: a machine that runs tests measures nothing."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from p2pnode.bench import kernels, link, meeting, mover, scale, trainer, transfer
from p2pnode.bench.donor import grow, make_genesis, model_of
from p2pnode.bench.figures import ratios, rival_figures, round_figures, spread
from p2pnode.bench.network import Turn
from p2pnode.bench.show import lag_text, round_text
from p2pnode.bench.sync import text as sync_text
from p2pnode.blocksync import decision_problem
from p2pnode.errors import UserError
from p2pnode.gossip import read_page
from p2pnode.store import Store
from p2pnode.timings import PARTS
from p2pnode.wire import encode_blocks
from transport.events import KindTraffic
from transport.framing import FRAME_BYTES_MAX, Kind

SECONDS_MAX = 120.0
SYNC = [sys.executable, "-P", "-m", "p2pnode.bench", "sync"]


def row(height, *, root="a", seconds=0.2):
    parts = dict.fromkeys((*PARTS, "apply"), 0.01)
    return {
        "height": height,
        "view": 0,
        "model_root": root,
        "contributions": 2,
        "seconds": {**parts, "total": seconds, "agree": 0.05},
    }


def turn(*rows_by_node):
    return Turn(rounds=tuple(tuple(rows) for rows in rows_by_node), statuses=(), cpu_seconds=0.25)


def test_a_round_of_real_nodes_is_told_in_full():
    command = [sys.executable, "-P", "-m", "p2pnode.bench", "round", "--empty", "--rounds", "2", "--json"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_MAX, check=False)
    assert process.returncode == 0, process.stderr
    (result,) = json.loads(process.stdout)
    assert result["nodes"] == 4 and result["heights"] == 2
    assert result["agreement"] == {"every_node_tells_every_height": True, "one_root_at_every_height": True}
    assert 0 <= result["heights_with_every_contribution"] <= 2 and result["view_max"] >= 0
    assert set(result["parts"]) == {*PARTS, "apply"}
    for figure in ("seconds", "agree_seconds", "start_to_decision_seconds"):
        assert 0 < result[figure]["p50"] <= result[figure]["p90"] <= result[figure]["p99"]
    assert result["seconds"]["p99"] < SECONDS_MAX and result["cpu_seconds"] > 0
    assert "one root at every height" in round_text(result)


def test_percentiles_are_samples():
    assert spread([3, 1, 2]) == {"p50": 2, "p90": 3, "p99": 3}
    assert spread(range(1, 101)) == {"p50": 50.5, "p90": 90, "p99": 99}


@pytest.mark.parametrize(
    ("rows", "wrong"),
    [
        (([row(1)], [row(1, root="b")]), "one_root_at_every_height"),
        (([row(1)], []), "every_node_tells_every_height"),
    ],
)
def test_disagreement_is_told(rows, wrong):
    figures = round_figures([turn(*rows)], nodes=2)
    assert figures["agreement"][wrong] is False
    assert figures["heights_with_every_contribution"] == 1
    assert f"NOT TRUE: {wrong.replace('_', ' ')}" in round_text({"nodes": 2, "values": 9, **figures})


def test_turns_are_compared_in_pairs():
    ours = [turn([row(1, seconds=0.2)], [row(1, seconds=0.2)]), turn([row(2, seconds=0.9)], [row(2, seconds=0.9)])]
    answer = {"seconds": 0.1, "seconds_with_matchmaking": 0.3, "full_group": True, "equal": False}
    theirs = [[answer, answer], [{**answer, "seconds": 0.3}]]
    assert ratios(ours, theirs) == pytest.approx([2.0, 3.0])
    rival = rival_figures(theirs)
    assert rival["rounds"] == rival["rounds_in_full_group"] == 3 and rival["rounds_equal"] == 0
    result = {"nodes": 2, "values": 9, **round_figures(ours, nodes=2), "hivemind": {"version": "1.1.12", **rival}}
    assert "2.00, 3.00; median 2.50" in round_text({**result, "ratios": [2.0, 3.0], "ratio": 2.5})


def test_lag_is_told_in_milliseconds():
    text = lag_text({"nodes": 2, "loop_lag_seconds_p99": [0.0071, 0.02], "loop_lag_seconds_max": [0.01, 0.03]})
    assert text.endswith("late by 7.1, 20.0 ms (p99), 10.0, 30.0 ms (max)")


@pytest.mark.parametrize("mbit", [None, 500])
def test_a_joiners_figures_are_told_in_pairs(mbit):
    command = [*SYNC, "--model", "2", "--blocks", "70", "--turns", "1", "--json"]
    if mbit is not None:
        if not namespaces_are_allowed():
            pytest.skip("no network namespaces here")
        command += ["--mbit", str(mbit)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_MAX, check=False)
    assert process.returncode == 0, process.stderr
    (result,) = json.loads(process.stdout)
    assert result["blocks"] == 70 and result["model_bytes"] > 2 << 20 and len(result["ratios"]) == 1
    for figure in ("plain_mb_per_second", "snapshot_mb_per_second", "chain_mb_per_second", "blocks_per_second"):
        assert result[figure][0] > 0
    text = sync_text(result)
    assert f"median {result['ratio']:.2f}" in text and ("on a link of 500 Mbit/s" if mbit else "on loopback") in text


def test_a_link_that_carries_nothing_is_refused_in_one_line():
    process = subprocess.run([*SYNC, "--mbit", "0"], capture_output=True, text=True, timeout=SECONDS_MAX, check=False)
    assert process.returncode != 0 and process.stderr == "error: --mbit 0: a link carries at least 1 Mbit/s\n"

    with pytest.raises(UserError, match="carries at least 1 Mbit/s"):
        link.shape(-1, [])


def namespaces_are_allowed():
    command = ["unshare", "--user", "--map-root-user", "--net", "tc", "qdisc", "show"]
    return (
        shutil.which("unshare") is not None
        and subprocess.run(command, capture_output=True, check=False).returncode == 0
    )


def test_the_chain_of_a_donor_is_a_real_one(tmp_path):
    genesis, replica = make_genesis(model_of(1))
    assert 1 << 20 <= replica.byte_length < 8 << 20
    store = Store(tmp_path / "chain.sqlite", genesis.chain_id)
    tip, state = grow(store, genesis, 3), genesis.state()
    for block, certificate in read_page(encode_blocks(store.block_rows(1, 3))):
        assert decision_problem(block, certificate, state) is None
        state = state.after(block, certificate)
    assert state == tip
    store.close()


def test_a_network_that_grows_is_told_in_a_table():
    command = [sys.executable, "-P", "-m", "p2pnode.bench", "network", "--nodes", "6", "--json"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=2 * SECONDS_MAX, check=False)
    assert process.returncode == 0, process.stderr
    (result,) = json.loads(process.stdout)
    (six,) = result["sizes"]
    assert (six["nodes"], six["members"], six["known_share"]) == (6, 2, 1)
    assert 0 < six["known_seconds"] <= six["settled_seconds"]
    assert six["links_per_node"] == 5  # so few are all linked to all
    assert six["height"]["messages"] > 0 and six["memory_bytes_per_node"] > 0
    never = {**six, "nodes": 12, "known_seconds": None, "height_seconds": None, "height": None, "links_per_node": 10.0}
    rows = [six, never]
    table = scale.text({"sizes": rows, "growth": scale.growth(rows)}).splitlines()
    assert len(table) == 3 + len(scale.COLUMNS) and "6 nodes" in table[1] and "12 nodes" in table[1]
    assert table[3].split() == ["all", "know", "all,", "s", f"{six['known_seconds']:.1f}", "never"]
    assert table[6].split() == ["links", "a", "node", "5.0", "10.0", "N^1.00"]


def test_a_power_law_is_found_and_none_where_there_is_none():
    assert scale.exponent((n, 3 * n**1.5) for n in (25, 50, 100, 200)) == pytest.approx(1.5)
    assert scale.exponent((n, 7) for n in (25, 200)) == pytest.approx(0)
    assert scale.exponent([(25, 0.0), (50, None), (100, 1.0)]) is None


def test_every_kind_of_frame_belongs_to_a_group():
    assert {scale.group_of(kind) for kind in FRAME_BYTES_MAX} == set(scale.GROUPS)
    received = {int(Kind.PING): KindTraffic(2, 26), 0x80: KindTraffic(1, 60), int(Kind.ENVELOPE): KindTraffic(3, 700)}
    counted = scale.count([received, received], connections=2)
    assert counted.frames == {"alive": 4, "agreement": 8} and counted.bytes == {"alive": 52, "agreement": 1520}


async def test_nodes_shake_hands_and_find_one_another_on_real_sockets():
    spent = await meeting.handshakes(3)
    assert spent["processor_seconds"] > 0 and 0 < spent["seconds"] < SECONDS_MAX
    found = await meeting.discovery(4)
    assert 0 < found["known_seconds"] <= found["connected_seconds"] < SECONDS_MAX
    figures = {"seconds": 0.004, "processor_seconds": 0.003, "per_second": 250.0}
    result = {"handshakes": figures, "discovery": [{"nodes": 4, **found}]}
    assert "250 a second, 3.00 ms of processor time each" in meeting.text(result)
    result["discovery"][0]["libp2p_known_seconds"] = 12.0
    beside = meeting.text({**result, "libp2p": {"version": "0.4", **figures}, "ratios": [0.5, 1.0, 2.0]})
    assert "0.50, 1.00, 2.00; median 1.00" in beside and beside.endswith("py-libp2p knows all after 12.00 s")


def test_heights_beside_a_transfer_are_told_in_a_table(tmp_path):
    idle, busy = turn([row(1), row(2)]), turn([row(3), row(4)])
    for name, which in (("idle", idle), ("busy", busy)):
        assert transfer._height_seconds([which])["p99"] == pytest.approx(0.06), name
    spread_of = {"p50": 0.01, "p90": 0.02, "p99": 0.03, "heights": 50}
    result = {"nodes": 4, "bytes": 500 << 20, "upload_mbit": 100.0, "mbit": None, "seconds": [42.0], "views_max": 0}
    shown = transfer.text({**result, "idle": spread_of, "busy": spread_of, "ratio_p99": 1.0})
    assert "524 MB" in shown and "loopback; uplink budget of each node: 100 Mbit/s" in shown and "1.00" in shown
    mover.write(tmp_path / mover.ANSWER, {"seconds": 1.0})
    assert json.loads((tmp_path / mover.ANSWER).read_text()) == {"seconds": 1.0}


@pytest.mark.long
def test_a_payload_moves_while_real_nodes_decide():
    command = [sys.executable, "-P", "-m", "p2pnode.bench", "transfer", "--size", "8", "--receivers", "2", "--json"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_MAX, check=False)
    assert process.returncode == 0, process.stderr
    (result,) = json.loads(process.stdout)
    assert len(result["seconds"]) == 2 and min(result["seconds"]) > 0
    assert result["idle"]["heights"] > 0 and result["busy"]["heights"] > 0 and result["ratio_p99"] > 0


def test_training_steps_are_compared_in_pairs():
    def step(seconds):
        return {"seconds": 9.0, "processor_seconds": seconds, "loss": 1.0, "peak_resident_bytes": 10**9}

    about = {name: {"version": "1", "parameters": 15_733_632} for name in ("p2pnode", "fast", "slow")}
    steps = {
        "p2pnode": [step(1.0), step(2.0), step(1.0)],
        "fast": [step(0.9), step(2.2), step(1.05)],
        "slow": [step(3.0), step(6.0), step(3.0)],
    }
    row = trainer.compare(about, steps, clock="processor_seconds")
    ours, fast, slow = row["contestants"]
    assert "ratio" not in ours and ours["seconds"] == {"min": 1.0, "median": 1.0}
    assert (fast["ratio"], slow["ratio"], row["ratio"]) == (1.05, 3.0, 1.05)
    row |= {"precision": "fp32", "threads": 1, "allocator": "system", "goal": 0.97}
    shown = trainer.text({"tokens": 2048, "turns": 3, "rows": [row]})
    assert "2048 tokens/s" in shown and shown.endswith("beside the fastest of the others: 1.050 (goal 0.97)")
    alone = trainer.compare(about, {"p2pnode": steps["p2pnode"]}, clock="seconds")
    assert alone["ratio"] is None
    assert trainer.text({"tokens": 2048, "turns": 3, "rows": [{**row, **alone}]}).endswith("1000 MB")


def test_a_library_that_is_not_there_is_one_line():
    litgpt = trainer.Contestant("litgpt", Path(sys.executable), precision="fp32", threads=1, allocator="system")
    with litgpt, pytest.raises(UserError, match="litgpt ended: ModuleNotFoundError: No module named 'litgpt'"):
        litgpt.answer()


@pytest.mark.long
def test_a_training_step_is_measured_beside_whoever_is_installed():
    command = [sys.executable, "-P", "-m", "p2pnode.bench", "trainer", "--turns", "2", "--threads", "1", "--json"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=4 * SECONDS_MAX, check=False)
    assert process.returncode == 0, process.stderr
    (result,) = json.loads(process.stdout)
    assert [(row["precision"], row["allocator"]) for row in result["rows"]] == [("fp32", "system"), ("bf16", "system")]
    assert process.stderr.count("beside the fastest of the others: ") == 2 * (result["rows"][0]["ratio"] is not None)
    for row in result["rows"]:
        assert row["contestants"][0]["name"] == "p2pnode" and row["contestants"][0]["parameters"] == 15_733_632
        assert all(0 < found["seconds"]["min"] < SECONDS_MAX for found in row["contestants"])


def test_operators_are_told_in_pairs_with_what_is_to_be_reached():
    said: list[str] = []
    layer = kernels.LayerSize(40, 4, 2, 32, 64)
    sizes = kernels.Sizes(swiglu=((3, 16),), experts=((40, 4, 2, 32),), layer=(layer,))
    result = kernels.measure(said.append, sizes=sizes, repetitions=2, compiled=False)
    names = [contest["name"] for contest in result["contests"]]
    assert names[:2] == ["swiglu f+b", "swiglu_packed f+b"] and {"route", "plan", "permute", "combine"} <= set(names)
    assert len(said) == len(names) and ("layer f+b" in names) == (importlib.util.find_spec("transformers") is not None)
    for contest in result["contests"]:
        assert contest["seconds"].keys() == {"ours", "copy", *contest["ratios"]} and contest["ratios"]
        assert all(0 < taken["min"] <= taken["median"] for taken in contest["seconds"].values())
    shown = kernels.text(result)
    assert "plan, T40 E4 k2: " in shown and "(to reach: 5.00)" in shown
    assert json.loads(json.dumps(result)) == result
