"""`python -m cuda_ext.build`: compiles the kernels for this machine, where there is a compiler.

For the integers of the codec and the aggregate: one source. For the CPU: one source for each instruction set, with its own flags and no
header of torch, and `bind.cpp`, which is the only one that knows torch, through its stable interface: what is built here runs with every
torch from that on. For CUDA see `build_cuda.py`. The result stands under a name that is the digest of its sources (`load.py`), so to build
again what is unchanged is to look for a file. Plain compiler commands, because torch's own tool refuses CUDA beside a torch for the CPU, and
needs a minute for what takes seconds here.

What it is not: part of the installation of the package. Without a compiler everything runs in plain torch; the exit status is then 1.
"""

import argparse
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from cuda_ext import load

COMPILERS: Final = ("g++", "clang++", "c++")
# No contraction: a value must not depend on whether it stood in a whole vector or in the rest behind the last one.
FLAGS: Final = (
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
)
_AVX512: Final = ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma")
ISA_FLAGS: Final = {
    "scalar": (),
    "avx2": ("-mavx2", "-mfma"),
    "avx512": _AVX512,
    "avx512bf16": (*_AVX512, "-mavx512bf16"),
}
X86: Final = ("x86_64", "AMD64")

Builder = Callable[[Path], Path]  # compiles into a folder; the library in it


class BuildError(Exception):
    """Why there is nothing built, in one line; `log` is the compiler's own words."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log


def main(arguments: Sequence[str] | None = None) -> int:
    """0: all that can be built here is there. 1: something is not."""
    parser = argparse.ArgumentParser(prog="python -m cuda_ext.build", description="Compiles the kernels of the model.")
    parser.add_argument("--force", action="store_true", help="compile also what is unchanged")
    parser.add_argument("--no-cuda", action="store_true", help="kernels for the CPU alone")
    given = parser.parse_args(arguments)
    parts = {"integer": build_integers, "cpu": build_cpu}
    if (torch_folder() / "lib" / "libtorch_cuda.so").exists() and not given.no_cuda:
        parts["cuda"] = build_cuda_kernels
    failed = False
    for part, build in parts.items():
        try:
            path, seconds = put(part, build, force=given.force)
        except BuildError as problem:
            failed = True
            _say(f"{part} kernels: not built: {problem}\n{problem.log}".rstrip())
        else:
            _say(f"{part} kernels: {path}" + (f", {seconds:.1f} s" if seconds else ", unchanged"))
    return int(failed)


def put(part: str, build: Builder, *, force: bool = False) -> tuple[Path, float]:
    """Where the library of `part` stands, built if it was not there; the seconds that took. Raises BuildError."""
    found = load.find(part)
    if found is not None and not force:
        return found, 0.0
    began = time.monotonic()
    place = found or _first_writable(load.places(part))
    with tempfile.TemporaryDirectory(dir=place.parent.parent, prefix=f".{part}-") as scratch:
        made = build(Path(scratch))
        place.parent.mkdir(exist_ok=True)
        made.replace(place)  # whoever loads it meanwhile gets the old one or the new one
    for old in place.parent.parent.glob(f"{part}-*"):
        if old != place.parent:
            shutil.rmtree(old, ignore_errors=True)
    return place, time.monotonic() - began


def build_integers(scratch: Path) -> Path:
    """Compiles into `scratch`; the library's path there. Raises BuildError."""
    library = scratch / "library.so"
    run([find_compiler(), *FLAGS, "-shared", str(load.HERE / "integer" / "kernels.cpp"), "-o", str(library)])
    return library


def build_cpu(scratch: Path) -> Path:
    """As `build_integers`."""
    compiler, torch = find_compiler(), torch_folder()
    folder = load.HERE / "cpu"
    commands = [
        [compiler, *FLAGS, *flags, "-c", str(folder / f"{isa}.cpp"), "-o", str(scratch / f"{isa}.o")]
        for isa, flags in ISA_FLAGS.items()
        if isa == "scalar" or platform.machine() in X86
    ]
    glue = [f"-DTORCH_TARGET_VERSION={load.TORCH_FLOOR}", "-isystem", str(torch / "include")]
    commands.append([compiler, *FLAGS, *glue, "-c", str(folder / "bind.cpp"), "-o", str(scratch / "bind.o")])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(run, commands))
    library = scratch / "library.so"
    objects = [command[-1] for command in commands]
    # torch is in the process already when this is loaded: its libraries are found by name, and no path is written down. Before them the
    # standard library, parts of which torch's libraries show, too.
    linked = ["-lstdc++", f"-L{torch / 'lib'}", "-ltorch_cpu", "-lc10"]
    run([compiler, "-shared", "-o", str(library), *objects, *linked])
    return library


def build_cuda_kernels(scratch: Path) -> Path:
    """As `build_integers`, with nvcc."""
    from cuda_ext import build_cuda  # imports torch, which what is unchanged has no need of

    nvcc = build_cuda.find_nvcc()
    if nvcc is None:
        raise BuildError(
            "torch has CUDA, but there is no nvcc to compile for it; install the CUDA toolkit, or set CUDA_HOME"
        )
    library = scratch / "library.so"
    try:
        build_cuda.build(library, nvcc=nvcc)
    except build_cuda.NvccFailed as problem:
        raise BuildError("nvcc failed", str(problem)) from problem
    return library


# --- what a build stands on --------------------------------------------------------------------------------------------------------


def find_compiler() -> str:
    """The one that CXX names, or the first there is. Raises BuildError."""
    if sys.platform != "linux":
        raise BuildError(f"the kernels are for Linux, not {sys.platform}")
    named = os.environ.get("CXX")
    for name in [named] if named else COMPILERS:
        if (found := shutil.which(name)) is not None:
            return found
    raise BuildError(f"no C++ compiler ({named or ', '.join(COMPILERS)}); apt install g++")


def torch_folder() -> Path:
    """Where torch's headers and libraries are. Raises BuildError."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise BuildError("torch is not installed")
    return Path(spec.origin).parent


def run(command: Sequence[str]) -> str:
    """The command's output. Raises BuildError with what it said."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - a compiler, and paths of ours
    if done.returncode != 0:
        raise BuildError(f"{Path(command[0]).name} failed on {Path(command[-1]).name}", done.stdout + done.stderr)
    return done.stdout + done.stderr


def _first_writable(places: Sequence[Path]) -> Path:
    for place in places:
        try:
            place.parent.parent.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(place.parent.parent, os.W_OK):
            return place
    raise BuildError(f"neither {places[0].parent.parent} nor {places[1].parent.parent} can be written")


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
