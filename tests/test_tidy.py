"""The form of the code: who may import whom, how long things may get, and that nothing is left undocumented or untested.

What it is: rules that a reader relies on, checked on the syntax tree. What it is not: style that ruff checks already. A rule that gets in
the way is changed here, with its reason, and not worked around.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("consensus", "transport", "model", "cuda_ext", "p2pnode")

FUNCTION_LINES_MAX = 75  # one screen
FILE_LINES_MAX = 600  # one idea

# Package -> top-level modules that it must not import (DESIGN section 1).
BANNED = {
    "consensus": {
        "transport",
        "model",
        "cuda_ext",
        "p2pnode",
        "torch",
        "time",
        "random",
        "os",
        "socket",
        "trio",
        "asyncio",
        "threading",
    },
    "transport": {"consensus", "model", "cuda_ext", "p2pnode", "torch"},
    "model": {"consensus", "transport", "p2pnode", "trio", "socket", "ssl"},
    "cuda_ext": {"consensus", "transport", "model", "p2pnode", "trio"},
    "p2pnode": {"torch"},
}
# The doctor reports what torch can do on this machine.
# hivemind's peers run in hivemind's own environment.
# The operators are measured against torch's own expressions, a training step against other libraries' in their processes.
EXEMPT = {
    ("p2pnode/doctor.py", "torch"),
    ("p2pnode/bench/hivemind_peers.py", "torch"),
    ("p2pnode/bench/kernels.py", "torch"),
    ("p2pnode/bench/trainer_peers.py", "torch"),
}
# Nothing that `start` runs may reach the attacks; their own module starts nodes of its own.
ATTACKS = "p2pnode.attacks"

# Modules that no test imports, and what tests them instead.
TESTED_OTHERWISE = {
    "p2pnode/__main__.py": "every test that starts a node",
    "p2pnode/localnet/warden.py": "test_localnet_processes.py kills a harness",
    "p2pnode/localnet/harness.py": "test_localnet_runs.py runs whole networks",
    "p2pnode/localnet/flags.py": "test_localnet_runs.py runs the command",
    "p2pnode/localnet/churn.py": "test_localnet_runs.py lets members come and go",
    "p2pnode/localnet/run.py": "test_localnet_runs.py runs whole networks",
    "p2pnode/localnet/strikes.py": "test_localnet_runs.py kills nodes",
    "p2pnode/localnet/founding.py": "test_localnet_runs.py runs whole networks",
    "p2pnode/localnet/questions.py": "test_localnet_runs.py runs whole networks",
    "p2pnode/simulation/__main__.py": "test_command.py runs it",
    "p2pnode/simulation/machine.py": "test_whole.py runs whole nodes on it",
    "p2pnode/simulation/streams.py": "test_whole.py runs whole nodes on it",
    "p2pnode/bench/__main__.py": "test_bench.py runs it",
    "p2pnode/bench/quick.py": "test_bench.py runs nodes without training",
    "p2pnode/bench/rival.py": "scripts/bench round --hivemind, where hivemind is installed",
    "p2pnode/bench/hivemind_peers.py": "the same",
    "p2pnode/bench/trainer_peers.py": "test_bench.py lets it make steps",
    "p2pnode/bench/libp2p_peers.py": "scripts/bench meeting --libp2p, where libp2p is installed",
}

# In every file that git tracks: a place on one machine, or the address of a package server.
FORBIDDEN = re.compile(
    r"(?<![\w.])/(?:work|root)/|/home/\w+/|/tmp/p2pnode-localnet"
    r"|files\.pythonhosted|pypi\.org|download\.pytorch|index-url|find-links",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Source:
    """One Python file of the packages, parsed."""

    name: str  # "p2pnode/node.py"
    text: str
    tree: ast.Module

    @property
    def package(self) -> str:
        return self.name.split("/", 1)[0]


@cache
def sources() -> tuple[Source, ...]:
    paths = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    texts = [(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) for path in paths]
    return tuple(Source(name, text, ast.parse(text)) for name, text in texts)


def imports(tree: ast.AST, *, package: str = "") -> Iterator[str]:
    """Dotted names of everything imported anywhere in the file, inside functions, too."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                base = f"{package}.{module or ''}".rstrip(".") if level else (module or "")
                yield base
                yield from (f"{base}.{alias.name}" for alias in names)


def test_the_imports_point_in_the_directions_of_the_design() -> None:
    wrong = {
        f"{source.name} imports {name}"
        for source in sources()
        for name in imports(source.tree, package=source.package)
        if (top := name.split(".")[0]) in BANNED[source.package] and (source.name, top) not in EXEMPT
    }
    assert not wrong


def test_nothing_but_the_attacks_and_the_simulation_reaches_the_attacks() -> None:
    wrong = {
        source.name
        for source in sources()
        if not source.name.startswith(("p2pnode/attacks", "p2pnode/simulation/"))
        for name in imports(source.tree, package=source.package)
        if name == ATTACKS or name.startswith(f"{ATTACKS}.")
    }
    assert not wrong


