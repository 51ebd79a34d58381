"""The log: a person's line and a machine's line for each record, and nobody ever waits for either."""

import errno
import io
import json
import stat
import sys
import threading

import pytest

from p2pnode import logs
from p2pnode.home import Home
from p2pnode.logs import get_logger, logging_to, read_log, recent


def test_a_record_reaches_person_file_and_ring(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    log = get_logger(part="swarm")
    with logging_to(home, "info"):
        log.info("peer connected", peer="3f2a9c1b" + "0" * 32, direction="out")
        log.debug("not this one")
    line = capsys.readouterr().err
    assert line[8:] == " peer connected part=swarm peer=3f2a9c1b direction=out\n"
    [record] = read_log(home.log, 10)
    assert record == recent(1)[0]
    assert list(record) == ["time", "level", "event", "part", "peer", "direction"]
    assert record["peer"] == "3f2a9c1b" + "0" * 32
    assert stat.S_IMODE(home.log.stat().st_mode) == 0o600


def test_outside_the_block_nothing_is_written(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to(home, "info"):
        pass
    get_logger().error("too late")
    assert capsys.readouterr().err == ""
    assert read_log(home.log, 10) == []


def test_values_are_json_of_bounded_length(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to(home, "debug"):
        get_logger().debug(
            "x", digest=b"\x01" * 32, loss=float("nan"), text="y" * 9999, ids=["a", b"\x02"], path=home.path
        )
    [record] = read_log(home.log, 1)
    assert record["digest"] == "01" * 32
    assert record["loss"] == "nan"
    assert len(record["text"]) == logs.VALUE_CHARACTERS_MAX + 3
    assert record["ids"] == ["a", "02"]
    assert record["path"] == str(home.path)
    assert "debug: x digest=010101010101 " in capsys.readouterr().err


def test_a_strangers_words_cannot_drive_the_terminal(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to(home, "info", coloured=False):
        get_logger().warning("peer said", reason="\x1b[2Jgone\nerror: forged line")
    assert capsys.readouterr().err[8:] == " warning: peer said reason=\\x1b[2Jgone\\nerror: forged line\n"


def test_colour_only_where_asked(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to(home, "info", coloured=True):
        get_logger().error("disk full")
    assert "\x1b[31merror: disk full\x1b[0m" in capsys.readouterr().err


def test_a_bug_keeps_its_traceback_in_the_file_only(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to(home, "info"):
        try:
            raise ValueError("bug")
        except ValueError:
            get_logger().exception("round failed", height=3)
    assert "error: round failed height=3 error=ValueError: bug (traceback in the log file)" in capsys.readouterr().err
    [record] = read_log(home.log, 1)
    assert record["level"] == "error"
    assert "Traceback" in record["traceback"]


def test_a_terminal_that_takes_no_lines_holds_nobody_up(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    class Stopped(io.StringIO):
        def write(self, text: str) -> int:
            released.wait(10)
            return super().write(text)

    stream = Stopped()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(logs, "QUEUE_RECORDS_MAX", 4)
    monkeypatch.setattr(logs, "FLUSH_SECONDS_MAX", 5)
    with logging_to(home, "info"):
        for number in range(50):
            get_logger().info("line", number=number)  # would hang here if it waited
        released.set()
    lines = stream.getvalue().splitlines()
    assert len(lines) < 50
    assert any("log lines lost" in line for line in lines) or len(lines) <= 5


def test_a_full_disk_loses_lines_and_prints_no_traceback(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(logs._File, "shouldRollover", full)
    with logging_to(home, "info"):
        get_logger().info("one")
    assert capsys.readouterr().err[8:] == " one\n"


def test_files_rotate_and_stay_private(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "FILE_BYTES_MAX", 2_000)
    with logging_to(home, "info"):
        for number in range(200):
            get_logger().info("line", number=number)
    files = sorted(home.path.glob("p2pnode.log*"))
    assert len(files) == 1 + logs.FILES_KEPT
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 and file.stat().st_size <= 2_000 for file in files)
    assert read_log(home.log, 1)[0]["number"] == 199


def test_lines_cut_by_a_crash_are_left_out(home: Home) -> None:
    home.log.write_text(json.dumps({"event": "a"}) + '\n{"event": "b\n' + json.dumps({"event": "c"}) + "\n" + "[1]\n")
    assert [record["event"] for record in read_log(home.log, 10)] == ["a", "c"]
    assert read_log(home.path / "none", 3) == []


def test_a_log_that_cannot_be_written_is_one_line(home: Home) -> None:
    home.log.mkdir()
    with pytest.raises(Exception, match=r"p2pnode\.log: is a directory"), logging_to(home, "info"):
        pass
    assert list(home.path.iterdir()) == [home.log]
