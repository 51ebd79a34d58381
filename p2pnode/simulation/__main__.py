"""`python -m p2pnode.simulation`, which scripts/simulate runs."""

import sys

from p2pnode.simulation.sweep import main

if __name__ == "__main__":  # spawned workers import this module, too
    sys.exit(main())
