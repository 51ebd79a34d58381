"""One line and one hint for what an operator can repair; a traceback for everything else."""

import errno

from p2pnode.errors import ExitCode, LocalFault, NoRunningNode, SetUpError, UserError, render_error, user_error
from transport.errors import UserError as TransportUserError


def test_an_error_is_one_line_and_a_hint() -> None:
    assert (
        render_error(UserError("port 7337:\nin use", "choose another"))
        == "error: port 7337: in use\nhint: choose another"
    )
    assert render_error(UserError("no")) == "error: no"


def test_a_full_disk_is_the_operators_business_even_inside_groups() -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "/mnt/x/votes.log")
    found = user_error(ExceptionGroup("", [ExceptionGroup("", [full])]))
    assert isinstance(found, SetUpError)
    assert found.message == "/mnt/x/votes.log: no space left on device"
    assert "free some space" in found.hint


def test_a_bug_never_hides_behind_a_full_disk() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    assert user_error(ExceptionGroup("", [full, LocalFault("bug")])) is None
    assert user_error(LocalFault("bug")) is None
    assert user_error(OSError(errno.EBADF, "Bad file descriptor")) is None


def test_user_errors_of_the_libraries_are_set_up_errors() -> None:
    found = user_error(TransportUserError("others can read the key file k", "chmod 600 k"))
    assert found is not None
    assert (found.message, found.hint, found.exit_code) == (
        "others can read the key file k",
        "chmod 600 k",
        ExitCode.SET_UP,
    )


def test_no_running_node_tells_a_dead_home_from_a_busy_one() -> None:
    assert NoRunningNode("/h").message == "no running node in /h"
    assert "process 7 is starting or ending" in NoRunningNode("/h", pid=7).message
