"""What can be known of the CUDA kernels without a GPU: build_cuda.py compiles them, and what nvcc made of them is what we meant.

One compilation, kept for as long as the sources stay as they are: for every architecture, with all that the assembler has to say and the
PTX beside it.
"""

import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cuda_ext import build_cuda, ops
from tests.cuda_ext import compiled

ROOT = Path(__file__).parents[2]

# Kernels that move packs, and how many loads and stores of sixteen bytes each has at least, in every type.
PACKED = {
    "swiglu_kernel": (4, 2),
    "swiglu_backward_kernel": (3, 2),
    "route_backward_kernel": (1, 1),
    "permute_kernel": (2, 2),
    "combine_kernel": (4, 1),
    "combine_backward_kernel": (4, 2),
    "aux_loss_kernel": (1, 0),
    "aux_loss_backward_kernel": (2, 1),
}
UNPACKED = {"probe_kernel", "route_kernel", "count_kernel", "place_kernel", "invert_kernel", "aux_loss_sum_kernel"}


@pytest.fixture(scope="module")
def built() -> Path:
    nvcc = build_cuda.find_nvcc()
    if nvcc is None:
        pytest.skip("no nvcc")
    if shutil.which("nm") is None:
        pytest.skip("no binutils")
    return compiled.real(nvcc)


@pytest.fixture(scope="module")
def log(built: Path) -> str:
    return (built / "log.txt").read_text()


@pytest.fixture(scope="module")
def ptx(built: Path) -> dict[tuple[str, str], str]:
    """Architecture and mangled name of each kernel: its instructions."""
    texts: dict[tuple[str, str], str] = {}
    for path in (built / "ptx").glob("*.ptx"):
        architecture = path.name.split(".")[1]
        for entry in path.read_text().split(".entry ")[1:]:
            texts[architecture, entry[: entry.index("(")].strip()] = entry
    return texts


def test_every_kernel_is_compiled_for_every_architecture(
    built: Path, log: str, ptx: dict[tuple[str, str], str]
) -> None:
    for number in build_cuda.ARCHITECTURES:
        of_this = {name for architecture, name in ptx if architecture == f"compute_{number}"}
        compiled_to_code = set(re.findall(rf"Compiling entry function '(\w+)' for 'sm_{number}'", log))
        assert of_this == compiled_to_code
        plain = {kernel for kernel in (*PACKED, *UNPACKED) if any(is_of(name, kernel) for name in of_this)}
        assert plain == {*PACKED, *UNPACKED}
        assert all(any(is_of(name, kernel) for kernel in plain) for name in of_this)


def is_of(mangled: str, kernel: str) -> bool:
    return f"{len(kernel)}{kernel}" in mangled


def test_no_kernel_spills_or_has_a_stack(log: str) -> None:
    assert "warning" not in log.lower()
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log)
    assert frames and set(frames) == {("0", "0", "0")}
    assert "lmem" not in log and not re.search(r"[1-9]\d* bytes cumulative stack", log)


def test_a_block_of_every_kernel_leaves_room_for_others(log: str) -> None:
    """Of 65,536 registers four blocks of 256 threads at least: who waits for memory needs others to run meanwhile."""
    assert max(map(int, re.findall(r"Used (\d+) registers", log))) <= 64


def test_kernels_that_move_packs_move_sixteen_bytes(ptx: dict[tuple[str, str], str]) -> None:
    for kernel, (loads, stores) in PACKED.items():
        packed = {key: text for key, text in ptx.items() if is_of(key[1], kernel) and "Li1E" not in key[1]}
        assert len(packed) == 3 * len(build_cuda.ARCHITECTURES), kernel
        for key, text in packed.items():
            assert len(re.findall(r"ld\.global(?:\.nc)?(?:\.[\w:]+)*\.(?:v4\.[fbu]32|v2\.b64|b128)", text)) >= loads, (
                key
            )
            assert len(re.findall(r"st\.global(?:\.[\w:]+)*\.(?:v4\.[fbu]32|v2\.b64|b128)", text)) >= stores, key


