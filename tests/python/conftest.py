import pytest
import torch


@pytest.fixture(autouse=True)
def settings():
    """One thread: the layers here are tiny, and threads have tests of their own."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
