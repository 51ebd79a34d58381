"""No bound without a test that shows it holding: the constants of the packages against bounds.toml.

`--long`: each of the tests named there fails where the code takes its bound for twice as much; a quarter of an hour of one core.
"""

import ast
import os
import subprocess
import sys

import pytest

from tests.bounds import BOUND, PACKAGES, ROOT, Constant, constants, tables, wider
from tests.loosened import Rewriting

EVERY = [(package, key) for package in PACKAGES for key in tables()[package].shown]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_bound_is_in_the_table_once(package: str) -> None:
    table, found = tables()[package], constants(package)
    bounds = {key for key, constant in found.items() if constant.is_bound}
    listed = table.shown.keys() | table.no_bounds
    assert not bounds - listed, f"without a test: {sorted(bounds - listed)}"
    assert not listed - found.keys(), f"no such constant any more: {sorted(listed - found.keys())}"
    assert not table.shown.keys() & table.no_bounds


@pytest.mark.parametrize("package", PACKAGES)
def test_every_bound_says_why(package: str) -> None:
    silent = [key for key in tables()[package].shown if len(constants(package)[key].reason) < 10]
    assert not silent


@pytest.mark.parametrize("package", PACKAGES)
def test_the_tests_that_are_named_exist(package: str) -> None:
    for place in set(tables()[package].shown.values()):
        file, *names = place.split("::")
        body: list[ast.stmt] = ast.parse((ROOT / file).read_text(encoding="utf-8")).body
        for name in names:
            inner = [node for node in body if getattr(node, "name", None) == name]
            assert inner, place
            body = getattr(inner[0], "body", [])


@pytest.mark.long
@pytest.mark.parametrize(("package", "key"), EVERY, ids=[f"{package}.{key}" for package, key in EVERY])
def test_the_test_of_a_bound_fails_without_it(package: str, key: str) -> None:
    constant, place = constants(package)[key], tables()[package].shown[key]
    assert "1 failed" in loosened(constant, place), "it passes where the code takes its bound for twice as much"


def loosened(constant: Constant, place: str) -> str:
    """The last line of pytest, run on one test in a process of its own; the first failure ends it."""
    environment = os.environ | {"P2PNODE_LOOSENED": f"{constant.module}:{constant.name}"}
    command = [sys.executable, "-m", "pytest", "-p", "tests.loosened", "-p", "no:cacheprovider", "-x", place]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return run.stdout.strip().rpartition("\n")[2]


# --- the proof itself --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "other"),
    [
        ("A_MAX", 4, 8),
        ("A_MAX", -8, -4),
        ("A_MIN", 4, 2),
        ("A_MIN", -40, -80),
        ("A_SECONDS", 0.5, 1.0),
        ("A_MIN", 1, 0),
    ],
)
def test_wider_is_more_of_a_most_and_less_of_a_least(name: str, value: float, other: float) -> None:
    assert wider(name, value) == other and type(wider(name, value)) is type(value)


def test_whoever_reads_a_bound_reads_the_wider_one_and_its_own_name_is_left() -> None:
    home = Rewriting("box.limits", home="box.limits", name="SIZE_MAX").rewrite(
        ast.parse("SIZE_MAX: int = 4\nTWO = SIZE_MAX * 2")
    )
    scope: dict[str, int] = {}
    exec(compile(home, "limits", "exec"), scope)
    assert (scope["SIZE_MAX"], scope["SIZE_MAX_LOOSENED"], scope["TWO"]) == (4, 8, 16)
    for reader in (
        "from box.limits import SIZE_MAX\ndef f(x): return x < SIZE_MAX",
        "from box.limits import SIZE_MAX as most\ndef f(x): return x < most",
        "from box import limits\ndef f(x): return x < limits.SIZE_MAX",
    ):
        text = ast.unparse(Rewriting("box.lid", home="box.limits", name="SIZE_MAX").rewrite(ast.parse(reader)))
        assert "_LOOSENED" in text.rpartition("return")[2], text


def test_names_of_bounds_are_known_as_such() -> None:
    called = [
        "PEERS_MAX",
        "X_SECONDS_MIN",
        "MODELS_KEPT",
        "PAGES_AHEAD",
        "FRAMES_BURST",
        "HOLDERS_AT_ONCE",
        "X_PER_SECOND",
    ]
    assert all(BOUND.search(name) for name in called)
    assert not any(BOUND.search(name) for name in ("RETRY_SECONDS", "PAGE_BYTES", "MAXIMAL"))
