"""The verdict of ``status`` (p2pnode/health.py)."""

from dataclasses import replace

from p2pnode.health import Facts, judge

WELL = Facts(
    members=5,
    members_reachable=5,
    quorum=4,
    is_member=True,
    cannot_vote=None,
    diverged=None,
    syncing=None,
    behind=0,
    bootstrap_failure=None,
    peers=4,
    anybody_training=True,
    contributors=5,
    contributors_usual=5,
)


def verdict(**facts):
    return judge(replace(WELL, **facts)).line


def test_all_is_well():
    assert verdict() == "healthy"


def test_no_quorum_names_what_is_needed():
    assert verdict(members_reachable=2) == "halted: no quorum: 2 of 5 members reachable, 4 needed"


def test_no_quorum_is_worse_than_anything_else():
    assert verdict(members_reachable=2, behind=7, cannot_vote="disk full").startswith("halted: no quorum")


def test_a_vote_log_that_cannot_be_written():
    assert verdict(cannot_vote="writing votes.log failed: No space left on device") == (
        "degraded: not voting: writing votes.log failed: No space left on device"
    )


def test_an_observer_needs_no_vote_log():
    assert verdict(cannot_vote="disk full", is_member=False) == "healthy"


def test_behind_by_one_is_the_normal_race():
    assert verdict(behind=1) == "healthy"
    assert verdict(behind=2) == "degraded: catching up: 2 heights behind"


def test_nobody_trains():
    assert verdict(anybody_training=False) == "idle: nobody is training"


def test_one_node_decides():
    assert verdict(members=1, members_reachable=1, quorum=1, contributors=2, contributors_usual=2) == (
        "healthy: one node decides until four are here (2 of 4)"
    )


def test_a_contributor_missed_the_round():
    assert verdict(contributors=4) == "degraded: 4 of 5 contributors reached the last round"


def test_bootstrap_failure_matters_only_without_peers():
    failure = "cannot reach 127.0.0.1:7337: refused"
    assert verdict(bootstrap_failure=failure) == "healthy"
    assert verdict(bootstrap_failure=failure, peers=0) == f"degraded: {failure}"
