"""A Label Studio that fails, is late, or is away: nothing is lost, and nobody is asked twice."""

import itertools
from typing import Any

import pytest

from activebdl import ActiveDataset, Annotation, UserError
from tests.oracles.label_studio.conftest import NAMES, answers, connect, request_of
from tests.oracles.label_studio.fake import FakeLabelStudio, serving


def scenario(dataset: ActiveDataset, server: FakeLabelStudio, timeout: float) -> dict[int, Any]:
    """Two requests, and people who label everything; poll as often as it takes."""
    found = list[Annotation]()
    oracle = connect(dataset, server, timeout=timeout, retries=2)
    oracle._clock = itertools.count(step=31.0).__next__
    for key, ids in (("a", (1, 2, 3)), ("b", (4, 5))):
        ticket = oracle.submit(request_of(dataset, *ids, key=key, history=tuple(found)))
        for _ in range(4):
            for task in server.tasks:
                if not task["annotations"]:
                    server.annotate(task, NAMES[task["data"]["id"]])
            found += oracle.poll(ticket)
    return answers(found)


@pytest.mark.parametrize("fault", ["500", "drop", "lost", "html", "slow"])
def test_a_fault_at_any_request_loses_nothing_and_asks_nobody_twice(images: ActiveDataset, fault: str) -> None:
    with serving(FakeLabelStudio()) as calm:
        expected = scenario(images, calm, 30.0)
        steps = len(calm.requests)
    assert expected == {id: id for id in range(1, 6)} and steps > 12
    for step in range(1, steps) if fault != "slow" else range(2, steps, 8):  # the first asks whether it is there
        for faults in ({step: fault}, {step + more: fault for more in range(3)}):
            with serving(FakeLabelStudio(faults=dict(faults))) as server:
                assert scenario(images, server, 0.4 if fault == "slow" else 30.0) == expected, f"{fault} at {faults}"
                assert sorted(task["data"]["id"] for task in server.tasks) == [1, 2, 3, 4, 5]
                assert len(server.projects) == 1


def test_an_import_that_is_done_late_is_not_sent_again(images: ActiveDataset, server: FakeLabelStudio) -> None:
    oracle, now = connect(images, server, timeout=20.0, retries=0), [100.0]
    oracle._clock = lambda: now[0]
    ticket = oracle.submit(request_of(images, 1, 2))
    server.clock(3600.0)
    server.annotate(server.task_of(1), NAMES[3])
    assert answers(oracle.poll(ticket)) == {1: 3}
    server.faults = {len(server.requests) + 1: "late"}  # after a look at what there is
    before = tuple(Annotation(id, 3, "ada@example.org") for id in (1, 2))
    oracle.submit(request_of(images, 4, 5, key="round-1-attempt-0", history=before))
    assert len(server.at_work) == 1
    for time in (100.0, 105.0, 118.0):
        now[0] = time
        server.annotate(server.task_of(2), NAMES[int(time) % 7])
        assert len(oracle.poll(ticket)) == 1  # what people say meanwhile is taken
        assert len(server.tasks) == 2
    server.finish()
    now[0] = 120.0
    oracle.poll(ticket)
    assert sorted(task["data"]["id"] for task in server.tasks) == [1, 2, 4, 5]
    server.annotate(server.task_of(4), NAMES[6])
    assert answers(oracle.poll(ticket)) == {4: 6}


def test_an_import_that_is_lost_is_sent_again_when_its_time_is_over(
    images: ActiveDataset, server: FakeLabelStudio
) -> None:
    oracle, now = connect(images, server, timeout=20.0, retries=0), [100.0]
    oracle._clock = lambda: now[0]
    ticket = oracle.submit(request_of(images, 1))
    server.faults = {len(server.requests) + 1: "drop"}  # after a look at what there is
    oracle.submit(request_of(images, 4, key="round-1-attempt-0"))
    now[0] = 119.9
    assert oracle.poll(ticket) == [] and len(server.tasks) == 1
    now[0] = 120.0
    assert oracle.poll(ticket) == [] and len(server.tasks) == 2
    oracle.submit(request_of(images, 5, key="round-2-attempt-0"))  # and the next is sent at once
    assert len(server.tasks) == 3


def test_an_answer_that_does_not_come_is_not_waited_for(
    images: ActiveDataset,
    server: FakeLabelStudio,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    oracle = connect(images, server, retries=0)
    ticket = oracle.submit(request_of(images, 1))
    server.annotate(server.task_of(1), NAMES[3])
    server.faults[len(server.requests)] = "slow"
    monkeypatch.setattr(oracle._client, "_timeout", 0.1)
    assert oracle.poll(ticket) == [] and "ReadTimeout" in caplog.text
    monkeypatch.undo()
    assert answers(oracle.poll(ticket)) == {1: 3}


def test_two_faults_are_got_over_at_the_start(images: ActiveDataset) -> None:
    with serving(FakeLabelStudio(faults={0: "500", 1: "500"})) as server:
        connect(images, server, retries=2)
        assert len(server.requests) == 3
    with serving(FakeLabelStudio(faults=dict.fromkeys(range(99), "500"))) as server:
        with pytest.raises(UserError, match="status 500"):
            connect(images, server, retries=2)
        assert len(server.requests) == 3  # and no more


def test_a_server_that_is_away_is_waited_for(images: ActiveDataset, caplog: pytest.LogCaptureFixture) -> None:
    fake = FakeLabelStudio()
    with serving(fake):
        oracle = connect(images, fake)
        ticket = oracle.submit(request_of(images, 1, 2))
        server_port = int(fake.url.rpartition(":")[2])
    assert [oracle.poll(ticket) for _ in range(3)] == [[], [], []]
    assert oracle.submit(request_of(images, 1, 2, 3)) == ticket  # a stop, and a start of the same
    fake.annotate(fake.task_of(2), NAMES[4])  # as on a machine whose network is down
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    with serving(fake, server_port):
        assert answers(oracle.poll(ticket)) == {2: 4}
        assert [task["data"]["id"] for task in fake.tasks] == [1, 2, 3]
        assert "answers again" in caplog.text
    impatient = "has not answered for 0 seconds .* Every label so far is kept"
    oracle._patience = 0.0
    assert oracle.poll(ticket) == []
    with pytest.raises(UserError, match=impatient):
        oracle.poll(ticket)
