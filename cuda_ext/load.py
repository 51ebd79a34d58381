"""Finding and loading the kernels that `cuda_ext.build` has built.

A library is named by what it was made of: its folder under `_build/` carries the digest of its sources and of the script that compiles
them, so one that is out of date is simply not found, and nothing that is loaded was made of other sources than these. It is loaded at the
first call of an operator, which is when `ops.py` would fall back to plain torch; from then on torch's dispatcher finds the kernels itself.

The integer kernels are a library of their own, that knows no torch: whoever only replays a chain loads nothing else. Hence torch is
imported here where it is needed, and not before.

The environment variable P2PNODE_EXT says what to do: `auto` (kernels where there are any), `off` (plain torch), `require` (an error where
there are none, for tests and measurements). P2PNODE_EXT_ISA names the instruction set of the CPU kernels, else the widest is taken.
"""

import ctypes
import hashlib
import logging
import os
import platform
import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import platformdirs

HERE: Final = Path(__file__).parent
BUILD_HINT: Final = "python -m cuda_ext.build"
# Of torch's stable interface, from which version on: also what the compilers are told (TORCH_TARGET_VERSION).
TORCH_FLOOR: Final = "0x020a000000000000ULL"
MODES: Final = ("auto", "off", "require")

_log = logging.getLogger("cuda_ext")


class KernelsMissing(RuntimeError):
    """P2PNODE_EXT=require, and no kernels; or a setting that names none."""


@dataclass(frozen=True, slots=True)
class Status:
    """What runs the operators of this process. `hint` is empty where nothing is to be done."""

    what: str
    cpu: str = ""  # "avx512bf16" and the like; empty: plain torch
    cuda: bool = False
    hint: str = ""
    is_refused: bool = False  # by a setting: no operator will run


# --- places ----------------------------------------------------------------------------------------------------------------------


def sources(part: str) -> list[Path]:
    """What the library of `part` ("integer", "cpu" or "cuda") is made of: its folder, and the script that compiles it."""
    script = HERE / ("build_cuda.py" if part == "cuda" else "build.py")
    return [*sorted(path for path in (HERE / part).glob("*") if path.is_file()), script]


@cache
def digest(part: str) -> str:
    """16 hex digits that name the sources, the processor's family and torch's interface."""
    state = hashlib.sha256(f"{platform.machine()} {TORCH_FLOOR}".encode())
    for path in sources(part):
        content = path.read_bytes()
        state.update(f"\n{path.name} {len(content)}\n".encode() + content)
    return state.hexdigest()[:16]


def places(part: str) -> tuple[Path, Path]:
    """Where the library may stand: beside the sources, or, where that cannot be written, in the user's cache."""
    name = f"{part}-{digest(part)}/p2pnode_{part}.so"
    return HERE / "_build" / name, platformdirs.user_cache_path("p2pnode") / "kernels" / name


def find(part: str) -> Path | None:
    return next((place for place in places(part) if place.is_file()), None)


# --- loading ---------------------------------------------------------------------------------------------------------------------

_lock = threading.Lock()
_status: Status | None = None


def status() -> Status:
    """Loads what there is. Never raises: what cannot be loaded is not there."""
    global _status  # noqa: PLW0603 - one process has one dispatcher
    with _lock:
        if _status is None:
            _status = _load()
            _log.info("kernels: %s%s", _status.what, f" ({_status.hint})" if _status.hint else "")
        return _status


def arrived() -> bool:
    """True for the one caller whose question loaded kernels. Raises KernelsMissing where they are required and missing."""
    was_known = _status is not None
    found = status()
    if found.is_refused:
        raise KernelsMissing(f"{found.what}; {found.hint}")
    return bool(found.cpu or found.cuda) and not was_known


@cache
def integers() -> ctypes.CDLL | None:
    """The kernels of integers.py, or None where that has to do without."""
    path = find("integer") if os.environ.get("P2PNODE_EXT", "auto") in ("auto", "require") else None
    if path is None:
        return None
    try:
        library = ctypes.CDLL(str(path))
    except OSError:
        return None
    # Without these ctypes would hand over 32 bits of a number, and whatever stands beside them.
    address, count, small = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32
    library.p2pnode_accumulate.argtypes = [count, address, address, address, count, count, count, small, address]
    library.p2pnode_squares.argtypes = [address, count, address]
    library.p2pnode_quantize.argtypes = [address, count, small, small, address, address]
    library.p2pnode_accumulate.restype = library.p2pnode_squares.restype = None
    return library


def choose_isa(name: str) -> bool:
    """Which of the built CPU kernels run from now on ("" is the widest). False: this processor cannot run them, or none have that name."""
    path = find("cpu")
    if path is None or not status().cpu:
        return False
    return bool(ctypes.CDLL(str(path)).p2pnode_choose_isa(name.encode()))


def gpus_in_plain_torch() -> list[str]:
    """Of each GPU that torch sees and that cannot run the kernels built for CUDA, a line that says why: it is older than what was compiled, or
    its driver than the compiler. Starts CUDA, which takes a second and a part of the GPU's memory."""
    import torch

    path = find("cuda")
    if path is None or not status().cuda:
        return []
    problem_of = ctypes.CDLL(str(path)).p2pnode_cuda_problem
    problem_of.restype = ctypes.c_char_p
    lines = []
    for index in range(torch.cuda.device_count()):
        if problem := problem_of(index).decode():
            major, minor = torch.cuda.get_device_capability(index)
            lines.append(f"{torch.cuda.get_device_name(index)} (sm_{major}{minor}) runs plain torch: {problem}")
    return lines


def _load() -> Status:
    import torch

    mode = os.environ.get("P2PNODE_EXT", "auto")
    if mode not in MODES:
        return Status(f"P2PNODE_EXT is {mode!r}", hint=f"it is one of {', '.join(MODES)}", is_refused=True)
    if mode == "off":
        return Status("plain torch (P2PNODE_EXT=off)")
    problem, isa, cuda = _load_library("cpu"), "", False
    if not problem:
        library = ctypes.CDLL(str(find("cpu")))
        library.p2pnode_isa.restype = ctypes.c_char_p
        wanted = os.environ.get("P2PNODE_EXT_ISA", "")
        if not library.p2pnode_choose_isa(wanted.encode()):
            hint = "this processor cannot run it, or no kernels have that name"
            return Status(f"P2PNODE_EXT_ISA is {wanted!r}", hint=hint, is_refused=True)
        isa = library.p2pnode_isa().decode()
    if torch.version.cuda is not None:
        problem_cuda = _load_library("cuda")
        problem, cuda = problem or problem_cuda, not problem_cuda
    if not problem and integers() is None:
        problem = "no integer kernels built of these sources"
    what = ", ".join([f"{isa} on the CPU"] * bool(isa) + ["CUDA"] * cuda + [problem] * bool(problem))
    if isa or cuda:
        return Status(what, cpu=isa, cuda=cuda, hint=BUILD_HINT if problem else "")
    return Status(f"plain torch, {what}", hint=BUILD_HINT, is_refused=mode == "require")


def _load_library(part: str) -> str:
    """What stands in the way, if anything does."""
    import torch

    path = find(part)
    if path is None:
        return f"no {part} kernels built of these sources"
    try:
        torch.ops.load_library(str(path))  # type: ignore[no-untyped-call]
    except OSError as problem:  # built for another machine, or against a torch that has gone
        return f"the {part} kernels cannot be loaded: {str(problem).splitlines()[0]}"
    return ""
