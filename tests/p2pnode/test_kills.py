"""Real processes, killed for real (`killing.py` is the harness): no vote twice, no lock forgotten, one chain, and every home verifies.

Which effects fall on which boundary differs from run to run, because the network is real; what must hold does not.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent


def killing(directory: Path, *flags: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.p2pnode.killing", str(directory), *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr[-2000:]
    result: dict[str, Any] = json.loads(done.stdout)
    assert result["sound"] and not result["troubles"], result["troubles"]
    assert all(result["replayed"]) and result["statements"] > 0
    return result


def test_nodes_that_are_killed_at_random_moments_sign_nothing_twice(tmp_path: Path) -> None:
    assert killing(tmp_path, "--kills", "8", "--seed", "1")["lives"] == 4 + 8


def test_a_node_that_dies_between_two_effects_goes_on_where_it_was(tmp_path: Path) -> None:
    assert killing(tmp_path, "--boundaries", "3:30:9")["boundaries"] == [3, 12, 21, 30]


def test_a_node_that_dies_while_it_takes_up_its_files_takes_them_up_the_next_time(tmp_path: Path) -> None:
    assert killing(tmp_path, "--boundaries", "2:10:4", "--early")["boundaries"] == [2, 6, 10]


@pytest.mark.long
def test_two_hundred_kills_at_random_moments(tmp_path: Path) -> None:
    assert killing(tmp_path, "--kills", "200", "--seed", "2")["lives"] == 4 + 200


@pytest.mark.long
@pytest.mark.parametrize("early", [False, True])
def test_death_at_every_effect_of_more_than_a_height(tmp_path: Path, early: bool) -> None:
    result = killing(tmp_path, "--boundaries", "1:120:1", *(["--early"] if early else []))
    assert result["boundaries"] == list(range(1, 121))
