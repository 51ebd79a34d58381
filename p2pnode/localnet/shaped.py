"""A node behind shaped links: ``python -m p2pnode.localnet.shaped FORECAST PORT MODULE [ARGUMENTS]``.

What it is: puts the machine of ``shim.py`` in the place of the real one, then runs MODULE as ``python -m`` would, with its own arguments:
a node as a user starts it, or one that attacks. What it is not: a command of ``p2pnode``; only a local network starts its nodes so.
"""

import runpy
import sys
from pathlib import Path

from p2pnode.localnet.shim import ShapedMachine
from transport.machine import MACHINE


def main() -> None:
    """Ends as MODULE does."""
    forecast, port, module, *arguments = sys.argv[1:]
    MACHINE.set(ShapedMachine(Path(forecast), int(port)))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
