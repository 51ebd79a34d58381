"""p2pnode: train one model together with people you do not trust.

What it is: the daemon and its command line, the only package that imports all three libraries (consensus, transport, model).
Rule for editing: this file stays free of imports of the package itself, so that ``p2pnode --help`` stays fast.
"""

__version__ = "0.1.0"
