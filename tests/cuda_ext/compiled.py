"""The kernels as tests need them: compiled once for what their sources are, and kept.

Two libraries: the real one by nvcc, with all that the compiler says and its PTX beside it; and the same kernels compiled for the CPU, over
the emulator in `emulator/`, which stands under `torch.ops.p2pnode_emulated` so that nothing else in the process meets it.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from cuda_ext import build_cuda, load, ops

EMULATOR = Path(__file__).parent / "emulator"
SANITIZE = "P2PNODE_TEST_SANITIZE"  # in the environment: the emulated kernels are compiled with an address sanitizer

_registered: list[torch.library.Library] = []  # the operators exist as long as these objects do


def kept(name: str, sources: Sequence[Path], make: Callable[[Path], None]) -> Path:
    """The folder that `make` filled for sources like these, now or in an earlier session."""
    state = hashlib.sha256(f"{name} {torch.__version__}".encode())
    for path in sorted(sources):
        state.update(f"\n{path.name}\n".encode() + path.read_bytes())
    place = load.HERE / "_build" / f"tested-{name}-{state.hexdigest()[:16]}"
    place.parent.mkdir(exist_ok=True)
    with (place.parent / f".tested-{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another worker may be at it
        if not place.is_dir():
            for old in place.parent.glob(f"tested-{name}-*"):
                shutil.rmtree(old, ignore_errors=True)
            scratch = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".tested-{name}-"))
            try:
                make(scratch)
                scratch.rename(place)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    return place


def real(nvcc: Path) -> Path:
    """Holds p2pnode_cuda.so, log.txt and ptx/*.ptx."""

    def make(folder: Path) -> None:
        said = ["-Xptxas=-v,--warn-on-spills,--warn-on-local-memory-usage"]
        (folder / "kept").mkdir()
        library = folder / "p2pnode_cuda.so"
        log = build_cuda.build(library, nvcc=nvcc, options=[*said, "--keep", f"--keep-dir={folder / 'kept'}"])
        (folder / "log.txt").write_text(log)
        (folder / "ptx").mkdir()
        for path in (folder / "kept").glob("*.ptx"):
            path.rename(folder / "ptx" / path.name)
        shutil.rmtree(folder / "kept")
        for path in folder.glob("*.o"):
            path.unlink()

    return kept("cuda", load.sources("cuda"), make)


def emulated(compiler: str) -> torch._ops._OpNamespace:
    """The operators of the emulated kernels, on tensors of the CPU."""
    if not _registered:
        library = torch.library.Library("p2pnode_emulated", "DEF")
        for name in ops.SCHEMAS.keys() - set(ops.CPU_ALONE):
            library.define(name + ops.SCHEMAS[name])
        torch.ops.load_library(str(emulated_library(compiler)))
        _registered.append(library)
    return torch.ops.p2pnode_emulated


def emulated_library(compiler: str) -> Path:
    options = ["-fsanitize=address,undefined", "-fno-sanitize-recover"] if SANITIZE in os.environ else []
    name = "sanitized" if options else "emulated"
    sources = [*load.sources("cuda"), *EMULATOR.glob("*"), Path(__file__)]
    folder = kept(name, sources, lambda folder: _compile_emulated(folder, compiler, options))
    return folder / "p2pnode_emulated.so"


def _compile_emulated(folder: Path, compiler: str, options: Sequence[str]) -> None:
    flags = ["-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unknown-pragmas", *options]
    flags += ["-DUSE_CUDA", f"-DTORCH_TARGET_VERSION={load.TORCH_FLOOR}"]
    flags += ["-DP2PNODE_LIBRARY=p2pnode_emulated", "-DP2PNODE_KEY=CPU"]
    flags += [f"-I{EMULATOR}", "-isystem", str(build_cuda.TORCH / "include")]
    kernels = {folder / f"{name}.o": build_cuda.SOURCES / f"{name}.cu" for name in build_cuda.KERNELS}
    others = {
        folder / "bind.o": build_cuda.SOURCES / "bind.cpp",
        folder / "emulator.o": EMULATOR / "emulator.cpp",
    }
    commands = [
        [compiler, *flags, "-x", "c++", "-c", str(source), "-o", str(made)]
        for made, source in (kernels | others).items()
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(_run, commands))
    for made in kernels:  # so that the emulator finds what is shared memory
        _run(["objcopy", "--rename-section", ".bss=emulated_shared", str(made)])
    objects = [str(made) for made in kernels | others]
    library = folder / "p2pnode_emulated.so"
    torch_libraries = [f"-L{build_cuda.TORCH / 'lib'}", "-ltorch_cpu", "-lc10"]
    _run([compiler, "-shared", *options, *objects, "-Wl,-Bsymbolic", *torch_libraries, "-o", str(library)])


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    assert "warning" not in done.stderr, done.stderr