def test_nothing_floating_is_added_by_several_at_once(ptx: dict[tuple[str, str], str]) -> None:
    """The order of such sums would be chance. Integers may be."""
    atomics = {found for text in ptx.values() for found in re.findall(r"\b(?:atom|red)\.[\w.:]+", text)}
    assert atomics, "the counts of a route and of a plan"
    assert all(re.search(r"\.add\.[us]32$", instruction) for instruction in atomics), atomics


def test_no_kernel_calls_a_function_or_divides_64_bits(ptx: dict[tuple[str, str], str]) -> None:
    """Which would be a hundred instructions where a value has forty."""
    for key, text in ptx.items():
        assert not re.search(r"\bcall\b|\b(?:div|rem)\.[us]64\b", text), key


def test_the_library_needs_what_every_torch_has(built: Path) -> None:
    listing = subprocess.run(
        ["nm", "-D", "--undefined-only", str(built / "p2pnode_cuda.so")], capture_output=True, text=True, check=True
    ).stdout
    needed = {line.split()[-1] for line in listing.splitlines()}
    of_no_library = {name for name in needed if "@" not in name}  # those of C and C++ carry a version
    linker = {"__gmon_start__", "_ITM_deregisterTMCloneTable", "_ITM_registerTMCloneTable"}
    lines = (build_cuda.SOURCES / "symbols.txt").read_text().splitlines()
    allowed = {line for line in lines if line and not line.startswith("#")}
    assert of_no_library - linker == allowed
    assert re.search(r"^ +w aoti_torch_get_current_cuda_stream$", listing, re.MULTILINE)
    assert not [
        name for name in needed if name.startswith(("cuda", "cu"))
    ]  # the runtime is inside; the driver is looked up


def test_the_library_is_bound_to_no_place(built: Path) -> None:
    dynamic = subprocess.run(
        ["readelf", "-d", str(built / "p2pnode_cuda.so")], capture_output=True, text=True, check=True
    ).stdout
    assert "RPATH" not in dynamic and "RUNPATH" not in dynamic
    assert {"libtorch.so", "libtorch_cpu.so", "libc10.so"} <= set(re.findall(r"\[(lib[\w.]+?)\]", dynamic))


def test_any_torch_loads_it_and_finds_a_kernel_for_every_operator(built: Path) -> None:
    program = (
        "import sys, torch; from cuda_ext import ops\n"
        "has = lambda name: torch._C._dispatch_has_kernel_for_dispatch_key(f'p2pnode::{name}', 'CUDA')\n"
        "before = [name for name in ops.SCHEMAS if has(name)]\n"
        "torch.ops.load_library(sys.argv[1])\n"
        "print(len(before), *[name for name in ops.SCHEMAS if has(name)])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, str(built / "p2pnode_cuda.so")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0", *(name for name in ops.SCHEMAS if name not in ops.CPU_ALONE)]


# --- the compiler --------------------------------------------------------------------------------------------------------------------


def a_compiler(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_where_nvcc_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_path = a_compiler(tmp_path / "path" / "nvcc", "true")
    at_home = a_compiler(tmp_path / "home" / "bin" / "nvcc", "true")
    monkeypatch.delenv("CUDA_PATH", raising=False)
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(on_path.parent))
    assert build_cuda.find_nvcc() == on_path
    monkeypatch.setenv("CUDA_HOME", str(at_home.parents[1]))
    assert build_cuda.find_nvcc() == at_home
    at_home.chmod(0o600)  # there, but nothing to run
    assert build_cuda.find_nvcc() == on_path


def test_an_older_compiler_compiles_for_what_it_knows(tmp_path: Path) -> None:
    older = a_compiler(tmp_path / "nvcc", "printf 'compute_75\\ncompute_80\\ncompute_86\\ncompute_90\\n'")
    assert build_cuda.architectures(older) == (80, 86, 90)


def test_a_compiler_that_is_too_old_or_broken_says_so(tmp_path: Path) -> None:
    with pytest.raises(build_cuda.NvccFailed, match="knows none of the architectures 80, 86, 90, 100"):
        build_cuda.architectures(a_compiler(tmp_path / "ancient", "echo compute_35"))
    broken = a_compiler(
        tmp_path / "broken", 'case "$*" in *list*) echo compute_80;; *) echo no space left; exit 2;; esac'
    )
    with pytest.raises(build_cuda.NvccFailed, match="no space left"):
        build_cuda.build(tmp_path / "library.so", nvcc=broken)
