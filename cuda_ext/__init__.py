"""Operations of the model that deserve kernels of their own. For now each is plain torch, in `reference`."""

from cuda_ext.reference import swiglu

__all__ = ["swiglu"]
