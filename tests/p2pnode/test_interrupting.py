"""interrupting.py: Ctrl-C in the midst of a call that looks at no signal."""

import signal
import subprocess
import sys

import pytest

from p2pnode.interrupting import interruptible


def test_a_job_gives_its_result_or_its_error() -> None:
    assert interruptible(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        interruptible(lambda: 1 / 0)


def test_ctrl_c_does_not_wait_for_it() -> None:
    code = "import time; from p2pnode.interrupting import *; interruptible(lambda: (print('in', flush=True), time.sleep(1000)))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(3) == b"in\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=20) == (b"", b"")
    assert process.returncode == 130
