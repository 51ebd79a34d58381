"""`p2pnode simulate` and `scripts/simulate` as an operator sees them (command.py, sweep.py, batches.py, flags.py, adversaries.py, options.py)."""

import json
import random
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from p2pnode import cli
from p2pnode.errors import UserError
from p2pnode.simulation import batches, command, flags, sweep
from p2pnode.simulation.adversaries import ADVERSARIES, expand
from p2pnode.simulation.options import parse_kill, parse_partition

assert flags.simulate
ROOT = Path(__file__).parents[2]


def simulate(words: str) -> dict[str, object]:
    result = CliRunner().invoke(cli.app, ["simulate", *shlex.split(words), "--json"])
    facts = json.loads(result.stdout.splitlines()[-1])
    assert isinstance(facts, dict)
    return facts


def test_one_run_by_its_flags() -> None:
    words = "--nodes 7 --byzantine 2 --attack equivocate --partition 5:10:0,1/2,3,4,5,6 --kill 2 --heights 12 --seed 7"
    facts = simulate(words)
    assert (facts["verdict"], facts["nodes"], facts["byzantine"], facts["forks"]) == ("ok", 7, 2, 0)
    assert facts["heights"] >= 12
    assert len(facts["accused"]) == 2
    assert simulate(words)["trace_hash"] == facts["trace_hash"] != simulate(f"{words} --drawn")["trace_hash"]


def test_more_traitors_than_f_end_in_names() -> None:
    found = [simulate(f"--nodes 4 --byzantine 2 --attack equivocate --seed {seed}") for seed in range(6)]
    assert all(facts["verdict"] == "ok" for facts in found)
    assert all(len(facts["culprits"]) == 2 for facts in found if facts["forks"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"attack": "nonsense"}, "no adversary is called"),
        ({"attack": "eclipse"}, "lives in the connections"),
        ({"level": "lockstep", "attack": "withhold"}, "lock-step"),
        ({"level": "orbit"}, "no level"),
        ({"nodes": 4, "byzantine": 4}, "--byzantine 4"),
        ({"nodes": 1000}, "--nodes 1000"),
        ({"partition": ("5:10",)}, "is not AT:SECONDS:GROUPS"),
        ({"partition": ("5:10:0,1/1,2",)}, "is not AT:SECONDS:GROUPS"),
        ({"partition": ("5:10:0/9",)}, "there is no node 9"),
        ({"kill": ("x@3",)}, "neither COUNT nor NODE@AT"),
        ({"kill": ("9@3",)}, "there is no node 9"),
        ({"heights": 0}, "--heights 0"),
    ],
)
def test_a_bad_flag_is_one_line_and_a_hint(words: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        command.run_simulation(command.Request(**words))  # type: ignore[arg-type]
    assert caught.value.hint


def test_what_the_flags_mean() -> None:
    assert parse_partition("5:10:0>1,2").one_way
    assert parse_partition("5:10:0,1/2").text() == "5:10:0,1/2"
    assert parse_kill("2@7.5", rng=random.Random(1), healed_at=9)[0].node == 2
    assert len(parse_kill("3", rng=random.Random(1), healed_at=9)) == 3
    assert expand("equivocate,twin") == (
        "equivocating-proposer",
        "equivocating-prepare",
        "equivocating-commit",
        "twin",
    )


def test_help_lists_every_adversary_with_its_number() -> None:
    code, lines = command.run_simulation(command.Request(attack="help"))
    assert code == 0
    for adversary in ADVERSARIES.values():
        assert any(adversary.name in line and line.startswith(f"{adversary.numbers[0]:>2} ") for line in lines)
    numbers = {number for adversary in ADVERSARIES.values() for number in adversary.numbers}
    assert numbers == set(range(1, 39))


def test_a_trace_to_read(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    code, lines = command.run_simulation(command.Request(seed=1, heights=1, verbose=True, trace=path))
    assert code == 0
    assert path.read_text(encoding="utf-8").splitlines() == lines[: -len(lines) + path.read_text().count("\n")]


def test_lock_step_by_seed() -> None:
    assert simulate("--level lockstep --nodes 7 --seed 3")["verdict"] == "ok"


def test_a_sweep_sums_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep.main(["--seeds", "200", "--level", "lockstep", "--jobs", "1", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["verdict"], facts["seeds"], facts["failures"]) == ("ok", 200, [])
    assert facts["heights"] > 50
    assert sweep.main(["--seeds", "40", "--attack", "all", "--jobs", "1", "--json", "--nodes", "4"]) == 0


@pytest.mark.parametrize("words", [["--seeds", "0"], ["--level", "orbit"], ["--attack", "nonsense"], ["--what"]])
def test_a_bad_flag_of_a_sweep(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = sweep.main([*words, "--jobs", "1"])
    except SystemExit as ended:
        code = int(ended.code or 0)
    assert code == 2
    said = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in said] == ["error", "hint"]


def test_a_failure_prints_the_line_that_replays_it() -> None:
    line = batches.replay(batches.Batch("events", 0, 1, fixed={"attacks": ("twin", "silent")}), 12)
    assert line == "p2pnode simulate --drawn --attack twin,silent --seed 12"
    assert simulate(line.removeprefix("p2pnode simulate "))["verdict"] == "ok"
    line = batches.replay(batches.Batch("lockstep", 0, 1, 7, 3), 5)
    assert line == "p2pnode simulate --level lockstep --nodes 7 --byzantine 3 --seed 5"
    assert simulate(line.removeprefix("p2pnode simulate "))["byzantine"] == 3


def test_the_gate_is_as_large_as_it_says() -> None:
    plan = {label: sum(batch.count for batch in made) for label, made in sweep.gate_of(long=False, first=0)}
    assert plan["lock-step, 4 nodes"] == 100_000
    assert plan["events"] == 100
    assert plan["whole nodes"] == 20


def test_ctrl_c_ends_every_worker() -> None:
    command_line = [sys.executable, "-m", "p2pnode.simulation", "--seeds", "1000000", "--level", "lockstep"]
    process = subprocess.Popen(
        command_line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stderr is not None
    assert "of 1000000" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in said
    assert not _children_of(process.pid)


def _children_of(session: int) -> list[str]:
    """Processes of that session that still run. The pool has waited for its workers; multiprocessing's own tracker ends by itself when it
    sees that nobody holds its pipe any more, so it is looked for more than once."""
    left: list[str] = []
    for _ in range(500):
        found = subprocess.run(["ps", "-o", "pid=", "-s", str(session)], capture_output=True, text=True, check=False)
        left = found.stdout.split()
        if not left:
            break
    return left
