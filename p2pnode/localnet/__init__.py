"""A whole network on this machine: real processes, real sockets, one verdict (``p2pnode localnet``).

What it is: a harness around nodes that it treats as strangers would: it starts them with the commands of a user, and
knows of them what their control sockets say. What it is not: a simulation (that is tests/simulation, with the pure
engine), nor a way to run nodes for long.

Read ``harness.py`` first: a run as a story. Then ``run.py`` (what is known while it lasts), ``flags.py`` and
``options.py`` (what can be asked for), ``founding.py`` (homes, keys, one genesis), ``processes.py`` and ``warden.py``
(starting, killing, ending), ``kills.py`` and ``strikes.py`` (who dies when, and comes back), ``churn.py`` (members come
and go), ``ground.py``, ``weather.py``, ``shim.py`` and ``shaped.py`` (links that are slow, narrow, lossy or cut),
``readings.py`` (what nodes say), ``verdict.py`` (whether it was good), ``display.py`` (what one sees).

For editors: no figure is computed here that a node could be asked for.
"""

from p2pnode.localnet.options import ATTACKS, LocalnetOptions, check_options

__all__ = ["ATTACKS", "LocalnetOptions", "run_localnet"]


def run_localnet(options: LocalnetOptions) -> int:
    """Run the network to its verdict and return the exit code. Raises UserError for options that cannot work."""
    check_options(options)
    from p2pnode.localnet.harness import run

    return run(options)
