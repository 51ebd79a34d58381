"""How fast it is (``scripts/bench``): rounds without training, empty heights, catching up, and how late the event loop runs.

What it is: real nodes as real processes over real TLS, started and asked as ``localnet`` does it, and figures that the nodes themselves
recorded. What it is not: part of a node; nothing that ``start`` runs imports this package. Tests check its form, never its figures.

Read ``__main__.py`` first: what can be asked. Then ``network.py`` (a network from nothing to its records), ``quick.py`` (the node without
training), ``rival.py`` and ``hivemind_peers.py`` (the same exchange with hivemind), ``figures.py`` (from records to figures). Agreement far
apart is ``agreement.py`` with ``wan.py``, catching up ``sync.py`` with ``donor.py``, and how a network grows ``scale.py``, in virtual time.

For editors: a single absolute time says little, for the machine has other work. What is compared runs in turns in one invocation.
"""
