"""Which Label Studio, which token and which project: what is taken, and what is refused."""

from pathlib import Path

import pytest
import torch

from activebdl import ActiveDataset, UserError
from activebdl.oracles import make_oracle
from tests.oracles.label_studio.conftest import NAMES, answers, connect, request_of
from tests.oracles.label_studio.fake import PERSONAL, FakeLabelStudio, serving


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
    monkeypatch.setattr("tests.oracles.label_studio.fake.LEGACY", "another")
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
