"""Compiling the CUDA kernels: command lines of nvcc, and nothing of torch's own build tools.

Those refuse wherever torch itself was built without CUDA, and compile torch's whole interface with every kernel. Our kernels know no torch
at all; `cuda/bind.cpp` alone does, by the stable interface, and is plain C++. So the library can be compiled, linked and looked at on any
machine that has nvcc, with any build of torch; it runs where torch has CUDA.

What it is not: a decision whether to build, or where to (`build.py`).
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import torch

from cuda_ext import load

SOURCES: Final = Path(__file__).parent / "cuda"
KERNELS: Final = ("device", "swiglu", "router", "plan", "permute", "balance")
# Machine code for A100, for what came after it (86 runs on 89, too), H100 and H200, B200; later ones compile the newest one's PTX.
ARCHITECTURES: Final = (80, 86, 90, 100)
TORCH: Final = Path(torch.__file__).parent


class NvccFailed(RuntimeError):
    """A command of nvcc's; the message is what it said."""


def find_nvcc() -> Path | None:
    """CUDA_HOME's, else the path's, else that of the usual place."""
    homes = [Path(home) for name in ("CUDA_HOME", "CUDA_PATH") if (home := os.environ.get(name))]
    on_path = shutil.which("nvcc")
    candidates = [home / "bin" / "nvcc" for home in homes]
    candidates += [Path(on_path)] if on_path else []
    candidates += [Path("/usr/local/cuda/bin/nvcc")]
    return next((path for path in candidates if os.access(path, os.X_OK)), None)


def architectures(nvcc: Path) -> tuple[int, ...]:
    """Those of ours that this nvcc knows. Raises NvccFailed where it knows none."""
    listed = set(_run([str(nvcc), "--list-gpu-arch"]).split())
    known = tuple(number for number in ARCHITECTURES if f"compute_{number}" in listed)
    if not known:
        raise NvccFailed(f"{nvcc} knows none of the architectures {', '.join(map(str, ARCHITECTURES))}")
    return known


def build(library: Path, *, nvcc: Path, options: Sequence[str] = ()) -> str:
    """Compiles and links `library`, objects beside it; what the compiler said. `options` go to every kernel's compilation.

    Raises NvccFailed.
    """
    numbers = architectures(nvcc)
    code = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in numbers]
    code += [f"-gencode=arch=compute_{numbers[-1]},code=compute_{numbers[-1]}"]
    common = [str(nvcc), "-std=c++17", "-O3", "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall", "-c"]
    glue = ["-DUSE_CUDA", f"-DTORCH_TARGET_VERSION={load.TORCH_FLOOR}", f"-isystem={TORCH / 'include'}"]
    objects = {name: library.with_name(f"{name}.o") for name in (*KERNELS, "bind")}
    commands = [[*common, *code, *options, str(SOURCES / f"{name}.cu"), "-o", str(objects[name])] for name in KERNELS]
    commands.append([*common, *glue, str(SOURCES / "bind.cpp"), "-o", str(objects["bind"])])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        said = list(pool.map(_run, commands))
    return "".join([*said, _run(_link(nvcc, sorted(objects.values()), library))])


def _link(nvcc: Path, objects: Sequence[Path], library: Path) -> list[str]:
    """No search path is written into the library: torch is loaded before it. A torch with CUDA has what it needs behind `libtorch`.

    The C++ library comes first: torch has pieces of it, without a version.
    """
    options = ["-shared", "-cudart=static", "-Xlinker=-z,defs", f"-L{TORCH / 'lib'}", "-Xlinker=--no-as-needed"]
    libraries = ["-lstdc++", "-ltorch", "-ltorch_cpu", "-lc10"]
    return [str(nvcc), *options, *map(str, objects), *libraries, "-o", str(library)]


def _run(command: Sequence[str]) -> str:
    process = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)  # noqa: S603
    if process.returncode:
        raise NvccFailed(f"{' '.join(command)}\n{process.stdout}")
    return process.stdout
