"""What a run goes by when people at Label Studio revise, delete and correct, and when it is started again."""

import copy
import itertools
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from activebdl import ABSTAIN, ActiveDataset, Annotation
from activebdl.oracles.label_studio import LabelStudioOracle
from tests.oracles.label_studio.conftest import NAMES, answers, connect, request_of
from tests.oracles.label_studio.fake import LEGACY, FakeLabelStudio


def test_an_oracle_that_is_made_again_asks_nobody_twice(images: ActiveDataset, server: FakeLabelStudio) -> None:
    server.page = 40  # the server gives smaller pages than it is asked for
    ids = tuple(range(250))
    connect(images, server).submit(request_of(images, *ids))
    for id in (0, 39, 40, 249):
        server.annotate(server.task_of(id), NAMES[1])
    again = connect(images, server)
    ticket = again.submit(request_of(images, *ids))
    assert len(server.tasks) == 250 and len(server.projects) == 1
    assert answers(again.poll(ticket)) == {0: 1, 39: 1, 40: 1, 249: 1}


def test_what_the_run_knows_is_not_told_again_and_corrections_elsewhere_stand(
    images: ActiveDataset, server: FakeLabelStudio
) -> None:
    first = connect(images, server, cost=1.0)
    first.submit(request_of(images, 1, 2))
    for id in (1, 2):
        server.annotate(server.task_of(id), NAMES[0])
    said = tuple(first.poll(""))
    fixed = Annotation(1, 5, "somebody at the command line")  # an answer by some other way
    second = connect(images, server, cost=1.0)
    second.submit(request_of(images, 9, key="round-1-attempt-0", history=(*said, fixed)))
    assert second.poll("") == []
    task = server.task_of(2)
    server.edit(task, task["annotations"][0], result=[])  # no choice at all says nothing: it is taken back
    assert second.poll("") == [Annotation(2, None, "ada@example.org", role="withdrawn")]
    server.annotate(task, NAMES[3], user=2)
    assert second.poll("") == [Annotation(2, 3, "ben@example.org", 0.0, 2.5)]  # whose cost was paid
    task = server.task_of(1)
    server.edit(task, task["annotations"][0], was_cancelled=True)
    assert answers(second.poll("")) == {1: ABSTAIN}


def test_what_was_given_out_and_not_written_is_given_again(images: ActiveDataset, server: FakeLabelStudio) -> None:
    oracle = connect(images, server, cost=1.0)
    request = request_of(images, 1, 2)
    oracle.submit(request)
    server.annotate(server.task_of(1), NAMES[5])
    server.annotate(server.task_of(1), NAMES[6], user=2)
    said = oracle.poll("")
    assert answers(said) == {1: 6}
    assert sum(annotation.cost for annotation in said) == oracle.price([1])[0]  # however many people there are
    oracle.submit(request)  # its history is empty: the disk was full
    assert oracle.poll("") == said


class Direct:
    """The client without a network between it and the server."""

    url = "direct"

    def __init__(self, server: FakeLabelStudio) -> None:
        self.server = server

    def get(self, path: str, **parameters: Any) -> Any:
        query = {key: str(value) for key, value in parameters.items()}
        return copy.deepcopy(self.server.answer("GET", path, query, None, f"Token {LEGACY}")[1])

    def post(self, path: str, body: Any) -> Any:
        return self.server.answer("POST", path, {}, body, f"Token {LEGACY}")[1]

    def pages(self, path: str, key: str, **parameters: Any) -> Any:
        return self.get(path, page=1, page_size=100, **parameters)[key]


EVENT = st.tuples(
    st.sampled_from(["say", "say", "edit", "delete", "look", "restart"]), st.integers(0, 4), st.integers(0, 2)
)


