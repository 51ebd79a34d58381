"""A loopback of a given rate: this process again, in a network namespace of its own whose only link a token bucket limits (tc-tbf(8)).

Linux with util-linux, iproute2 and unprivileged user namespaces, or root. Both directions share the rate, as packets to oneself do.
"""

import os
import shutil
import sys
from collections.abc import Sequence
from typing import NoReturn

from p2pnode.errors import UserError

SHAPED = "--shaped"  # said to the process inside, by nobody else
BURST_BYTES = 256 << 10  # four of loopback's packets; a second of 1 Gbit/s is five hundred times that
LATENCY = "50ms"  # how long a packet may wait in the bucket before it is dropped

_SCRIPT = (
    'ip link set lo up && tc qdisc add dev lo root tbf rate "$0mbit" burst "$1" latency "$2" && shift 2 && exec "$@"'
)


def shape(mbit: int, arguments: Sequence[str]) -> NoReturn:
    """Run the bench again with these arguments inside. Returns only by raising UserError."""
    if mbit < 1:
        raise UserError(f"--mbit {mbit}: a link carries at least 1 Mbit/s")
    lacking = [tool for tool in ("unshare", "ip", "tc") if shutil.which(tool) is None]
    if lacking:
        raise UserError(f"--mbit needs {', '.join(lacking)}", "Linux with util-linux and iproute2 has them")
    inside = [sys.executable, "-P", "-m", "p2pnode.bench", *arguments, SHAPED]
    shell = ["sh", "-c", _SCRIPT, str(mbit), str(BURST_BYTES), LATENCY, *inside]
    sys.stdout.flush()
    os.execvp("unshare", ["unshare", "--user", "--map-root-user", "--net", *shell])  # noqa: S606, S607 - a tool of the system
