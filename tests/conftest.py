"""One thread: the networks are tiny, and workers that share cores would wait for each other.

torch is imported by the tests that need it alone, so that the others run where it is not installed.
"""

import os
import sys

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # before NumPy and torch are imported


def pytest_generate_tests(metafunc):
    """``device``: the CPU, and a GPU where there is one."""
    if "device" in metafunc.fixturenames:
        import torch

        names = ["cpu", *["cuda"] * torch.cuda.is_available()]
        metafunc.parametrize("device", [torch.device(name) for name in names], ids=names)


@pytest.fixture(autouse=True)
def nothing_was_compiled():
    """In a process that has compiled something each new SAM searches among all objects."""
    yield
    if (dynamo := sys.modules.get("torch._dynamo")) and dynamo.utils.counters:
        dynamo.reset()  # what is compiled next counts, even if it is the same
        dynamo.utils.counters.clear()
