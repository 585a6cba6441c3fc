"""Label Studio as an oracle, against a small stand-in for the server; test_label_studio_server.py takes a real one."""

import base64
import copy
import io
import itertools
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from activebdl import ABSTAIN, ActiveDataset, Annotation, Normalise, Request, UserError
from activebdl.annotations import standing
from activebdl.oracles import make_oracle
from activebdl.oracles._label_studio_tasks import labelling_configuration
from activebdl.oracles.label_studio import LabelStudioOracle
from activebdl.targets import Classes, Numbers
from tests.oracles.fake_label_studio import LEGACY, PERSONAL, FakeLabelStudio, serving
from tests.test_loop import cycle, timeless

NAMES = ('a "cat"', "<b>dog</b> & co", "größe ✓", "it's", "$image", " two  blanks ", "tab\tnew\nline")


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", LEGACY)
    monkeypatch.setattr("activebdl.oracles._label_studio_client._BACKOFF", 0.0)


@pytest.fixture
def server() -> Iterator[FakeLabelStudio]:
    with serving(FakeLabelStudio()) as fake:
        yield fake


@pytest.fixture
def images() -> ActiveDataset:
    """300 grey pictures of 4 x 6, whose values run from 0 to 16, as those of digits do."""
    pool = torch.randint(17, (300, 1, 4, 6), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    labels = torch.arange(300) % len(NAMES)
    scale = Normalise(scale=16.0)
    return ActiveDataset.from_arrays(pool, labels, pool[:9], labels[:9], name="tiny", classes=NAMES, normalise=scale)


def connect(dataset: ActiveDataset, server: Any, **options: Any) -> LabelStudioOracle:
    options = {"url": f"{server.url}/", "project": "a project", "retries": 1, **options}
    oracle = make_oracle("label_studio", dataset, options=options)
    assert isinstance(oracle, LabelStudioOracle)
    return oracle


def request_of(dataset: ActiveDataset, *ids: int, key: str = "round-0-attempt-0", **more: Any) -> Request:
    return Request(key, ids, dataset.pool[torch.tensor(ids)], dataset.target, white=dataset.normalise.scale, **more)


def answers(annotations: Iterable[Annotation]) -> dict[int, Any]:
    """What the run goes by after these annotations."""
    return {id: annotation.label for id, annotation in standing(annotations).items()}


def test_a_round_trip(images: ActiveDataset, server: FakeLabelStudio) -> None:
    oracle = connect(images, server, cost=2.0)
    ticket = oracle.submit(request_of(images, 7, 3, 5, 11))
    assert oracle.poll(ticket) == []
    server.annotate(server.task_of(3), NAMES[6], seconds=4.5)
    server.annotate(server.task_of(5), None, user=2)
    assert oracle.poll(ticket) == [
        Annotation(3, 6, "ada@example.org", 2.0, 4.5),
        Annotation(5, ABSTAIN, "ben@example.org", 2.0, 2.5),
    ]
    assert oracle.poll(ticket) == []
    for id, name in ((7, 0), (11, 4)):
        server.annotate(server.task_of(id), NAMES[name])
    assert answers(oracle.poll(ticket)) == {7: 0, 11: 4}
    assert oracle.price([7, 3]) == [2.0, 2.0]


def test_what_people_see(images: ActiveDataset, server: FakeLabelStudio) -> None:
    predictions = torch.full((2, 7), 0.1)
    predictions[0, 3] = predictions[1, 5] = 0.4
    request = request_of(images, 7, 3, round=2, n_labels=30, scores=(0.25, None), predictions=predictions)
    connect(images, server).submit(request)
    (project,) = server.projects
    assert project["title"] == "a project" and project["skip_queue"] == "IGNORE_SKIPPED"
    assert project["parsed_label_config"] == {"label": {"type": "Choices", "labels": list(NAMES)}}  # as XML is read
    first, second = (server.task_of(id) for id in (7, 3))
    head, _, picture = first["data"].pop("image").partition(",")
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))))
    assert head == "data:image/png;base64"
    assert pixels.shape[0] >= 60  # large enough to be seen: each pixel of the item is a square
    step = pixels.shape[0] // 4
    assert np.array_equal(
        pixels, np.kron(images.pool[torch.tensor([7])][0, 0].numpy() * (255 / 16), np.ones((step, step))).round()
    )
    entropy = round(-(6 * 0.1 * np.log(0.1) + 0.4 * np.log(0.4)), 4)
    told = {"id": 7, "request": "round-0-attempt-0", "round": 2, "score": 0.25, "predicted": NAMES[3]}
    assert first["data"] == {**told, "uncertainty": pytest.approx(entropy)}
    assert "score" not in second["data"]
    (prediction,) = first["predictions"]
    assert prediction["model_version"] == "activebdl at 30 labels" and prediction["score"] == pytest.approx(0.4)
    assert prediction["result"][0]["value"] == {"choices": [NAMES[3]]}
    assert server.views[0]["data"]["ordering"] == ["-tasks:data.uncertainty"]


