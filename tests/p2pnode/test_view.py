"""What the operator sees: a real node, asked at every moment of its life; the names of the fields are a contract."""

import json

import pytest
import trio

from p2pnode.config import Endpoint
from p2pnode.errors import UserError
from p2pnode.view import trace_rows
from tests.p2pnode.little import Chain, identities, make_genesis, until
from tests.p2pnode.rig import Peer, network
from tests.p2pnode.test_node import NEWCOMER, height, living, make_home, make_node, ready

STATUS = [
    "verdict",
    "reason",
    "node",
    "name",
    "network",
    "role",
    "height",
    "view",
    "phase",
    "model_root",
    "block",
    "checkpoint",
    "members",
    "members_reachable",
    "quorum",
    "peers",
    "training",
    "loss",
    "loss_height",
    "loss_unit",
    "validation_loss",
    "listen",
    "join",
    "reachable",
    "bootstrap_failures",
    "clock_seconds",
    "version",
    "parameters",
    "tokens_total",
    "tokens_per_second",
    "model_flops_utilization",
    "compilation",
    "bytes_sent_total",
    "bytes_received_total",
    "compute_fraction",
    "evidence",
    "refused",
    "uptime_seconds",
    "home",
    "pid",
    "device",
    "precision",
    "threads",
    "contributions_last",
]
ROUND = [
    "height",
    "view",
    "model_root",
    "block",
    "proposer",
    "contributions",
    "contributors",
    "loss",
    "seconds",
    "payload_bytes",
    "probes",
    "listed",
]
STEPS = ["draw", "learn", "shrink", "announce", "propose", "prepare", "commit", "decide", "apply"]


@pytest.fixture
def home(tmp_path):
    founders = identities(1)
    return make_home(tmp_path / "home", founders[0], make_genesis(founders))


async def test_the_status_of_a_node_that_trains_alone(home):
    node = make_node(home)
    async with living(node):
        await until(lambda: height(node) >= 2)
        status = node.view.status()
        json.dumps(status)
        assert set(STATUS) <= set(status)
        assert (status["role"], status["members"], status["quorum"], status["members_reachable"]) == ("member", 1, 1, 1)
        assert status["verdict"] == "healthy" and "one node decides until four are here" in status["reason"]
        assert status["training"]["state"] == "training" and status["training"]["steps"] == 2
        assert status["phase"] in ("learn", "collect", "propose", "prepare", "commit")
        assert status["tokens_per_second"] > 0 and status["model_flops_utilization"] is None  # on a processor
        assert (status["device"], status["precision"]) == ("cpu", "fp32")
        assert status["loss"] > 0 and 0 < status["compute_fraction"] <= 1 and status["tokens_total"] > 0
        assert status["checkpoint"] == f"{status['height']}:{status['block']}"
        assert status["join"] == f"p2pnode start --bootstrap {node.bound}" and status["contributions_last"] == 1
        assert node.view.farewell() == []
        assert node.view.evidence() == [] and isinstance(node.view.log(5), list)


async def test_rounds_and_their_traces(home):
    node = make_node(home)
    async with living(node):
        await until(lambda: height(node) >= 3)
        rounds = node.view.rounds(2)
        assert len(rounds) == 2 and rounds[0]["height"] + 1 == rounds[1]["height"]
        assert set(ROUND) <= set(rounds[0])
        trace = node.view.trace(1)
        assert [row["step"] for row in trace["rows"]] == STEPS
        assert all(set(row) == {"step", "where", "value", "seconds"} for row in trace["rows"])
        assert node.view.trace(10**6) is None
        json.dumps([rounds, trace])


def test_the_trace_of_a_round_taken_from_others():
    from p2pnode.timings import round_facts

    rows = trace_rows(round_facts(*Chain(4).grow(1).decided[0]))
    assert [row["step"] for row in rows] == STEPS
    assert rows[1]["value"] == "not by this node" and all(row["seconds"] is None for row in rows)


async def test_train_for_a_while_pause_and_go_on(home):
    node = make_node(home, train=False)
    async with living(node):
        await until(lambda: ready(node))
        assert node.view.status()["training"]["state"] == "paused" and node.view.status()["verdict"] == "idle"
        answer = await node.view.train(2)
        assert answer["until_height"] == 2
        await until(lambda: height(node) == 2 and node.driver.engine.idle)
        assert node.view.status()["training"] == {**node.view.status()["training"], "state": "idle", "until_height": 2}
        await node.view.train(None)
        await until(lambda: height(node) >= 4)
        assert (await node.view.pause())["training"] == "paused"
        await until(lambda: node.driver.engine.idle)
        at = height(node)
        assert (await node.view.evaluate())["height"] == at


