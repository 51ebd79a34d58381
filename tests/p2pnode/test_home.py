"""The home: private, one node at a time, and a control socket that fits into a socket address."""

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from p2pnode.errors import ExitCode, SetUpError
from p2pnode.home import SOCKET_PATH_BYTES_MAX, Home, find_home


def test_flag_before_environment_before_platform(tmp_path: Path) -> None:
    environ = {"P2PNODE_HOME": str(tmp_path / "env")}
    assert find_home(tmp_path / "flag", environ).path == tmp_path / "flag"
    assert find_home(None, environ).path == tmp_path / "env"
    assert find_home(None, {}).path.name == "p2pnode"
    assert find_home("relative", {}).path.is_absolute()


def test_a_new_home_is_the_owners_alone(tmp_path: Path) -> None:
    home = Home(tmp_path / "a" / "b")
    home.create()
    home.create()
    assert stat.S_IMODE(home.path.stat().st_mode) == 0o700


def test_a_home_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(SetUpError, match="others can write") as caught:
        Home(tmp_path).create()
    assert caught.value.hint == f"chmod 700 {tmp_path}"


def test_a_file_in_the_place_of_the_home_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SetUpError, match="file exists") as caught:
        Home(tmp_path / "file").create()
    assert caught.value.exit_code == ExitCode.SET_UP


def test_the_second_node_in_a_home_is_told_the_pid_of_the_first(home: Home) -> None:
    with home.locked():
        assert home.running_pid() == os.getpid()
        with pytest.raises(SetUpError, match=rf"running in it already \(pid {os.getpid()}\)"), home.locked():
            pass
        assert not home.wait_released(timeout_seconds=0)
    assert home.running_pid() is None
    assert home.wait_released(timeout_seconds=0)
    with home.locked():
        pass


def test_a_killed_node_leaves_no_lock(home: Home) -> None:
    code = f"from p2pnode.home import Home; from pathlib import Path; import os, signal\nwith Home(Path({str(home)!r})).locked(): os.kill(os.getpid(), signal.SIGKILL)"  # noqa: E501
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    with home.locked():
        assert home.running_pid() == os.getpid()


def test_a_short_home_holds_its_own_socket(home: Home) -> None:
    home.control_pointer.write_text("/somewhere/else\n")
    place = home.place_control_socket()
    assert place == home.control_socket()
    assert place.parent == home.path or len(str(home.path)) > SOCKET_PATH_BYTES_MAX - len("/control.sock")


@pytest.fixture
def long_home(tmp_path: Path) -> Home:
    home = Home(tmp_path / ("x" * 120))
    home.create()
    return home


def test_a_long_home_gets_a_short_private_place(long_home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    place = long_home.place_control_socket()
    assert len(os.fsencode(place)) <= SOCKET_PATH_BYTES_MAX
    assert place == long_home.control_socket() == long_home.place_control_socket()
    assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
    long_home.remove_control_socket()
    assert not place.parent.exists()
    assert not long_home.control_pointer.exists()


def test_the_runtime_directory_is_preferred(
    long_home: Home, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = tmp_path_factory.mktemp("run")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    assert long_home.place_control_socket().parent.parent == runtime
    long_home.remove_control_socket()


def test_a_place_that_somebody_else_prepared_is_refused(
    long_home: Home, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = tmp_path_factory.mktemp("run")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    place = long_home.place_control_socket().parent
    place.rmdir()
    place.symlink_to(tmp_path_factory.mktemp("trap"))
    with pytest.raises(SetUpError, match="not a directory"):
        long_home.place_control_socket()
    place.unlink()
    place.mkdir()
    place.chmod(0o777)
    with pytest.raises(SetUpError, match="others can write"):
        long_home.place_control_socket()
