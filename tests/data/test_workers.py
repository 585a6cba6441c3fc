"""Items that cannot be read, in this process and in others that read ahead."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import Dataset

from activebdl import UserError
from activebdl.data import StreamedInputs
from activebdl.data.inputs import chunks


class Faulty(Dataset[Any]):
    """40 items, and one of them is not as the others."""

    def __init__(self, at: int, fault: str) -> None:
        self.at, self.fault = at, fault

    def __len__(self) -> int:
        return 40

    def __getitem__(self, i: int) -> Any:
        if i == self.at:
            if self.fault == "raises":
                raise OSError("the disk is gone\nand so is the rest")
            if self.fault == "exits":
                os._exit(3)
            if self.fault == "sleeps":
                time.sleep(600)
            if self.fault == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            return {
                "is NaN": torch.tensor([float(i), torch.nan]),
                "has another shape": torch.zeros(3),
                "is no array": ("red", 0),
                "is sparse": torch.ones(2).to_sparse(),
                "is nowhere": torch.ones(2, device="meta"),
            }[self.fault]
        return torch.tensor([float(i), 1.0])


FAULTS = {
    "raises": r"^Item 17 of Faulty cannot be read: OSError: the disk is gone \(test_workers.py, line \d+\)\.$",
    "is NaN": "^The input of item 17 of Faulty holds NaN or infinity; mend or drop it.$",
    "has another shape": r"^Item 17 of Faulty has the shape \(3,\), and item 0 \(2,\); all inputs have the same.$",
    "is sparse": "^Item 17 of Faulty is a sparse tensor; give a dense one.$",
    "is no array": "^Item 17 of Faulty is no tensor, array or image: [^\n]*$",
}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("fault", list(FAULTS))
def test_an_item_that_cannot_be_read_is_one_sentence(fault: str, workers: int) -> None:
    with pytest.raises(UserError, match=FAULTS[fault]):
        list(chunks(StreamedInputs(Faulty(17, fault), workers), torch.arange(40), 6))


def within_a_minute(so: Callable[[], bool]) -> bool:
    """Whether it comes to be so: processes end a moment after they are told to."""
    give_up = time.monotonic() + 60
    while not so() and time.monotonic() < give_up:
        time.sleep(0.05)
    return so()


def test_an_item_that_cannot_leave_its_process_is_one_sentence() -> None:
    with pytest.raises(UserError, match="^A worker process cannot hand the items from 12 on: [^\n]*$"):
        list(chunks(StreamedInputs(Faulty(17, "is nowhere"), 2), torch.arange(40), 6))


class Weights(Faulty):
    """Items that a gradient would be wanted for."""

    def __getitem__(self, i: int) -> Any:
        return super().__getitem__(i).requires_grad_()


@pytest.mark.parametrize("workers", [0, 2])
def test_items_have_no_gradient(workers: int) -> None:
    read = torch.cat(list(chunks(StreamedInputs(Weights(-1, ""), workers), torch.arange(40), 6)))
    assert not read.requires_grad and read[:, 0].tolist() == list(range(40))


@settings(max_examples=15)  # each starts processes
@given(
    ids=st.lists(st.integers(0, 39), min_size=1, max_size=60), size=st.integers(1, 20), workers=st.sampled_from([1, 2])
)
def test_workers_change_nothing(ids: list[int], size: int, workers: int) -> None:
    source = Faulty(-1, "")
    one, several = (list(chunks(StreamedInputs(source, w), torch.tensor(ids), size)) for w in (0, workers))
    assert [chunk.tolist() for chunk in several] == [chunk.tolist() for chunk in one]
    assert torch.cat(one)[:, 0].tolist() == ids


@pytest.mark.parametrize("fault", ["exits", "killed"])
@pytest.mark.parametrize("at", [0, 17, 39])
def test_a_worker_that_dies_is_one_sentence_with_the_items_to_look_at(fault: str, at: int) -> None:
    inputs = StreamedInputs(Faulty(at, fault), 2)
    inputs.__dict__["shape"] = torch.Size([2])  # or item 0 would be read here
    with pytest.raises(
        UserError, match=r"^A worker process died that read the items from \d+ on of Faulty: [^\n]*$"
    ) as told:
        list(chunks(inputs, torch.arange(40), 6))
    first = re.search(r"the items from (\d+) on", str(told.value))
    assert first is not None and int(first[1]) <= at


def test_a_stream_that_is_left_ends_its_workers_in_the_middle_of_an_item() -> None:
    before = set(multiprocessing.active_children())
    stream = chunks(StreamedInputs(Faulty(17, "sleeps"), 2), torch.arange(40), 6)
    next(stream)
    own = set(multiprocessing.active_children()) - before
    assert len(own) == 2
    stream.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert within_a_minute(lambda: not any(worker.is_alive() for worker in own))


def test_workers_are_refused_where_they_are_less_than_none() -> None:
    with pytest.raises(UserError, match="Worker processes are 0 or more, not -1"):
        StreamedInputs(Faulty(-1, ""), -1)


def test_workers_leave_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    list(chunks(StreamedInputs(Faulty(-1, ""), 2), torch.arange(40), 6))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.fixture
def spawning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes begin with nothing, as they do on a Mac, in place of a copy of this one."""
    spawn = multiprocessing.get_context("spawn")
    monkeypatch.setattr(multiprocessing, "get_context", lambda: spawn)


def test_workers_may_begin_with_nothing(spawning: None) -> None:
    ids = torch.arange(39, -1, -1)
    found = chunks(StreamedInputs(Faulty(17, "exits"), 1), ids, 11)
    assert [chunk[:, 0].tolist() for chunk in (next(found), next(found))] == [ids[:11].tolist(), ids[11:22].tolist()]
    with pytest.raises(UserError, match="died that read the items from 17 on"):
        next(found)


def test_a_source_that_cannot_be_handed_to_processes_is_told(spawning: None) -> None:
    class Local(Faulty): ...

    with pytest.raises(UserError, match=r"Local cannot be handed to worker processes \(.*\); with workers=0"):
        list(chunks(StreamedInputs(Local(-1, ""), 2), torch.arange(40), 6))


SCRIPT = """
import time
from multiprocessing import active_children
import torch
from activebdl.data import StreamedInputs
from activebdl.data.inputs import chunks
from tests.data.test_workers import Faulty

stream = chunks(StreamedInputs(Faulty(-1, ""), 2), torch.arange(40), 2)
next(stream), next(stream)  # from both processes
print(*(child.pid for child in active_children()), flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="Linux tells there which processes live")
def test_kill_9_leaves_no_worker_behind() -> None:
    def lives(pid: str) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except FileNotFoundError:
            return False

    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", SCRIPT], cwd=root, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        pids = run.stdout.readline().split()
        assert len(pids) == 2 and all(map(lives, pids))
        run.kill()
    assert within_a_minute(lambda: not any(map(lives, pids)))
