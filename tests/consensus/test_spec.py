"""SPEC.md, the code, the proof and the tests name the same rules, and the package stays what its docstring says it is."""

import ast
import re
from pathlib import Path

import pytest

import consensus
from tests.proof import accountability, arithmetic, heights, invariants, model
from tests.proof.model import ACTIONS

PACKAGE = Path(consensus.__path__[0])
ROOT = Path(__file__).parent.parent.parent
LEMMAS = {"accountability": accountability, "arithmetic": arithmetic, "heights": heights}
SOURCES = sorted(PACKAGE.glob("*.py"))


SPEC = (PACKAGE / "SPEC.md").read_text()
RULES, _, PLACES = SPEC.partition("## Where each rule is")
ROWS = dict(re.findall(r"^\| ([A-Z]\d) \| (.*) \|$", PLACES, re.MULTILINE))
CITATION = re.compile(r"# rule ((?:[A-Z]\d(?:, )?)+)")


def cited_in(text: str) -> set[str]:
    return {rule for listed in CITATION.findall(text) for rule in listed.split(", ")}


def columns(rule: str) -> tuple[str, str, str]:
    branch, proof, test = ROWS[rule].split(" | ")
    return branch, proof, test


def test_every_rule_is_carried_out_somewhere_and_every_citation_has_a_rule() -> None:
    rules = set(re.findall(r"^\| ([A-Z]\d) \|", RULES, re.MULTILINE))
    assert set().union(*(cited_in(path.read_text()) for path in SOURCES)) == rules
    assert set(ROWS) == rules, "the last table has one row for each rule"


@pytest.mark.parametrize("rule", ROWS)
def test_the_branch_of_a_rule_cites_it(rule: str) -> None:
    name, *function = re.findall(r"`([^`]+)`", columns(rule)[0])
    text = (PACKAGE / name).read_text()
    if function:
        nodes = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef) and n.name == function[0]]
        text = "\n".join("\n".join(text.splitlines()[n.lineno - 1 : n.end_lineno]) for n in nodes)
    assert rule in cited_in(text)


@pytest.mark.parametrize("rule", ROWS)
def test_what_a_rule_is_in_the_proof_exists(rule: str) -> None:
    """An action, an invariant or a lemma by its name; or a dash, and why there is none."""
    proof = columns(rule)[1]
    if proof.startswith("-"):
        assert len(proof) > 3
        return
    named = re.findall(r"(?:(\w+)\.py: )?`(\w+)`(?:: ([\w ,]+))?", proof)
    assert named
    for module, name, conditions in named:
        places = (LEMMAS[module],) if module else (model, invariants)
        assert any(hasattr(place, name) for place in places), name
        if name in ACTIONS and conditions:
            guard = ACTIONS[name](model.any_state()).guard
            assert set(conditions.split(", ")) <= set(guard), conditions


def test_every_action_of_the_proof_carries_out_a_rule() -> None:
    named = {name for rule in ROWS for name in re.findall(r"`(\w+)`", columns(rule)[1])}
    assert set(ACTIONS) <= named


@pytest.mark.parametrize("rule", ROWS)
def test_the_test_of_a_rule_exists(rule: str) -> None:
    name, _, function = columns(rule)[2].strip("`").partition("::")
    tree = ast.parse((ROOT / name).read_text())
    assert function.startswith("test_")
    assert any(isinstance(node, ast.FunctionDef) and node.name == function for node in ast.walk(tree))


def test_no_clock_no_chance_no_network_no_disk() -> None:
    banned = re.compile(
        r"^\s*(?:import|from) (time|random|os|socket|trio|torch|secrets|uuid|datetime|threading|asyncio)\b",
        re.MULTILINE,
    )
    assert {path.name: banned.findall(path.read_text()) for path in SOURCES if banned.search(path.read_text())} == {}


def test_no_float_near_a_vote() -> None:
    """Only timers, and the jitter of the repetition, know fractions."""
    fractions = {p.name for p in SOURCES if re.search(r"\bfloat\b|\d\.\d| / ", "".join(_code(p)))}
    assert fractions <= {"timeouts.py", "limits.py", "engine.py", "effects.py", "events.py"}


def _code(path: Path) -> list[str]:
    """Lines without comments and docstrings, roughly."""
    text = re.sub(r'""".*?"""', "", path.read_text(), flags=re.DOTALL)
    return [line.split("#")[0] + "\n" for line in text.splitlines()]
