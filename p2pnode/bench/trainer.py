"""``scripts/bench trainer``: a training step of ours beside those of transformers, litgpt and x-transformers, on this processor.

The model is one that everybody has: 15.7 million parameters in Llama's layout (``trainer_peers`` says which, and what a step is). Each
contestant is a process; they make a step in turns, so all see the same machine, and each turn gives one ratio. With one thread processor time
counts, which other work disturbs least; with more the clock does. The others have the allocator as it comes, ours is tuned as a node's is; with
``--others-tuned`` everybody's is.

What it is not: learning (``tests/model/test_learning.py``), or a round (``scripts/bench round``).
"""

import importlib.util
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from p2pnode.errors import UserError

PEERS = Path(__file__).with_name("trainer_peers.py")
TOKENS = 8 * 256  # of a step
TURNS = 9
GOALS = {"fp32": 0.97, "bf16": 1.05}  # of the speed of the fastest of the others
OURS = "p2pnode"

Json = dict[str, Any]


class Contestant:
    """A process that makes a step when it is told to. Use as a context."""

    def __init__(self, name: str, python: Path, *, precision: str, threads: int, allocator: str) -> None:
        self.name = name
        which = ["-P", "-m", "p2pnode.bench.trainer_peers"] if name == OURS else ["-I", str(PEERS)]
        self._process = subprocess.Popen(  # noqa: S603 - an interpreter that the operator named, and our own program
            [str(python), *which, name, precision, str(threads), allocator],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_WAIT_POLICY": "passive"},  # a thread that waits must not count as one that works
        )

    def __enter__(self) -> "Contestant":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def answer(self) -> Json:
        """The next line that it says. Raises UserError where it has ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            _, errors = self._process.communicate()
            raise UserError(f"{self.name} ended: {(errors.strip().splitlines() or ['without a word'])[-1]}")
        found: Json = json.loads(line)
        return found

    def step(self) -> Json:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self.answer()


def measure(
    say: Callable[[str], None],
    *,
    litgpt: Path | None,
    turns: int,
    threads: Sequence[int],
    precisions: Sequence[str],
    allocator: str = "system",
) -> Json:
    """Every combination, one after the other. `allocator` is the others', "system" or "tuned"."""
    libraries = {"transformers": "transformers", "x-transformers": "x_transformers"}
    pythons = {name: Path(sys.executable) for name, module in libraries.items() if importlib.util.find_spec(module)}
    for name in libraries.keys() - pythons.keys():
        say(f"{name}: not measured (it is not installed)")
    if litgpt is None:
        say("litgpt: not measured (give --litgpt the interpreter of an environment that has it)")
    else:
        pythons["litgpt"] = litgpt
    rows: list[Json] = []
    for count in threads:
        for precision in precisions:
            say(f"{precision}, {count} thread{'s' * (count > 1)}, the others' allocator: {allocator}")
            rows.append(_contest(pythons, precision=precision, threads=count, allocator=allocator, turns=turns))
            say(_row_text(rows[-1], TOKENS))
    return {"benchmark": "trainer", "tokens": TOKENS, "turns": turns, "rows": rows}


def _contest(pythons: dict[str, Path], *, precision: str, threads: int, allocator: str, turns: int) -> Json:
    with ExitStack() as stack:
        contestants = [
            stack.enter_context(
                Contestant(
                    name,
                    python,
                    precision=precision,
                    threads=threads,
                    allocator="tuned" if name == OURS else allocator,
                )
            )
            for name, python in {OURS: Path(sys.executable), **pythons}.items()
        ]
        about = {contestant.name: contestant.answer() for contestant in contestants}
        steps: dict[str, list[Json]] = {contestant.name: [] for contestant in contestants}
        for _ in range(turns):
            for contestant in contestants:
                steps[contestant.name].append(contestant.step())
    row = {"precision": precision, "threads": threads, "allocator": allocator, "goal": GOALS.get(precision)}
    return {**row, **compare(about, steps, clock="processor_seconds" if threads == 1 else "seconds")}


def compare(about: dict[str, Json], steps: dict[str, list[Json]], *, clock: str) -> Json:
    """Each contestant's figures; of the others, too, how fast ours is beside it (the median of the turns' ratios)."""
    contestants = []
    for name, own in steps.items():
        seconds = [step[clock] for step in own]
        found: Json = {
            "name": name,
            "version": about[name]["version"],
            "parameters": about[name]["parameters"],
            "seconds": {"min": min(seconds), "median": statistics.median(seconds)},
            "peak_resident_bytes": own[-1]["peak_resident_bytes"],
        }
        if name != OURS:
            pairs = zip(own, steps[OURS], strict=True)
            found["ratio"] = statistics.median(other[clock] / ours[clock] for other, ours in pairs)
        contestants.append(found)
    ratios = [found["ratio"] for found in contestants if "ratio" in found]
    return {"clock": clock, "contestants": contestants, "ratio": min(ratios, default=None)}


def text(result: Json) -> str:
    """A line for each contestant, and how ours stands beside the fastest of the others."""
    first = f"a step of {result['tokens']} tokens, {result['turns']} turns; ratio: how many times as fast ours is"
    return "\n\n".join([first, *(_row_text(row, result["tokens"]) for row in result["rows"])])


def _row_text(row: Json, tokens: int) -> str:
    clock = "processor time" if row["clock"] == "processor_seconds" else "time"
    many = f"{row['threads']} thread{'s' * (row['threads'] > 1)}"
    lines = [f"{row['precision']}, {many}, {clock}; the others' allocator: {row['allocator']}"]
    for found in row["contestants"]:
        seconds = found["seconds"]
        ratio = f"  ratio {found['ratio']:.3f}" if "ratio" in found else " " * 13
        lines.append(
            f"  {found['name']:<15}{found['version']:<9}{found['parameters'] / 1e6:6.2f} M  "
            f"{seconds['min']:.3f} s (median {seconds['median']:.3f})  "
            f"{tokens / seconds['median']:6.0f} tokens/s{ratio}  "
            f"{found['peak_resident_bytes'] / 1e6:5.0f} MB"
        )
    if row["ratio"] is not None:
        goal = f" (goal {row['goal']:.2f})" if row["goal"] is not None and row["allocator"] == "system" else ""
        lines.append(f"  beside the fastest of the others: {row['ratio']:.3f}{goal}")
    return "\n".join(lines)
