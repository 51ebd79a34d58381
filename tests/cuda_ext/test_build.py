"""build.py and load.py: what is built where, found again, loaded once, and what happens where there is nothing to load."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cuda_ext import build, load

SECONDS_MAX = 120
USE = """
import logging, sys, torch
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(name)s: %(message)s")
import cuda_ext
a = torch.ones(2, 2**15, requires_grad=True)
for _ in range(2):
    cuda_ext.swiglu(a, a).sum().backward()
print(cuda_ext.status().what, "|", cuda_ext.status().hint)
"""


@pytest.fixture
def copy(tmp_path):
    """The package elsewhere, with nothing built."""
    shutil.copytree(load.HERE, tmp_path / "cuda_ext", ignore=shutil.ignore_patterns("_build", "__pycache__"))
    return tmp_path


def python(place: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("P2PNODE_EXT")}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=place,
        env={**clean, "XDG_CACHE_HOME": str(place / "cache"), **environment},
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )


def in_copy(monkeypatch, copy):
    monkeypatch.setattr(load, "HERE", copy / "cuda_ext")
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: copy / "cache" / name)
    load.digest.cache_clear()


@pytest.fixture(autouse=True)
def digests_are_forgotten():
    yield
    load.digest.cache_clear()


# --- building --------------------------------------------------------------------------------------------------------------------


def writes(text):
    def builder(scratch: Path) -> Path:
        path = scratch / "made.so"
        path.write_text(text)
        return path

    return builder


def fails(scratch: Path) -> Path:
    raise build.BuildError("it does not compile", "the compiler's words")


def test_what_is_unchanged_is_not_built_again_and_what_is_old_goes(monkeypatch, copy):
    in_copy(monkeypatch, copy)
    first, _ = build.put("cpu", writes("one"))
    assert first.read_text() == "one" and first.parent.parent == copy / "cuda_ext" / "_build"
    assert build.put("cpu", fails) == (first, 0.0)
    assert build.put("cpu", writes("two"), force=True)[0] == first and first.read_text() == "two"
    source = copy / "cuda_ext" / "cpu" / "kernels.h"
    source.write_text(source.read_text() + "\n")
    load.digest.cache_clear()
    assert load.find("cpu") is None
    with pytest.raises(build.BuildError, match="it does not compile"):
        build.put("cpu", fails)
    assert first.exists()  # an older checkout may still want it
    second, _ = build.put("cpu", writes("three"))
    assert second != first and not first.exists()
    assert [path.name for path in second.parent.parent.iterdir()] == [second.parent.name]


def test_the_libraries_of_both_parts_stand_side_by_side(monkeypatch, copy):
    in_copy(monkeypatch, copy)
    assert len({build.put(part, writes(part))[0].parent for part in ("cpu", "cuda")}) == 2
    assert load.find("cpu").read_text() == "cpu" and load.find("cuda").read_text() == "cuda"


def test_where_the_package_cannot_be_written_the_users_cache_is_taken(monkeypatch, copy):
    in_copy(monkeypatch, copy)
    (copy / "cuda_ext" / "_build").write_text("in the way")
    made, _ = build.put("cpu", writes("one"))
    assert made.is_relative_to(copy / "cache") and load.find("cpu") == made
    shutil.rmtree(copy / "cache")
    (copy / "cache").write_text("in the way, too")
    with pytest.raises(build.BuildError, match="can be written"):
        build.put("cpu", writes("one"))


def test_without_a_compiler_there_is_one_line_and_no_traceback(copy):
    done = python(copy, "-m", "cuda_ext.build", "--no-cuda", CXX="no-such-compiler")
    assert done.returncode == 1
    said = "kernels: not built: no C++ compiler (no-such-compiler); apt install g++"
    assert done.stderr.splitlines() == [f"integer {said}", f"cpu {said}"]


def test_what_the_compiler_says_is_kept(tmp_path):
    source = tmp_path / "wrong.cpp"
    source.write_text("this is no C++\n")
    with pytest.raises(build.BuildError, match=r"failed on wrong\.cpp") as caught:
        build.run([build.find_compiler(), "-c", str(source), "-o", str(tmp_path / "wrong.cpp")])
    assert "error" in caught.value.log


# --- what the compiler made ------------------------------------------------------------------------------------------------------


def symbols(path: Path, *options: str) -> list[tuple[str, str]]:
    listing = subprocess.run(["nm", *options, str(path)], capture_output=True, text=True, check=True).stdout
    return [(kind, name) for kind, name in re.findall(r"^[0-9a-f ]* (\w) (\S+)$", listing, re.MULTILINE)]


needs_compiler = pytest.mark.skipif(
    not shutil.which("nm") or not any(map(shutil.which, build.COMPILERS)), reason="no compiler"
)


@needs_compiler
@pytest.mark.parametrize("isa", list(build.ISA_FLAGS))
def test_no_instruction_set_leaks_out_of_its_source(isa, tmp_path):
    """An inline function that two sources share would be kept once, from whichever the linker met first. Unoptimised, none is hidden."""
    made = tmp_path / "made.o"
    flags = [*build.FLAGS, *build.ISA_FLAGS[isa], "-O0"]
    build.run([build.find_compiler(), *flags, "-c", str(load.HERE / "cpu" / f"{isa}.cpp"), "-o", str(made)])
    seen = symbols(made)
    shared = [name for kind, name in seen if kind in "WVu"]
    assert not shared
    assert [name for kind, name in seen if kind in "TDBR"] == [f"_ZN7p2pnode{len(isa)}{isa}E"]
    assert {name for kind, name in seen if kind == "U"} <= {"memcpy", "memset", "logf", "__stack_chk_fail"}


@needs_compiler
def test_the_library_asks_torch_for_nothing_but_its_stable_interface():
    path, _ = build.put("cpu", build.build_cpu)
    wanted = [name for kind, name in symbols(path, "-D") if kind == "U"]
    of_torch = [name for name in wanted if "@" not in name]  # the rest is versioned: libc, libstdc++, libgcc
    assert of_torch and all(name.startswith(("aoti_torch_", "torch_")) for name in of_torch)
    exported = {name for kind, name in symbols(path, "-D") if kind in "TD"}
    assert {"p2pnode_choose_isa", "p2pnode_isa"} <= exported
    assert not [name for name in exported if "p2pnode" in name and not name.startswith("p2pnode_")]


# --- loading ---------------------------------------------------------------------------------------------------------------------


def test_without_kernels_everything_runs_and_it_is_said_once(copy):
    done = python(copy, "-c", USE)
    assert done.returncode == 0, done.stderr
    said = "plain torch, no cpu kernels built of these sources"
    assert done.stdout.splitlines() == [
        f"cuda_ext: kernels: {said} (python -m cuda_ext.build)",
        f"{said} | python -m cuda_ext.build",
    ]


def test_a_library_that_cannot_be_loaded_is_none(copy):
    where = python(copy, "-c", "from cuda_ext import load; print(load.places('cpu')[0])").stdout.strip()
    Path(where).parent.mkdir(parents=True)
    Path(where).write_bytes(b"this is no library")
    done = python(copy, "-c", USE)
    assert done.returncode == 0, done.stderr
    assert (
        "plain torch, the cpu kernels cannot be loaded: " in done.stdout and "python -m cuda_ext.build" in done.stdout
    )


def test_what_is_required_and_missing_is_an_error_at_the_first_call(copy):
    done = python(copy, "-c", USE, P2PNODE_EXT="require")
    assert done.returncode == 1
    said = "KernelsMissing: plain torch, no cpu kernels built of these sources; python -m cuda_ext.build"
    assert said in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("P2PNODE_EXT", "on", "P2PNODE_EXT is 'on'; it is one of auto, off, require"),
        (
            "P2PNODE_EXT_ISA",
            "mmx",
            "P2PNODE_EXT_ISA is 'mmx'; this processor cannot run it, or no kernels have that name",
        ),
    ],
)
def test_a_setting_that_means_nothing_is_refused(name, value, said):
    if name == "P2PNODE_EXT_ISA" and load.find("cpu") is None:
        pytest.skip("no kernels")
    done = python(load.HERE.parent, "-c", USE, **{name: value})
    assert done.returncode == 1 and said in done.stderr.splitlines()[-1]


def test_the_instruction_set_can_be_named():
    if load.find("cpu") is None:
        pytest.skip("no kernels")
    done = python(load.HERE.parent, "-c", USE, P2PNODE_EXT_ISA="scalar", P2PNODE_EXT="require")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("cuda_ext: kernels: scalar on the CPU")


def test_kernels_can_be_switched_off():
    done = python(load.HERE.parent, "-c", USE, P2PNODE_EXT="off")
    assert done.stdout.splitlines()[-1] == "plain torch (P2PNODE_EXT=off) | "
