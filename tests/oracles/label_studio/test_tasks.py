"""What people see at Label Studio: projects, tasks, classes; and how what they say comes back."""

import base64
import io
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from activebdl import ABSTAIN, ActiveDataset, Annotation, Normalise, UserError
from activebdl.oracles._label_studio_tasks import default_title, labelling_configuration
from activebdl.targets import Classes, Numbers
from tests.oracles.label_studio.conftest import NAMES, answers, connect, request_of
from tests.oracles.label_studio.fake import FakeLabelStudio
from tests.test_loop import cycle, timeless


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


@pytest.mark.parametrize(
    ("names", "keys"), [("71b", ["7", "1", "b"]), (("7", "1", "ab"), [None] * 3), ("é1", [None] * 2)]
)
def test_classes_of_one_letter_have_it_for_a_key(names: Sequence[str], keys: list[str | None]) -> None:
    choices = ET.fromstring(labelling_configuration(Classes(tuple(names)), image=True)).iter("Choice")
    assert [choice.get("hotkey") for choice in choices] == keys


@pytest.mark.parametrize("names", [("a", " "), ("a", "bell\x07")])
def test_classes_that_cannot_be_told_apart(server: FakeLabelStudio, names: tuple[str, ...]) -> None:
    x, y = torch.zeros(2, 3), torch.zeros(2, dtype=torch.long)
    dataset = ActiveDataset.from_arrays(x, y, x, y, name="odd", classes=names)
    with pytest.raises(UserError, match="Label Studio (tells classes by|cannot show)"):
        connect(dataset, server)


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


def test_runs_of_two_comparisons_have_projects_of_their_own(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name / "bald-seed0").mkdir(parents=True)
        (tmp_path / name / "comparison.yaml").touch()
    titles = [default_title("pets", tmp_path / name / "bald-seed0") for name in ("first", "second")]
    assert titles == ["pets: first/bald-seed0", "pets: second/bald-seed0"]
    assert default_title("pets", tmp_path / "first") == "pets: first"
    long = [default_title("p" * 60, tmp_path / name) for name in ("first", "second")]
    assert len(set(long)) == 2 and all(len(title) == 50 for title in long)
