"""What an operator reads, word for word."""

import pytest

from p2pnode import render

from .conftest import NODE, Target, make_status


def test_status_is_a_verdict_and_what_one_asks_next() -> None:
    assert render.status(make_status()).splitlines() == [
        "healthy: height 12 decided 0.8 s ago",
        "  node        3f2a9c1b · alice · member · up 3 min 20 s (pid 4242)",
        "  network     5ab3c1d2e4f6 · 4 of 4 members reachable, 3 needed · 3 peers",
        "  height      12 · view 0 · learn",
        "  model       root 5ab3c1d2e4f6 · 1.2 M parameters",
        "  checkpoint  -",
        "  training    training until height 40, step 3 of 10",
        "  loss        3.912 nats per byte at height 12 · held-out 3.950",
        "  traffic     sent 12.3 MB · received 999 B · 93 % of the time in training steps",
        "  faults      0 proven, 2 messages refused",
        "  listen      127.0.0.1:7337",
        "  reachable   yes (dialed back by 2 peers)",
        "  join with   p2pnode start --bootstrap 127.0.0.1:7337",
        "  home        /srv/alice",
    ]


def test_how_fast_it_trains_is_said_once_it_has() -> None:
    fast = {"tokens_per_second": 401234.5, "model_flops_utilization": 0.413, "device": "cuda", "precision": "bf16"}
    assert "  speed       401234 tokens/s on cuda in bf16, 41 % of its peak" in render.status(make_status(**fast))
    slow = fast | {"model_flops_utilization": None, "device": "cpu"}
    assert "tokens/s on cpu in bf16, its peak is unknown" in render.status(make_status(**slow))
    compiled = slow | {"compilation": "compiled"}
    assert "in bf16, compiled, its peak is unknown" in render.status(make_status(**compiled))


def test_a_name_that_is_only_the_id_is_not_said_twice() -> None:
    assert "  node        3f2a9c1b · member · up" in render.status(make_status(name=NODE[:12]))


def test_a_node_that_has_just_started_has_dashes_and_no_crash() -> None:
    status = render.status(dict.fromkeys(make_status()) | {"verdict": "degraded", "reason": "fetching the model, 12 %"})
    assert status.startswith("degraded: fetching the model, 12 %\n")
    assert "  loss        none yet" in status
    assert render.status({})
    assert render.brief({})


@pytest.mark.parametrize(
    ("verdict", "colour", "well"),
    [("healthy", 32, True), ("idle", 32, True), ("degraded", 33, False), ("halted", 31, False), ("joining", 33, False)],
)
def test_slow_and_broken_look_different(verdict: str, colour: int, *, well: bool) -> None:
    status = {"verdict": verdict, "reason": "why"}
    assert render.verdict_line(status, coloured=True) == f"\x1b[{colour}m{verdict}: why\x1b[0m"
    assert render.verdict_line(status) == f"{verdict}: why"
    assert render.is_well(status) is well


def test_the_line_under_the_prompt() -> None:
    assert render.brief(make_status(reason="")) == (
        "healthy · height 12 · 4/4 members · training until height 40, step 3 of 10 · loss 3.912"
    )


def test_peers() -> None:
    assert render.peers(Target().peers()).splitlines() == [
        "node      address         direction  role    height  model root    score  reachable     rtt  remark",
        "3f2a9c1b  127.0.0.1:7338  out        member      12  5ab3c1d2e4f6      0  yes        0.4 ms",
    ]
    assert render.peers([]) == "no peers"


def test_who_is_absent_banned_or_gone_is_named() -> None:
    other = "77aa01bc" + "0" * 32
    caught = {"node": other, "kind": "double_prepare", "height": 3, "until_height": 1005}
    status = render.status(make_status(absent=[{"node": NODE, "since_height": 2}], banned=[caught, caught]))
    assert "  absent      3f2a9c1b since height 2\n  banned      77aa01bc until height 1005\n" in status
    assert "absent" not in render.status(make_status(absent=[], banned=[]))
    row = Target().rounds(1)[0] | {"joined": [NODE], "left": [{"node": other, "why": "evidence"}]}
    assert render.rounds([row]).endswith("0.74 s  +3f2a9c1b -77aa01bc (evidence)")
    peer = Target().peers()[0] | {"banned_until": 1005}
    assert render.peers([peer]).endswith("0.4 ms  evicted, banned until height 1005")
    row = {"node": other, "kind": "double_prepare", "height": 3, "view": 0, "banned_until": 1005}
    assert render.evidence([row]).endswith("evicted, banned until height 1005")


def test_rounds() -> None:
    assert render.rounds(Target().rounds(1)).splitlines() == [
        "height  view  model root    proposer  contributions   loss   learn  collect  agree   total  committee",
        "    12     0  5ab3c1d2e4f6  3f2a9c1b              4  3.900  0.61 s   0.12 s  14 ms  0.74 s",
    ]
    assert render.rounds([]) == "no rounds yet"


def test_a_trace_has_the_nine_steps_in_order() -> None:
    trace = Target().trace(12)
    assert trace is not None
    lines = render.trace(trace).splitlines()
    assert lines[:3] == [
        "height 12",
        "#  step      where  value         seconds",
        "1  draw      node   5ab3c1d2e4f6   2.0 ms",
    ]
    assert lines[-1].startswith("9  apply ")
    assert len(lines) == 11


def test_evidence() -> None:
    row = {"node": NODE, "kind": "double_prepare", "height": 7, "view": 0}
    assert render.evidence([row]).splitlines()[1] == "3f2a9c1b  double_prepare       7     0"
    assert render.evidence([]).startswith("no evidence")


def test_a_strangers_words_are_escaped_everywhere() -> None:
    evil = "\x1b[2J\nhealthy"
    peer = {"node": evil, "address": evil, "direction": evil, "role": evil, "model_root": evil}
    texts = [render.peers([peer]), render.status(make_status(name=evil, reason=evil)), render.facts({evil: evil})]
    texts += [render.log([{"event": evil, evil: evil}]), render.trace({"height": 1, "rows": [{"value": evil}]})]
    assert not any("\x1b" in text for text in texts)
    assert render.peers([peer]).count("\n") == 1


def test_facts_know_their_units() -> None:
    facts = render.facts(
        {"height": 3, "payload_bytes": 1_200_000, "seconds": {"fetch": 0.0123, "total": 1.5}, "root": None}
    )
    assert facts.splitlines() == [
        "height         3",
        "payload bytes  1.2 MB",
        "seconds fetch  12 ms",
        "seconds total  1.50 s",
        "root           -",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0, "0.0 ms"), (0.0004, "0.4 ms"), (0.00996, "10 ms"), (0.0994, "99 ms"), (0.5, "0.50 s"), (9.996, "10.0 s")),
        (59.9, "59.9 s"),
        (59.96, "1 min 0 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 5 min"),
        (273600, "3 d 4 h"),
        (None, "-"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert render.human_seconds(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_960, "1.0 MB"), (12_345_678, "12.3 MB"), (5e15, "5000.0 TB")],
)
def test_byte_counts(count: float, text: str) -> None:
    assert render.human_bytes(count) == text
