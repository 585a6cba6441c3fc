"""Freed memory is kept: a tensor made where another one was costs no page faults."""

import subprocess
import sys

import pytest

from activebdl.heap import keep_freed_memory

COUNT_FAULTS = """
import resource, sys, torch
from activebdl.heap import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
network = torch.nn.Sequential(torch.nn.Conv2d(1, 32, 5), torch.nn.ReLU(), torch.nn.MaxPool2d(2))
def work():  # a step of training
    network(torch.ones(64, 1, 28, 28)).sum().backward()
for _ in range(5):
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    command = [sys.executable, "-c", COUNT_FAULTS, how]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(not keep_freed_memory(), reason="the C library is not glibc")
def test_memory_that_was_freed_is_taken_again_without_page_faults() -> None:
    assert faults("kept") < 0.5 * faults("as it is")
