"""The golden scenarios: each file is a script and what it leads to, compared line by line.

After a change that is meant, look at `git diff` of: P2PNODE_REGENERATE=1 pytest tests/consensus/test_scenarios.py
"""

import os
from pathlib import Path

import pytest

from tests.consensus.stage import Stage

FOLDER = Path(__file__).parent / "scenarios"
SCENARIOS = sorted(FOLDER.glob("*.txt"))
RULE = "----"


def play(text: str) -> str:
    """Comments stay, each command is followed by what it leads to, whatever stood there before."""
    stage, played, skipping = Stage(), [], False
    for line in text.splitlines():
        if skipping and line:
            continue
        skipping = False
        played.append(line)
        if line and not line.startswith("#"):
            if line == RULE:
                raise ValueError("a command is missing above the rule")
            played += [RULE, stage.command(line)]
            skipping = True
    return "\n".join(played) + "\n"


@pytest.mark.parametrize("path", SCENARIOS, ids=[path.stem for path in SCENARIOS])
def test_scenario(path: Path) -> None:
    text = path.read_text()
    played = play(text)
    if os.environ.get("P2PNODE_REGENERATE"):
        path.write_text(played)
    assert played == path.read_text()


def test_there_are_scenarios() -> None:
    assert len(SCENARIOS) >= 10
