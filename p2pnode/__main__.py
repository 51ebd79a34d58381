"""``python -m p2pnode`` is the ``p2pnode`` command."""

from p2pnode.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
