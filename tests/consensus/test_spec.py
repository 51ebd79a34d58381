"""SPEC.md and the code name the same rules, and the package stays what its docstring says it is."""

import re
from pathlib import Path

import consensus

PACKAGE = Path(consensus.__path__[0])
SOURCES = sorted(PACKAGE.glob("*.py"))


def test_every_rule_is_carried_out_somewhere_and_every_citation_has_a_rule() -> None:
    spec = set(re.findall(r"^\| ([A-Z]\d) \|", (PACKAGE / "SPEC.md").read_text(), re.MULTILINE))
    cited: set[str] = set()
    for path in SOURCES:
        for listed in re.findall(r"# rule ((?:[A-Z]\d(?:, )?)+)", path.read_text()):
            cited |= set(listed.split(", "))
    assert cited == spec


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
