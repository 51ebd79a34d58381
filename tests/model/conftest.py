"""One torch thread, as on a node: several fight over the processor with whatever else runs."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)
