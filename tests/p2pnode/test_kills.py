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
    assert any(result["replayed"]) and result["statements"] > 0  # who was away may have taken models whole
    return result


def test_nodes_that_are_killed_at_random_moments_sign_nothing_twice(tmp_path: Path) -> None:
    assert killing(tmp_path, "--kills", "8", "--seed", "1")["lives"] == 4 + 8


def test_a_node_that_dies_between_two_effects_goes_on_where_it_was(tmp_path: Path) -> None:
    assert killing(tmp_path, "--boundaries", "3:30:9")["boundaries"] == [3, 12, 21, 30]


def test_a_node_that_dies_while_it_takes_up_its_files_takes_them_up_the_next_time(tmp_path: Path) -> None:
    assert killing(tmp_path, "--boundaries", "2:10:4", "--early")["boundaries"] == [2, 6, 10]


def test_a_node_whose_disk_is_full_says_so_in_one_line_and_goes_on_once_there_is_room(tmp_path: Path) -> None:
    """A small disk of its own, for real; only root may mount one."""
    place = tmp_path / "node-1"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m,mode=0700", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("not allowed to mount a disk")
    try:
        result = killing(tmp_path, "--full")
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)
    error, hint = result["last_words"]
    assert error.startswith("error: ") and ("o space left on device" in error or "cannot be written" in error)
    assert hint.startswith("hint: free ") and result["lives"] == 4 + 1


@pytest.mark.long
def test_two_hundred_kills_at_random_moments(tmp_path: Path) -> None:
    assert killing(tmp_path, "--kills", "200", "--seed", "2")["lives"] == 4 + 200


@pytest.mark.long
@pytest.mark.parametrize("early", [False, True])
def test_death_at_every_effect_of_more_than_a_height(tmp_path: Path, early: bool) -> None:
    result = killing(tmp_path, "--boundaries", "1:120:1", *(["--early"] if early else []))
    assert result["boundaries"] == list(range(1, 121))