async def test_evaluate_computes_once_for_each_model(home, monkeypatch):
    node = make_node(home, train=False)
    async with living(node):
        await until(lambda: ready(node))
        asked = []
        run = node.worker.run
        monkeypatch.setattr(node.worker, "run", lambda job: (asked.append(job), run(job))[1])
        first, again = await node.view.evaluate(), await node.view.evaluate()
        assert first == again and len(asked) == 1 and first["validation_loss"] > 0
        assert node.view.status()["validation_loss"] == first["validation_loss"]


async def test_a_probe_takes_the_whole_path_and_changes_nothing(home):
    node = make_node(home, train=False)
    async with living(node):
        await until(lambda: ready(node))
        root = node.view.status()["model_root"]
        answer = await node.view.test()
        assert answer["listed"] and answer["height"] == 1 and answer["model_root"] == root
        assert answer["payload_bytes"] == node.rounds.pool_payload_bytes and answer["seconds"]["all"] > 0
        assert node.view.rounds(1)[0]["probes"] == 1 and node.view.rounds(1)[0]["contributions"] == 0


async def test_a_node_that_joins_says_what_it_waits_for(tmp_path):
    node = make_node(make_home(tmp_path / "home", NEWCOMER), bootstrap=(Endpoint("127.0.0.1", 1),))
    async with living(node):
        await until(node.bootstrap_failure)
        status = node.view.status()
        assert set(STATUS) <= set(status) and status["role"] == "joining" and status["network"] is None
        assert status["verdict"] == "degraded" and "cannot reach 127.0.0.1:1" in status["reason"]
        assert node.view.rounds(5) == [] and node.view.trace(1) is None and node.view.peers() == []
        for command in (node.view.train(1), node.view.pause(), node.view.test(), node.view.evaluate()):
            with pytest.raises(UserError, match="not part of the network yet"):
                await command


async def test_without_a_quorum_it_says_who_is_missing_and_refuses_a_probe(tmp_path):
    chain = Chain(4)
    node = make_node(make_home(tmp_path / "home", chain.founders[0], chain.genesis))
    async with living(node):
        await until(lambda: ready(node))
        status = node.view.status()
        assert status["verdict"] == "halted" and "1 of 4 members reachable, 3 needed" in status["reason"]
        with pytest.raises(UserError, match="no probe now"):
            await node.view.test()
        assert node.view.farewell() == ["0 of 4 members remain, 3 needed; p2pnode leave goes for good"]


async def test_peers_are_shown_with_what_they_say_of_themselves(tmp_path, home):
    node = make_node(home)
    chain = Chain(1)
    async with living(node):
        await until(lambda: height(node) >= 1)
        peer = Peer(tmp_path / "peer", chain, seed=77)
        async with trio.open_nursery() as nursery:
            from transport import Address

            await nursery.start(peer.run, (Address(node.bound.host, node.bound.port),))
            await until(node.view.peers)
            (row,) = node.view.peers()
            assert row["role"] is None and row["height"] is None
            peer.says(0)
            await until(lambda: node.view.peers()[0]["role"] == "observer")
            (row,) = node.view.peers()
            expected = [
                "node",
                "address",
                "direction",
                "role",
                "height",
                "model_root",
                "score",
                "banned_until",
                "reachable",
                "rtt_seconds",
            ]
            assert sorted(row) == sorted(expected)
            assert row["direction"] == "inbound" and row["score"] == 0 and row["node"] == peer.identity.node_id
            nursery.cancel_scope.cancel()


async def test_a_peer_that_lies_about_its_height_does_not_make_a_node_look_ill(tmp_path, home):
    liar = Peer(tmp_path / "liar", Chain(1), seed=93)
    async with network(liar):
        liar.says(10**12)
        node = make_node(home, bootstrap=(Endpoint("127.0.0.1", liar.address.port),))
        async with living(node):
            await until(lambda: height(node) >= 1 and node.catchup.claimed() < 10**12)
            assert node.view.status()["verdict"] == "healthy"


async def test_stop_ends_the_node(home):
    node = make_node(home)
    async with living(node):
        await until(lambda: node.bound is not None)
        assert await node.view.stop() == {"stopping": True}