def test_pillow_that_is_missing_is_told_by_its_name(
    images: ActiveDataset, server: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(UserError, match=r"need Pillow: pip install pillow\.$"):
        connect(images, server).submit(request_of(images, 7))


@pytest.mark.parametrize("batch", [1, 100])
def test_numbers_and_vectors(server: FakeLabelStudio, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("activebdl.oracles._label_studio_tasks._BATCH_TASKS", batch)
    x, y = torch.tensor([[0.5, -2.0], [1e-9, 3.0]]), torch.zeros(2)
    dataset = ActiveDataset.from_arrays(x, y, x, y, name="numbers", numbers=Numbers(), normalise=Normalise())
    oracle = connect(dataset, server)
    predictions = torch.tensor([[2.5, 0.3], [float("nan"), 1.0]])
    ticket = oracle.submit(request_of(dataset, 1, 0, predictions=predictions))
    assert server.requests.count("POST /api/projects/1/import") == 2 // min(batch, 2)
    assert server.projects[0]["parsed_label_config"]["label"]["type"] == "Number"
    assert [server.task_of(id)["data"]["values"] for id in (0, 1)] == ["0.5, -2", "1e-09, 3"]
    assert server.task_of(1)["predictions"][0]["result"][0]["value"] == {"number": 2.5}
    assert server.task_of(1)["data"]["uncertainty"] == 0.3
    assert "predictions" not in server.task_of(0)
    server.annotate(server.task_of(0), 7.25)
    server.annotate(server.task_of(1), None)
    assert answers(oracle.poll(ticket)) == {0: 7.25, 1: ABSTAIN}


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


def test_people_may_be_asked_for_more_than_the_label(images: ActiveDataset, server: FakeLabelStudio) -> None:
    connect(images, server, project="a project too").submit(request_of(images, 9))  # whose title contains the other's
    oracle = connect(images, server)
    ticket = oracle.submit(request_of(images, 1))
    task = server.task_of(1)
    made = server.annotate(task, NAMES[2])
    comment = {"from_name": "comment", "to_name": "item", "type": "textarea", "value": {"text": ["blurred"]}}
    server.edit(task, made, result=[comment, *made["result"]], completed_by=None)  # by one who has left since
    assert answers(oracle.poll(ticket)) == {1: 2}
    assert [project["title"] for project in server.projects] == ["a project too", "a project"]


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


def test_both_kinds_of_token(images: ActiveDataset, server: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", f" {PERSONAL}\n")
    oracle = connect(images, server)
    ticket = oracle.submit(request_of(images, 1))
    server.access = "it has run out"
    server.annotate(server.task_of(1), NAMES[0])
    assert answers(oracle.poll(ticket)) == {1: 0}
    assert server.requests.count("POST /api/token/refresh/") == 2


@pytest.mark.parametrize("token", ["wrong", "wrong.wrong.wrong"])
def test_a_wrong_token(
    images: ActiveDataset, server: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", token)
    with pytest.raises(UserError, match=r"does not take the API token in LABEL_STUDIO_API_KEY: .*[Ii]nvalid"):
        connect(images, server)
    for wrong, match in (("", "wants an API token"), ("two words", "copy it as it is")):
        monkeypatch.setenv("LABEL_STUDIO_API_KEY", wrong)
        with pytest.raises(UserError, match=match):
            connect(images, server)


def test_a_token_that_is_revoked_ends_the_run(
    images: ActiveDataset, server: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    oracle = connect(images, server)
    ticket = oracle.submit(request_of(images, 1))
    monkeypatch.setattr("tests.oracles.fake_label_studio.LEGACY", "another")
    with pytest.raises(UserError, match="does not take the API token"):
        oracle.poll(ticket)


def test_no_server_or_another_one(images: ActiveDataset) -> None:
    with serving(FakeLabelStudio(faults=dict.fromkeys(range(9), "html"))) as fake:
        with pytest.raises(UserError, match="No Label Studio answers at http.*no JSON"):
            connect(images, fake)
        fake.faults.clear()
        with pytest.raises(UserError, match="is a Label Studio at .*/elsewhere"):
            connect(images, fake, url=fake.url + "/elsewhere/")
        with pytest.raises(UserError, match="begins with http"):
            connect(images, fake, url="localhost:8080")
    with pytest.raises(UserError, match=r"No Label Studio answers at http://127.*ConnectionError"):
        connect(images, fake)


def test_projects_of_other_data(images: ActiveDataset, server: FakeLabelStudio, tmp_path: Path) -> None:
    connect(images, server).submit(request_of(images, 1))
    other = images.pool[torch.arange(20)]
    labels = torch.zeros(20, dtype=torch.long)
    same = ActiveDataset.from_arrays(other, labels, other, labels, name="other", classes=NAMES)
    with pytest.raises(UserError, match=r"is for another data set, .*'tiny'.* give another title"):
        connect(same, server).submit(request_of(same, 1))
    fewer = ActiveDataset.from_arrays(other, labels, other, labels, name="other", classes=("x", "y"))
    with pytest.raises(UserError, match="does not ask for the classes of this data set"):
        connect(fewer, server).submit(request_of(fewer, 1))
    with pytest.raises(UserError, match="no more than 50 characters"):
        connect(images, server, project="x" * 51).submit(request_of(images, 1))
    titles = set[str]()
    for name in ("a", "b", "x" * 80 + "a", "x" * 80 + "b"):
        made = make_oracle("label_studio", images, options={"url": server.url}, folder=tmp_path / name)
        made.submit(request_of(images, 1))
        titles.add(server.projects[-1]["title"])
    assert len(titles) == 4 and "tiny: a" in titles
    server.projects.clear()
    with pytest.raises(UserError, match=r"has no project 'tiny: x+ \w+' any more"):
        made.poll("")


@pytest.mark.parametrize(
    ("names", "keys"), [("71b", ["7", "1", "b"]), (("7", "1", "ab"), [None] * 3), ("é1", [None] * 2)]
)
def test_classes_of_one_letter_have_it_for_a_key(names: Sequence[str], keys: list[str | None]) -> None:
    choices = ET.fromstring(labelling_configuration(Classes(tuple(names)), image=True)).iter("Choice")
    assert [choice.get("hotkey") for choice in choices] == keys


@pytest.mark.parametrize("names", [("a", "a"), ("a", " "), ("a", "bell\x07")])
def test_classes_that_cannot_be_told_apart(server: FakeLabelStudio, names: tuple[str, ...]) -> None:
    x, y = torch.zeros(2, 3), torch.zeros(2, dtype=torch.long)
    dataset = ActiveDataset.from_arrays(x, y, x, y, name="odd", classes=names)
    with pytest.raises(UserError, match="Label Studio (tells classes by|cannot show)"):
        connect(dataset, server)


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


def test_of_two_projects_the_one_with_tasks_is_gone_on_with(images: ActiveDataset, server: FakeLabelStudio) -> None:
    server.faults = {3: "late"}  # which makes the project
    oracle = connect(images, server, retries=0)
    ticket = oracle.submit(request_of(images, 1, 2))
    assert len(server.at_work) == 1 and not server.projects
    oracle.poll(ticket)
    server.finish()
    first, second = server.projects
    assert server.tasks[0]["project"] == first["id"]
    first["id"], second["id"] = second["id"], first["id"]  # the late one was begun before
    for task in server.tasks:
        task["project"] = first["id"]
    again = connect(images, server)
    again.submit(request_of(images, 1, 2))
    assert len(server.tasks) == 2 and again._project == first["id"] > second["id"]
    server.tasks.clear()
    empty = connect(images, server)
    empty.submit(request_of(images, 1))
    assert empty._project == second["id"]  # of those with as many, the oldest


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


@pytest.mark.usefixtures("quick_looks")
def test_a_whole_run_is_that_of_the_data_sets_own_labels(
    server: FakeLabelStudio, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (90,), generator=generator)
    pool = labels[:, None, None, None] * 60 + torch.randint(60, (90, 1, 3, 3), generator=generator)
    pool = pool.to(torch.uint8)
    dataset = ActiveDataset.from_arrays(pool[:60], labels[:60], pool[60:], labels[60:], name="tiny", classes=NAMES[:3])

    def network() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(9, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))

    def person() -> None:
        waiting = [task for task in server.tasks if not task["annotations"]]
        if waiting:
            server.annotate(waiting[-1], NAMES[int(labels[waiting[-1]["data"]["id"]])])

    def run(oracle: object) -> Any:
        return timeless(list(cycle(dataset, network, counts=(4, 8, 11), oracle=oracle)))

    server.on_look = person
    assert run(connect(dataset, server)) == run("dataset")
    assert len(server.tasks) == 11