def test_nothing_that_a_node_runs_reaches_the_simulation() -> None:
    """It draws at random and breaks rules on purpose. The command line knows its flags, and loads the rest when they are used."""
    free = ("p2pnode/simulation/", "p2pnode/bench/")
    wrong = {
        source.name
        for source in sources()
        if not source.name.startswith(free)
        for name in imports(source.tree, package=source.package)
        if name.startswith("p2pnode.simulation") and not name.startswith("p2pnode.simulation.flags")
    }
    assert not wrong


def test_every_module_says_what_it_is() -> None:
    assert not {source.name for source in sources() if not ast.get_docstring(source.tree)}


def test_functions_fit_on_a_screen_and_files_hold_one_idea() -> None:
    too_long = {
        f"{source.name}:{node.lineno} {node.name}: {lines} lines"
        for source in sources()
        for node in ast.walk(source.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES_MAX
    }
    too_long |= {
        f"{source.name}: {lines} lines" for source in sources() if (lines := source.text.count("\n")) > FILE_LINES_MAX
    }
    assert not too_long


def test_every_module_is_named_by_a_test() -> None:
    """A floor, not a ceiling: the tests import each module, by its name or by that of something in it, or say in words that they test it
    (`height.py`, in a test of the same package)."""
    tests = {path: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py")}
    named = {name for text in tests.values() for name in imports(ast.parse(text))}
    named |= {
        f"{path.relative_to(ROOT / 'tests').parts[0]}/{word}"
        for path, text in tests.items()
        for word in re.findall(r"\w+\.py\b", text)
    }
    untested = [
        source.name
        for source in sources()
        if not source.name.endswith("__init__.py")
        and source.name not in TESTED_OTHERWISE
        and not named & _names(source)
    ]
    assert not untested, "\n".join(["no test names these:", *untested])


def _names(source: Source) -> set[str]:
    """The module, and its public names as its package may pass them on: `from consensus import Engine` names engine.py."""
    module = source.name.removesuffix(".py").replace("/", ".")
    package = module.rpartition(".")[0]
    public = {
        node.name
        for node in source.tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_")
    }
    said = f"{source.package}/{source.name.rpartition('/')[2]}"
    return {module, said} | {f"{package}.{name}" for name in public}


def tracked_files() -> list[Path]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    return [path for name in listing.decode().split("\0") if name and (path := ROOT / name).is_file()]


def test_no_file_names_a_place_on_one_machine_or_a_package_server() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    found = {
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in tracked_files()
        if path != Path(__file__)
        for number, line in enumerate(path.read_bytes().decode("utf-8", "replace").splitlines(), 1)
        if FORBIDDEN.search(line)
    }
    assert not found


# A file of this repository as prose and comments name it, and any document.
REFERENCE = re.compile(
    r"(?<![\w/.])(?:(?:consensus|transport|model|cuda_ext|p2pnode|tests|docs|scripts)/(?:\w+/)*[\w-]+\.(?:py|md|txt)|[A-Z]{4,}\.md)\b"
)


def test_every_file_that_is_named_exists() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    tracked = tracked_files()
    known = {path.relative_to(ROOT).as_posix() for path in tracked}
    known |= {path.name for path in tracked if path.suffix == ".md"}
    dead = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in tracked
        if path.suffix in (".py", ".md", ".toml") and path != Path(__file__)
        for name in REFERENCE.findall(path.read_text(encoding="utf-8"))
        if name not in known
    }
    assert not dead


def test_scripts_can_be_run() -> None:
    """Those with a leading underscore are sourced."""
    scripts = [path for path in (ROOT / "scripts").iterdir() if path.is_file() and not path.name.startswith("_")]
    assert scripts
    assert not {path.name for path in [*scripts, ROOT / ".ci" / "run"] if not path.stat().st_mode & 0o100}


def test_the_check_that_runs_elsewhere_is_the_check_that_runs_here() -> None:
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == ["exec ./scripts/check"]


# --- what the README promises ------------------------------------------------------------------------------------------------


def readme_commands() -> list[list[str]]:
    """Every `p2pnode ...` line of the README's code, as words."""
    path = ROOT / "README.md"
    if not path.exists():
        return []
    lines = re.findall(r"^(?:\$ )?p2pnode +([a-z].*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return [re.split(r"\s+#", line)[0].split() for line in lines]


def test_the_readmes_map_names_every_module_of_the_daemon() -> None:
    words = set(re.findall(r"\b\w+\.py\b", (ROOT / "README.md").read_text(encoding="utf-8")))
    modules = {path.name for path in (ROOT / "p2pnode").glob("*.py") if not path.name.startswith("__")}
    assert modules <= words, f"not in the README: {sorted(modules - words)}"


def test_every_command_line_of_the_readme_exists() -> None:
    from typer.main import get_command

    from p2pnode.cli import app

    root = get_command(app)
    for words in readme_commands():
        command = root
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
        assert command is not root, f"README: p2pnode {' '.join(words)}"
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        unknown = {word.split("=")[0] for word in words if word.startswith("--")} - known - {"--help"}
        assert not unknown, f"README: {command.name} has no {unknown}"


def test_the_command_line_starts_without_the_heavy_packages() -> None:
    program = (
        "import sys; import p2pnode.cli; print(*sorted({'torch', 'trio', 'hypercorn', 'rich'} & set(sys.modules)))"
    )
    process = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(process.stdout.split()) <= {"rich"}  # typer's own
