"""The local network without a network: options, the plan of kills, the verdict, what is displayed."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from p2pnode.errors import ExitCode, UserError
from p2pnode.localnet import LocalnetOptions
from p2pnode.localnet.display import LineDisplay, LiveDisplay, NodeView, show_result, verdict_line
from p2pnode.localnet.kills import (
    SECONDS_DOWN_MAX,
    SECONDS_DOWN_MIN,
    PlannedKill,
    is_the_moment,
    plan_kills,
)
from p2pnode.localnet.options import check_options
from p2pnode.localnet.readings import (
    ROUND_PHASES,
    EvidenceRow,
    NodeId,
    Round,
    Status,
    evidence_from,
    rounds_from,
    status_from,
)
from p2pnode.localnet.verdict import Cut, Kill, NodeOutcome, Outcome, percentile, reasons, summary

TARGET = 3


def a_status(node: str = "a" * 40, height: int = TARGET, **changes: Any) -> Status:
    return replace(
        Status(
            node=NodeId(node),
            height=height,
            view=0,
            phase="idle",
            model_root=f"root-{height}",
            members=4,
            members_reachable=4,
            until_height=None,
            step=0,
            steps=10,
            loss=4.0,
            loss_height=height,
            parameters=1000,
            tokens_total=500,
            bytes_sent_total=70,
            compute_fraction=0.9,
            evidence=0,
        ),
        **changes,
    )


def some_rounds(count: int = TARGET) -> tuple[Round, ...]:
    return tuple(
        Round(
            height=height,
            view=0,
            model_root=f"root-{height}",
            contributions=4,
            loss=6.0 - height,
            agree_seconds=height / 100,
            payload_bytes=120,
        )
        for height in range(1, count + 1)
    )


def a_node(letter: str, **changes: Any) -> NodeOutcome:
    node = NodeOutcome(
        name=f"node {letter}",
        node=NodeId(letter * 40),
        attack=None,
        status=a_status(letter * 40),
        validation_loss=3.9,
        rounds=some_rounds(),
    )
    return replace(node, **changes)


def an_outcome(*nodes: NodeOutcome, **changes: Any) -> Outcome:
    good = Outcome(
        rounds=TARGET,
        kills_planned=0,
        wall_seconds=10.0,
        nodes=nodes or tuple(a_node(letter) for letter in "abcd"),
        validation_loss_first=5.5,
    )
    return replace(good, **changes)


def with_first(**changes: Any) -> Outcome:
    """A good outcome but for its first node."""
    return an_outcome(a_node("a", **changes), *(a_node(letter) for letter in "bcd"))


# --- the verdict ---------------------------------------------------------------------------------------------------


def test_a_good_run_is_ok() -> None:
    assert reasons(an_outcome()) == []
    assert summary(an_outcome())["verdict"] == "ok"


A_KILL = Kill(NodeId("a" * 40), height=2, phase="prepare", seconds_down=1.234)
A_CUT = Cut(at_seconds=3.0, seconds=2.0, groups="4", quorum=True, height=1)
BROKEN = [
    (with_first(status=None, rounds=()), "node a never answered"),
    (with_first(status=a_status(height=2), rounds=some_rounds(2)), "node a stopped at height 2 of 3"),
    (
        with_first(rounds=(*some_rounds(1), replace(some_rounds()[1], model_root="other"), some_rounds()[2])),
        "the model differs at height 2: 3 hold root-2, 1 hold other",
    ),
    (with_first(rounds=some_rounds()[1:]), "node a shows no round for height 1"),
    (with_first(rounds=()), "node a shows no round for 3 heights, the first of them 1"),
    (an_outcome(validation_loss_first=None), "the held-out loss was not measured at the start"),
    (
        an_outcome(*(a_node(letter, validation_loss=None) for letter in "abcd")),
        "the held-out loss was not measured at the end",
    ),
    (
        an_outcome(validation_loss_first=3.9),
        "the held-out loss did not fall: 3.9000 at the start, 3.9000 at the end",
    ),
    (
        an_outcome(*(a_node(letter, validation_loss=float("nan")) for letter in "abcd")),
        "the held-out loss did not fall: 5.5000 at the start, nan at the end",
    ),
    (
        with_first(evidence=(EvidenceRow(NodeId("b" * 40), "double_commit", 2),)),
        "node b is honest but stands in evidence: double_commit at height 2",
    ),
    (
        an_outcome(kills=(replace(A_KILL, undecided=False),), kills_planned=1),
        "the kill of node a at height 2 (prepare) hit no undecided height",
    ),
    (
        an_outcome(kills=(replace(A_KILL, came_back=False),), kills_planned=1),
        "the kill of node a at height 2 (prepare): the node did not come back",
    ),
    (an_outcome(cuts_planned=1), "only 0 of 1 partitions began before the last round was over"),
    (
        an_outcome(kills=(A_KILL,), kills_planned=2),
        "only 1 of 2 kills happened before the last round was over",
    ),
    (with_first(troubles=("left port 7337 in use",)), "node a left port 7337 in use"),
    (an_outcome(troubles=("gave up",)), "gave up"),
]


@pytest.mark.parametrize(("outcome", "reason"), BROKEN, ids=[reason for _, reason in BROKEN])
def test_each_broken_condition_gives_its_reason_and_no_other(outcome: Outcome, reason: str) -> None:
    assert reasons(outcome) == [reason]
    assert summary(outcome)["verdict"] == "failed"
    assert summary(outcome)["reasons"] == [reason]


def test_whoever_was_cut_off_for_so_long_that_it_was_put_out_is_no_fault() -> None:
    gone = replace(some_rounds()[1], evicted=(NodeId("b" * 40),))
    put_out = with_first(rounds=(some_rounds()[0], gone, some_rounds()[2]))
    assert reasons(put_out) == ["node b is honest but was evicted"]
    assert reasons(replace(put_out, cuts=(A_CUT,), cuts_planned=1)) == []


def test_members_come_and_go_and_every_round_has_a_contribution() -> None:
    first, second, third = some_rounds()
    rows = (replace(first, left=(NodeId("d" * 40),)), replace(second, joined=(NodeId("e" * 40),)), third)
    staying = [a_node(letter, rounds=rows) for letter in "abc"]
    left = a_node("d", status=a_status("d" * 40, height=2), rounds=rows[:2], validation_loss=None, left=True)
    came = a_node("e", rounds=tuple(replace(row, loss=None) for row in rows))
    outcome = an_outcome(*staying, left, came, churned=True)
    assert reasons(outcome) == []
    told = summary(outcome)
    assert told["height"] == TARGET and left.node not in told["heights"] and left.node not in told["model_roots"]
    assert told["membership"] == [
        {"node": "d" * 40, "height": 1, "change": "left"},
        {"node": "e" * 40, "height": 2, "change": "joined"},
    ]
    other = replace(left, rounds=(rows[0], replace(rows[1], model_root="other")))
    assert reasons(replace(outcome, nodes=(*staying, other, came))) == [
        "the model differs at height 2: 4 hold root-2, 1 hold other"
    ]
    empty = (rows[0], replace(rows[1], contributions=0), third)
    hollow = replace(outcome, nodes=tuple(replace(node, rounds=empty[: len(node.rounds)]) for node in outcome.nodes))
    assert reasons(hollow) == ["no contribution was committed at height 2"]
    assert reasons(replace(hollow, cuts=(A_CUT,), cuts_planned=1)) == []  # nobody may have had a quorum
    assert reasons(an_outcome(churned=True)) == ["no member came or went"]


def test_a_byzantine_node_cannot_break_the_verdict_by_its_word() -> None:
    liar = a_node("d", attack="bad-root", status=None, rounds=(), validation_loss=None)
    evidence = (EvidenceRow(liar.node, "double_prepare", 2),)
    outcome = an_outcome(a_node("a", evidence=evidence), a_node("b", evidence=evidence), a_node("c"), liar)
    assert reasons(outcome) == []
    told = summary(outcome)
    assert told["byzantine"] == [liar.node]
    assert told["evidence"] == [{"node": liar.node, "kind": "double_prepare", "height": 2}]
    assert liar.node not in told["model_roots"]


def test_the_summary_has_the_fields_of_the_design_and_is_json() -> None:
    told = summary(an_outcome(kills=(A_KILL,), kills_planned=1, cuts=(A_CUT,), cuts_planned=1))
    assert list(json.loads(json.dumps(told, allow_nan=False))) == [
        *("verdict", "reasons", "nodes", "height", "rounds_committed", "wall_seconds", "model_roots", "heights"),
        *("loss_first", "loss_last", "validation_loss_first", "validation_loss_last", "parameters", "tokens_total"),
        *("tokens_per_second", "payload_bytes_per_parameter_per_round", "bytes_sent_total", "compute_fraction"),
        *("consensus_seconds_p50", "consensus_seconds_p99", "views_max", "byzantine", "evidence", "evicted", "killed"),
        *("membership", "partitions"),
    ]
    assert told["height"] == TARGET
    assert told["rounds_committed"] == TARGET
    assert set(told["model_roots"].values()) == {"root-3"}
    assert (told["loss_first"], told["loss_last"]) == (5.0, 3.0)
    assert (told["validation_loss_first"], told["validation_loss_last"]) == (5.5, 3.9)
    assert (told["tokens_total"], told["tokens_per_second"]) == (2000, 200.0)
    assert told["payload_bytes_per_parameter_per_round"] == 0.03
    assert (told["consensus_seconds_p50"], told["consensus_seconds_p99"]) == (0.02, 0.03)
    assert told["partitions"] == [{"at_seconds": 3.0, "seconds": 2.0, "groups": "4", "quorum": True, "height": 1}]
    assert told["killed"] == [{"node": "a" * 40, "height": 2, "phase": "prepare", "seconds_down": 1.23}]


def test_a_summary_of_nothing_is_still_json() -> None:
    nodes = tuple(a_node(letter, status=None, rounds=(), validation_loss=None) for letter in "abcd")
    told = summary(an_outcome(*nodes, wall_seconds=None, validation_loss_first=None))
    json.dumps(told, allow_nan=False)
    assert told["verdict"] == "failed"
    assert told["tokens_per_second"] is None
    assert told["loss_first"] is None


def test_heights_without_contributions_are_no_rounds() -> None:
    rows = (replace(some_rounds()[0], contributions=0, loss=None), *some_rounds()[1:])
    told = summary(an_outcome(*(a_node(letter, rounds=rows) for letter in "abcd")))
    assert told["rounds_committed"] == 2
    assert told["loss_first"] == 4.0  # of height 2, the first that was a round


@pytest.mark.parametrize(("share", "value"), [(1, 1), (50, 2), (51, 3), (99, 4), (100, 4)])
def test_percentiles_are_values_that_occurred(share: int, value: float) -> None:
    assert percentile([4, 2, 1, 3], share) == value


def test_the_percentile_of_nothing_is_nothing() -> None:
    assert percentile([], 50) is None


# --- options -------------------------------------------------------------------------------------------------------

REFUSED = [
    (LocalnetOptions(nodes=0), "--nodes 0: out of range"),
    (LocalnetOptions(rounds=0), "--rounds 0: out of range"),
    (LocalnetOptions(kill=-1), "--kill -1: out of range"),
    (LocalnetOptions(byzantine=2), "--byzantine 2: 4 nodes tolerate 1"),
    (LocalnetOptions(nodes=3, byzantine=1), "--byzantine 1: 3 nodes tolerate 0"),
    (LocalnetOptions(nodes=3, kill=1), "--kill 1: 3 nodes tolerate no node that is away"),
    (LocalnetOptions(rounds=4, kill=2), "--kill 2: 4 rounds are too few: a victim is back before the next dies"),
    (LocalnetOptions(byzantine=1, attack="lie"), "--attack lie: unknown"),
    (LocalnetOptions(attack="huge"), "--attack without --byzantine: nobody would carry it out"),
    (LocalnetOptions(minutes=5), "--minutes without --churn: a run ends at a height"),
    (LocalnetOptions(nodes=8, churn=0), "--churn 0: out of range"),
    (LocalnetOptions(nodes=8, churn=3, minutes=0), "--minutes 0: out of range"),
    (
        LocalnetOptions(nodes=5, churn=3, byzantine=1),
        "--churn with 4 honest nodes: one leaves and one is down at any time",
    ),
    (LocalnetOptions(nodes=8, churn=3, kill=1), "--kill with --churn: churn kills by itself"),
    (LocalnetOptions(data=("absent.txt",)), "--data absent.txt: no such file"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_cannot_work_is_refused_by_the_name_of_its_flag(options: LocalnetOptions, message: str) -> None:
    with pytest.raises(UserError) as refusal:
        check_options(options)
    assert refusal.value.message == message
    assert refusal.value.hint
    assert refusal.value.exit_code == ExitCode.USAGE


def test_a_home_must_be_new_or_empty(tmp_path: Path) -> None:
    check_options(LocalnetOptions(home=tmp_path))
    check_options(LocalnetOptions(home=tmp_path / "new"))
    (tmp_path / "something").touch()
    with pytest.raises(UserError, match="not an empty directory"):
        check_options(LocalnetOptions(home=tmp_path))


@pytest.mark.parametrize(("nodes", "byzantine", "down_max"), [(4, 0, 1), (4, 1, 1), (7, 0, 2), (7, 1, 1), (10, 1, 2)])
def test_killed_and_byzantine_nodes_share_the_faults_that_are_tolerated(
    nodes: int, byzantine: int, down_max: int
) -> None:
    options = LocalnetOptions(nodes=nodes, byzantine=byzantine)
    assert options.down_max == down_max
    assert sorted((*options.honest_indices, *options.byzantine_indices)) == list(range(nodes))
    assert len(options.byzantine_indices) == byzantine


# --- the plan of kills ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_a_plan_is_seeded_spread_and_in_bounds(seed: int) -> None:
    plan = plan_kills(seed=seed, kills=5, candidates=range(3), rounds=20)
    assert plan == plan_kills(seed=seed, kills=5, candidates=range(3), rounds=20)
    assert {kill.index for kill in plan[:3]} == {0, 1, 2}  # everybody once before anybody twice
    assert len({kill.index for kill in plan[3:]}) == 2
    heights = [kill.height for kill in plan]
    assert heights == sorted(heights)
    assert heights[0] >= 2
    assert heights[-1] <= 16
    for kill in plan:
        assert kill.phase in ROUND_PHASES
        assert SECONDS_DOWN_MIN <= kill.seconds_down <= SECONDS_DOWN_MAX


def test_different_seeds_give_different_plans() -> None:
    assert len({plan_kills(seed=seed, kills=2, candidates=range(4), rounds=20) for seed in range(20)}) == 20


@pytest.mark.parametrize("rounds", [3, 4, 5])
@pytest.mark.parametrize("seed", range(10))
def test_a_short_run_is_hit_before_its_last_round(seed: int, rounds: int) -> None:
    (kill,) = plan_kills(seed=seed, kills=1, candidates=range(4), rounds=rounds)
    assert 1 <= kill.height < rounds


def test_the_moment_is_the_planned_phase_of_the_planned_height() -> None:
    planned = PlannedKill(index=0, height=5, phase="prepare", share=0.5, seconds_down=1.0)
    assert is_the_moment(planned, a_status(height=4, phase="prepare"))
    assert not is_the_moment(planned, a_status(height=3, phase="prepare"))
    assert not is_the_moment(planned, a_status(height=4, phase="learn"))
    assert not is_the_moment(planned, a_status(height=4, phase="idle"))


def test_a_moment_that_was_missed_is_soon_replaced_by_any_in_mid_round() -> None:
    planned = PlannedKill(index=0, height=5, phase="prepare", share=0.5, seconds_down=1.0)
    assert not is_the_moment(planned, a_status(height=5, phase="commit"))
    assert is_the_moment(planned, a_status(height=6, phase="commit"))
    assert not is_the_moment(planned, a_status(height=6, phase="idle"))


def test_a_learning_node_is_killed_in_the_middle_of_its_steps() -> None:
    planned = PlannedKill(index=0, height=5, phase="learn", share=0.5, seconds_down=1.0)
    assert not is_the_moment(planned, a_status(height=4, phase="learn", step=4))
    assert is_the_moment(planned, a_status(height=4, phase="learn", step=5))


# --- readings ------------------------------------------------------------------------------------------------------


def test_the_control_documents_become_values() -> None:
    training = {"state": "training", "until_height": 9, "step": 3, "steps": 10}
    document = {
        "node": "a" * 40,
        "height": 3,
        "view": 1,
        "phase": "learn",
        "model_root": "r",
        "members": 4,
        "quorum": 3,
        "members_reachable": 4,
        "training": training,
        "loss": 4.2,
        "loss_height": 3,
        "parameters": 7,
        "tokens_total": 8,
        "bytes_sent_total": 9,
        "compute_fraction": None,
        "evidence": 0,
        "role": "contributor",
    }
    status = status_from(document)
    assert (status.undecided_height, status.until_height, status.step, status.role) == (4, 9, 3, "contributor")
    row = {
        "height": 2,
        "view": 0,
        "model_root": "r",
        "contributions": 4,
        "loss": None,
        "joined": ["c" * 40],
        "left": [{"node": "d" * 40, "why": "left"}, {"node": "e" * 40, "why": "absent"}],
        "seconds": {"agree": 0.1},
    }
    first = rounds_from([row, {**row, "height": 1}])[0]
    assert (first.height, first.joined, first.left, first.evicted) == (1, ("c" * 40,), ("d" * 40,), ("e" * 40,))
    assert evidence_from([{"node": "b" * 40, "kind": "double_prepare", "height": 2, "view": 0}]) == (
        EvidenceRow(NodeId("b" * 40), "double_prepare", 2),
    )


# --- what is displayed ---------------------------------------------------------------------------------------------


def views_at(height: int, loss: float) -> list[NodeView]:
    return [
        NodeView(f"node {letter}", NodeId(letter * 40), None, a_status(letter * 40, height=height, loss=loss))
        for letter in "ab"
    ]


def test_lines_appear_once_per_round_and_only_when_all_have_seen_it() -> None:
    sink = io.StringIO()
    shown = LineDisplay(Console(file=sink, width=200), rounds=2)
    behind, ahead = views_at(0, 5.0)[0], views_at(1, 4.5)[1]
    shown.update([behind, ahead], seconds=1.0)
    assert sink.getvalue() == ""
    shown.update(views_at(1, 4.5), seconds=1.5)
    shown.update(views_at(1, 4.5), seconds=2.0)
    shown.update(views_at(3, 4.0), seconds=3.0)
    lines = sink.getvalue().splitlines()
    assert lines[0] == "round   1/2  view 0  root root-1     1.0 s  loss 4.500 4.500"
    assert [line[:11] for line in lines] == ["round   1/2", "round   2/2"]


def test_where_nobody_knows_how_many_rounds_there_will_be_only_their_number_is_shown() -> None:
    sink = io.StringIO()
    LineDisplay(Console(file=sink, width=200), rounds=None).update(views_at(2, 4.5), seconds=1.0)
    assert [line[:11] for line in sink.getvalue().splitlines()] == ["round   1  ", "round   2  "]
    sink = io.StringIO()
    with LiveDisplay(Console(file=sink, width=120, force_terminal=True), rounds=None) as shown:
        shown.update(views_at(2, 4.5), seconds=1.0)
    assert "round 2" in sink.getvalue() and "round 2/" not in sink.getvalue()


def test_the_live_table_shows_every_node_and_the_ones_that_are_down() -> None:
    sink = io.StringIO()
    with LiveDisplay(Console(file=sink, width=120, force_terminal=True), rounds=20) as shown:
        learning, other = views_at(2, 4.5)
        assert learning.status is not None
        learning = replace(learning, status=replace(learning.status, phase="learn", step=3))
        shown.update([learning, replace(other, status=None, attack="silent")], seconds=2.0)
        shown.note("killed node b at height 3 (prepare)")
    text = sink.getvalue()
    for expected in ("round 2/20", "learn 3/10", "root-2", "down", "byzantine: silent", "killed node b at height 3"):
        assert expected in text


def test_the_result_is_a_table_and_one_verdict_line(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = an_outcome(kills=(A_KILL,), kills_planned=1)
    show_result(outcome, summary(outcome))
    lines = capsys.readouterr().out.splitlines()
    assert "killed at height 2 (prepare)" in lines[1]
    assert lines[-1].startswith("verdict: ok: 3 rounds in 10.0 s")
    came = a_node("e", rounds=(replace(some_rounds()[0], joined=(NodeId("e" * 40),)), *some_rounds()[1:]))
    churned = an_outcome(came, a_node("d", left=True), churned=True)
    show_result(churned, summary(churned))
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split()[-1] == "left" and " in 10.0 s with 1 changes of the committee, one model" in lines[-1]
    failed = an_outcome(troubles=("gave up", "lost heart"))
    assert verdict_line(summary(failed)) == "verdict: failed: gave up; lost heart"
