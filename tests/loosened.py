"""A pytest plugin that makes one bound of the code wider, and leaves tests with its true value.

What it is: the proof that a test shows a bound to hold. `P2PNODE_LOOSENED=transport.limits:PEERS_MAX pytest -p tests.loosened TEST` runs a
test where the code takes PEERS_MAX for twice what it is; a test that passes all the same shows nothing. test_bounds.py does so for every
bound with `--long`. What it is not: a way to configure anything.

For editing: it has to be loaded before the packages (`-p`). Each use of the constant's name in the packages is rewritten when a module is
imported; the name itself keeps its value, which is what tests see.
"""

import ast
import os
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType
from typing import Any

from tests.bounds import PACKAGES, assigned

SUFFIX = "_LOOSENED"


class Rewriting(ast.NodeTransformer):
    """Of one module: whoever reads the constant reads the other one."""

    def __init__(self, module: str, *, home: str, name: str) -> None:
        self._home, self._name = home, name
        self._is_home = module == home
        self._names = {name} if self._is_home else set[str]()
        self._modules: set[str] = set()

    def rewrite(self, tree: ast.Module) -> ast.Module:
        for node in ast.walk(tree):
            match node:
                case ast.ImportFrom(module=self._home, names=names):
                    for alias in [alias for alias in names if alias.name == self._name]:
                        here = alias.asname or alias.name
                        self._names.add(here)
                        names.append(ast.alias(self._name + SUFFIX, here + SUFFIX))
                case ast.ImportFrom(module=module, names=names):
                    self._modules |= {a.asname or a.name for a in names if f"{module}.{a.name}" == self._home}
        tree = self.visit(tree)
        if self._is_home:
            at = next(number for number, node in enumerate(tree.body, 1) if self._name in assigned(node))
            tree.body[at:at] = ast.parse(
                f"from tests.bounds import wider as _wider; {self._name}{SUFFIX} = _wider({self._name!r}, {self._name})"
            ).body
        return ast.fix_missing_locations(tree)

    def visit_Name(self, node: ast.Name) -> ast.Name:
        if node.id in self._names and isinstance(node.ctx, ast.Load):
            node.id += SUFFIX
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.Attribute:
        self.generic_visit(node)
        if node.attr == self._name and isinstance(node.value, ast.Name) and node.value.id in self._modules:
            node.attr += SUFFIX
        return node


class Loosening(SourceFileLoader):
    """Compiles a module of the packages with another bound."""

    wish: tuple[str, str]

    def get_code(self, fullname: str) -> CodeType | None:
        path = self.get_filename(fullname)
        home, name = self.wish
        return compile(
            Rewriting(fullname, home=home, name=name).rewrite(ast.parse(self.get_data(path), path)), path, "exec"
        )


class Finder(MetaPathFinder):
    def __init__(self, home: str, name: str) -> None:
        self._wish = home, name

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname.partition(".")[0] not in PACKAGES:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader and spec.origin is not None:
            loader = Loosening(fullname, spec.origin)
            loader.wish = self._wish
            spec.loader = loader
        return spec


if wish := os.environ.get("P2PNODE_LOOSENED"):
    early = [name for name in sys.modules if name.partition(".")[0] in PACKAGES]
    assert not early, f"imported before its bound could be changed: {early}"
    sys.meta_path.insert(0, Finder(*wish.split(":")))
