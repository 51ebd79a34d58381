"""The process that outlives a harness killed without warning, so that no node does.

What it is: a script of its own, started first, the leader of the process group that all nodes belong to. It waits on
its standard input. The harness says ``done`` there when all is in order; if the input ends without that word, the
harness is dead (SIGKILL, out of memory), and the warden kills the group and removes the temporary directory named on
its command line, if one is.

What it is not: part of an orderly end; that is ``processes.py``. A pipe and a process group work on every Unix, where a
death signal tied to the parent is Linux's own and fires when the *thread* that started the child ends.

For editors: the standard library only, nothing slow to import; this runs beside every network.
"""

import os
import shutil
import signal
import sys

DONE = b"done\n"


def main() -> None:
    """Wait for the word or for the end of the harness."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if sys.stdin.buffer.read() == DONE:
        return
    group = os.getpgrp()
    if os.fork() == 0:
        # The child leaves the group, which lets it clean up after everybody in it is gone.
        os.setpgid(0, 0)
        os.killpg(group, signal.SIGKILL)
        for directory in sys.argv[1:]:
            shutil.rmtree(directory, ignore_errors=True)
        os._exit(0)
    signal.pause()


if __name__ == "__main__":
    main()
