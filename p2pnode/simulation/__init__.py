"""Whole networks in one process, drawn from a seed: what tests, `p2pnode simulate` and `scripts/simulate` run.

What it is: a second, slow and obvious opinion on agreement (witness.py), the worlds in which it watches the real engine
(lockstep.py, world.py), and everybody who would break it (traitors.py, mutants.py). What it is not: part of a node; nothing that
`start` runs imports this package, which may therefore draw at random.

Rules for editing: whatever happens follows from the seed, in one fixed order, whatever the hash seed of the interpreter is; so no
iteration over a set, no clock, no other source of randomness than the `random.Random` of the scenario.
"""