@given(events=st.lists(EVENT, max_size=12))
@example(events=[("say", 1, 0), ("say", 2, 1), ("say", 3, 0)])  # the first speaks again, of the other task
@example(events=[("say", 1, 0), ("say", 2, 1), ("look", 0, 0), ("edit", 1, 0)])  # and says the same as before
@example(events=[("say", 0, 0), ("look", 0, 0), ("delete", 0, 0), ("restart", 0, 0)])  # while the run is stopped
def test_the_run_goes_by_what_was_said_last_of_all_that_is_said(events: list[tuple[str, int, int]]) -> None:
    """People label, skip, change and delete in any order, in two tasks of one item; the run may stop at any time."""
    server = FakeLabelStudio()
    pool, labels = torch.zeros(3, 1, 2, 2), torch.tensor([0, 1, 2])
    dataset = ActiveDataset.from_arrays(pool, labels, pool, labels, name="tiny", classes=("a", "b", "c"))
    told: list[Annotation] = []

    def start() -> LabelStudioOracle:
        oracle = LabelStudioOracle(Direct(server), dataset, "direct")  # pyright: ignore[reportArgumentType]
        oracle.submit(request_of(dataset, 0, history=tuple(told)))
        return oracle

    oracle = start()
    server.tasks.append({**server.tasks[0], "id": server.new_id(), "annotations": []})  # made twice, by some mishap
    for kind, which, value in [*events, ("look", 0, 0)]:
        task = server.tasks[which % 2]
        annotations = task["annotations"]
        if kind == "say":
            server.annotate(task, (None, "a", "b", "c", "c")[which], user=1 + value % 2)
        elif kind == "edit" and annotations:
            result = [{"from_name": "label", "value": {"choices": ["abc"[value]]}}]
            server.edit(task, annotations[which % len(annotations)], result=result, was_cancelled=False)
        elif kind == "delete" and annotations:
            server.delete(task, annotations[which % len(annotations)])
        elif kind == "look":
            news = oracle.poll("")
            told += news
            assert oracle.poll("") == []
        elif kind == "restart":
            oracle = start()
    said = [a for task in server.tasks for a in task["annotations"]]
    said = [a for a in said if not a["was_cancelled"]] or said
    expected: dict[int, Any] = {}
    if said:
        last = max(said, key=lambda a: a["updated_at"])
        expected = {0: None if last["was_cancelled"] else "abc".index(last["result"][0]["value"]["choices"][0])}
    assert answers(told) == expected
    for before, after in itertools.pairwise(told):  # each changes something
        assert (before.annotator, before.label, before.role) != (after.annotator, after.label, after.role)


def test_an_answer_that_is_no_class_is_waited_for_until_it_is_mended(
    images: ActiveDataset, server: FakeLabelStudio, caplog: pytest.LogCaptureFixture
) -> None:
    oracle = connect(images, server)
    ticket = oracle.submit(request_of(images, 1, 2))
    server.annotate(server.task_of(2), NAMES[1])
    task = server.task_of(1)
    wrong = server.annotate(task, "a class that somebody added")
    assert answers(oracle.poll(ticket)) == {2: 1}
    server.edit(server.task_of(2), server.task_of(2)["annotations"][0])
    assert answers(oracle.poll(ticket)) == {}
    assert caplog.text.count("a class that somebody added") == 1
    value = {"choices": [NAMES[2]]}
    server.edit(task, wrong, result=[{"from_name": "label", "value": value}])
    assert answers(oracle.poll(ticket)) == {1: 2}


def test_a_correction_before_the_first_answer_leaves_its_cost(images: ActiveDataset, server: FakeLabelStudio) -> None:
    oracle = connect(images, server, cost=2.0)
    fixed = Annotation(1, 5, "me", role="correction")
    ticket = oracle.submit(request_of(images, 1, history=(fixed,)))
    task = server.task_of(1)
    made = server.annotate(task, NAMES[3])
    said = list(oracle.poll(ticket))
    assert said == [Annotation(1, 3, "ada@example.org", 2.0, 2.5)]
    server.delete(task, made)
    said += oracle.poll(ticket)
    server.annotate(task, NAMES[2])
    again = connect(images, server, cost=2.0)
    again.submit(request_of(images, 1, history=(fixed, *said)))
    for one in (oracle, again):
        assert [annotation.cost for annotation in one.poll(ticket)] == [0.0]  # the item is paid


def test_a_person_keeps_the_name_of_the_beginning(images: ActiveDataset, server: FakeLabelStudio) -> None:
    oracle = connect(images, server)
    ticket = oracle.submit(request_of(images, 1, 2, 3))
    made = server.annotate(server.task_of(1), NAMES[3], user=5)  # who may not be listed
    said = list(oracle.poll(ticket))
    assert said[0].annotator == "user 5"
    server.users[5] = "eve@example.org"
    server.users[1] = "ada@example.com"
    server.annotate(server.task_of(2), NAMES[4], user=6)  # people are listed again
    said += oracle.poll(ticket)
    again = connect(images, server)
    again.submit(request_of(images, 3, history=tuple(said)))
    server.edit(server.task_of(1), made, result=[])
    for one in (oracle, again):
        assert one.poll(ticket) == [Annotation(1, None, "user 5", role="withdrawn")]
    server.annotate(server.task_of(3), NAMES[0], user=1)
    assert [annotation.annotator for annotation in oracle.poll(ticket)] == ["ada@example.org"]
