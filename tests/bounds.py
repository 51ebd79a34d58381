"""Which test shows each bound to hold: what bounds.toml is read into, and what it is compared with.

What it is: the constants of the packages with the reasons that stand beside them, and the table. A bound is every constant of a
`limits.py`, and every one elsewhere that is called like one. What it is not: the judge of the two (test_bounds.py).

For editing: a bound is shown by a test that fails where the code does not keep to it (`wider`), not by one that repeats its value.
"""

import ast
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGES = ("consensus", "transport", "model", "cuda_ext", "p2pnode")
# What no peer reaches: benchmarks, networks on one machine, the simulator.
ELSEWHERE = ("p2pnode/bench", "p2pnode/localnet", "p2pnode/simulation")
NAME = re.compile(r"_?[A-Z][A-Z0-9_]*$")
BOUND = re.compile(r"_(MAX|MIN|KEPT|AHEAD|BURST|AT_ONCE|PER_[A-Z]+)$")


@dataclass(frozen=True, slots=True)
class Constant:
    """`module` is dotted; `reason` is the comment or the string beside it."""

    module: str
    name: str
    reason: str
    is_bound: bool

    @property
    def key(self) -> str:
        """How the table calls it: by its name in a `limits.py`, else with the module's."""
        _, _, module = self.module.partition(".")
        return self.name if module == "limits" else f"{module}.{self.name}"


@dataclass(frozen=True, slots=True)
class Table:
    """Of one package. `shown`: the test of each bound; `no_bounds`: what is none, though it is called like one."""

    shown: Mapping[str, str]
    no_bounds: frozenset[str]


@cache
def tables() -> Mapping[str, Table]:
    read = tomllib.loads((Path(__file__).parent / "bounds.toml").read_text(encoding="utf-8"))
    return {
        package: Table(
            shown={key: test for file, tests in part["shown"].items() for key, test in _in_file(file, tests)},
            no_bounds=frozenset(key for keys in part["no_bounds"].values() for key in keys),
        )
        for package, part in read.items()
    }


def _in_file(file: str, tests: Mapping[str, list[str]]) -> Iterator[tuple[str, str]]:
    for test, keys in tests.items():
        yield from ((key, f"{file}::{test}") for key in keys)


@cache
def constants(package: str) -> Mapping[str, Constant]:
    paths = sorted((ROOT / package).rglob("*.py"))
    near = [path for path in paths if not path.relative_to(ROOT).as_posix().startswith(ELSEWHERE)]
    return {constant.key: constant for path in near for constant in _of(path)}


def wider(name: str, value: Any, factor: int = 2) -> Any:
    """A most that is twice as much, or a least that is half as much."""
    grows = ("_MIN" in name) == (value < 0)
    return type(value)(value * factor if grows else value / factor)


def assigned(node: ast.AST) -> set[str]:
    """Names that a statement gives a value to."""
    match node:
        case ast.Assign(targets=targets):
            pass
        case ast.AnnAssign(target=target, value=value) if value is not None:
            targets = [target]
        case _:
            return set()
    return {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}


def _of(path: Path) -> Iterator[Constant]:
    text = path.read_text(encoding="utf-8")
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    lines, body = text.splitlines(), ast.parse(text).body
    for at, node in enumerate(body):
        for name in sorted(assigned(node)):
            if NAME.match(name):
                is_bound = path.name == "limits.py" or BOUND.search(name) is not None
                yield Constant(module, name, _reason(lines, body, at), is_bound)


def _reason(lines: list[str], body: list[ast.stmt], at: int) -> str:
    """The comment on its lines, or the string below it and the constants that share it."""
    node = body[at]
    comment = "".join(re.findall(r"#.*", "\n".join(lines[node.lineno - 1 : node.end_lineno])))
    if comment:
        return comment
    below = next((each for each in body[at:] if not assigned(each)), None)
    match below:
        case ast.Expr(value=ast.Constant(value=str(text))):
            return text
        case _:
            return ""
