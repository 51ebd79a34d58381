"""What the operator wants of this node's training, and what came of it so far.

What it is: the one state that ``train`` and ``pause`` change and that ``status`` reads. What it is not: the training itself (``model``) or
when it is due (``offering``).
"""

from dataclasses import dataclass


@dataclass(slots=True)
class Training:
    """What the operator wants: train until a height (``None``: for ever), and whether at all. And what came of it so far."""

    on: bool
    until_height: int | None = None
    step: int = 0
    tokens: int = 0
    tokens_per_second: float | None = None  # of the last height that this node learned
    utilization: float | None = None  # of its device's peak meanwhile, 0 to 1; None where that is not known
    compilation: str = ""  # "compiled", or why not; empty where nobody wanted it
    seconds: float = 0.0
    loss: float | None = None
    loss_height: int = 0
    validation_loss: float | None = None
    validation_root: bytes = b""
    left_out: str | None = None  # why the last height that this node learned was decided without its update

    def wants(self, height: int) -> bool:
        return self.on and (self.until_height is None or height <= self.until_height)
