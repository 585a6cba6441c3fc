"""Freed memory is kept: a tensor made where another one was costs no page faults."""

import os
import platform
import subprocess
import sys

import pytest

from activebdl.heap import keep_freed_memory

COUNT_FAULTS = """
import resource, sys, torch
from activebdl.heap import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
torch.set_num_threads(1)
network = torch.nn.Sequential(torch.nn.Conv2d(1, 32, 5), torch.nn.ReLU(), torch.nn.MaxPool2d(2))
def work():  # a step of training
    network(torch.ones(64, 1, 28, 28)).sum().backward()
for _ in range(10):
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    command = [sys.executable, "-c", COUNT_FAULTS, how]
    chosen = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")
    plain = {name: value for name, value in os.environ.items() if not name.startswith(chosen)}
    return int(subprocess.run(command, check=True, capture_output=True, text=True, env=plain).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_memory_that_was_freed_is_taken_again_without_page_faults() -> None:
    """Three processes each: where tensors come to lie is another each time, and decides how many faults there are."""
    kept, as_it_is = (sum(faults(how) for _ in range(3)) for how in ("kept", "as it is"))
    assert kept < 0.3 * as_it_is


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "LD_PRELOAD"])
def test_what_the_user_has_chosen_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "")
    keep_freed_memory.cache_clear()
    assert not keep_freed_memory()
    keep_freed_memory.cache_clear()
