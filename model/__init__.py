"""The model library: one transformer, its text, its training, and the exact arithmetic that replicas share.

Synchronous, and ignorant of peers, rounds and event loops: bytes, digests and small reports cross its border, never a
tensor. Two worlds live here and must not mix:

* **learning** (`transformer`, `trainer`) is free-form floating point, different on every machine;
* **agreeing** (`compression`, `aggregate`, `outer`, `replica`) is integer arithmetic in numpy, equal bit for bit on
  every machine. No float reduction, no optimizer, no fused multiply-add, no library square root belongs there.

Importing this package, `model.config` or `model.errors` must not import torch: the command line starts without it.
"""
