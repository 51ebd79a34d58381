"""torch's compiler around what a step differentiates, for a node that stays: its first step then takes from half a minute to some.

What it gives stands in docs/experiments.md. Where it fails (for a CPU it wants a C++ compiler) training goes on without, and `failure` says
why: a compiler is no reason for a node not to contribute.
"""

from collections.abc import Callable
from typing import Generic, ParamSpec, TypeVar

import torch

_P = ParamSpec("_P")
_R = TypeVar("_R")


class Compiled(Generic[_P, _R]):
    """`plain`, compiled when it is first called. Raises what `plain` raises, nothing else."""

    def __init__(self, plain: Callable[_P, _R]) -> None:
        self.failure: str | None = None
        self._plain = plain
        self._quick = torch.compile(plain, dynamic=False)

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        if self.failure is not None:
            return self._plain(*args, **kwargs)
        try:
            return self._quick(*args, **kwargs)
        except Exception as problem:
            result = self._plain(*args, **kwargs)  # what is this one's own fault is raised here once more
            self.failure = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
            return result
