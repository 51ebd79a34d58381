"""Every broken rule is noticed (mutants.py, mutants_blocks.py); the whole budgets are the gate's, `scripts/simulate --mutants`."""

import re
from pathlib import Path

import pytest

from consensus.engine import Engine
from consensus.facts import Facts
from p2pnode.simulation import batches, lockstep, mutants, mutants_blocks, world
from p2pnode.simulation.mutants import MUTANTS, UNNEEDED, Patch
from p2pnode.simulation.options import drawn
from p2pnode.simulation.witness import Violation

assert mutants_blocks.CAUGHT


QUICK = [name for name, mutant in MUTANTS.items() if mutant.level != mutants.EXCESS]


@pytest.mark.parametrize("name", QUICK)
def test_it_falls(name: str) -> None:
    assert batches.run_mutant(name).scenario is not None


def test_a_mutant_leaves_nothing_behind() -> None:
    batches.run_mutant("never lock")
    for seed in range(20):
        lockstep.run(seed)
        world.run(drawn(seed, heights=2))


def test_every_rule_of_the_specification_is_broken_or_explained() -> None:
    """So that a rule written tomorrow is not forgotten here."""
    text = (Path(__file__).parents[2] / "consensus" / "SPEC.md").read_text(encoding="utf-8")
    rules = set(re.findall(r"^\| ([A-Z]\d+) \|", text, re.MULTILINE))
    broken = {rule for mutant in MUTANTS.values() for rule in re.findall(r"[A-Z]\d+", mutant.rule)}
    explained = {rule for words in UNNEEDED for rule in re.findall(r"[A-Z]\d+", words)}
    assert not rules - broken - explained


@pytest.mark.parametrize("silenced", ["repetition", "prepared blocks"])
def test_what_liveness_rests_on(silenced: str) -> None:
    """Without the repetition runs stall; without any path that carries locks (embedded, status, repetition) they do too."""
    patch = Patch()
    if silenced == "repetition":
        patch.set(Engine, "_repeat", lambda self: None)
    else:
        Facts.prepared = property(lambda self: None, lambda self, certificate: None)  # type: ignore[assignment, misc]
    try:
        with pytest.raises(Violation, match="STALL"):
            for seed in range(200):
                world.run(drawn(seed, nodes=4, founders=None, heights=3, leaves=0, progress_seconds=150.0))
    finally:
        patch.undo()
        if "prepared" in vars(Facts):
            del Facts.prepared
    mutants.forget()
