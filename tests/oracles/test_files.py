"""Requests as files: what is written, and what comes back through ``activebdl ingest``."""

import csv
import io
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from activebdl import Request, UserError, Waiting, load
from activebdl.cli import main
from activebdl.journal import Journal
from activebdl.journal_reading import read_rounds
from activebdl.oracles import make_oracle
from activebdl.oracles._images import png
from activebdl.targets import Classes, Numbers

IMAGES = torch.arange(3 * 4 * 5, dtype=torch.uint8).view(3, 1, 4, 5)
BELIEFS = torch.tensor([[0.5, 0.5], [1, 0], [0.25, 0.75]])
REQUEST = Request(
    "round-2-attempt-0",
    (7, 3, 5),
    IMAGES,
    Classes(("cat", "dog")),
    predictions=torch.tensor([[0.5, 0.5], [1, 0], [0.25, 0.75]]),
)


def write(folder: Path, request: Request = REQUEST, **options: Any) -> str:
    oracle = make_oracle("files", load("digits"), options=options, folder=folder)
    with pytest.raises(Waiting) as waiting:
        oracle.poll(oracle.submit(request))
    return str(waiting.value)


def test_a_request_is_written_with_its_images_and_what_the_model_thinks(tmp_path: Path) -> None:
    told = write(tmp_path)
    file = tmp_path / "request-2.jsonl"
    assert f"3 items wait for labels in '{file}'" in told and "(one of cat, dog; or abstain)" in told
    assert f"activebdl ingest {tmp_path} {file}" in told
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(row["id"], row["label"], row["predicted"], row["probability"]) for row in rows] == [
        (7, None, "cat", 0.5), (3, None, "cat", 1.0), (5, None, "dog", 0.75),
    ]  # fmt: skip
    assert [row["entropy in nats"] for row in rows] == [0.6931, 0.0, 0.5623]
    for row, image in zip(rows, IMAGES, strict=True):
        with Image.open(tmp_path / row["image"]) as picture:
            assert picture.size == (5, 4) and list(picture.tobytes()) == image.flatten().tolist()


def test_a_file_into_which_people_write_is_not_overwritten(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "request-2.jsonl").write_text("mine")
    write(tmp_path)
    assert (tmp_path / "request-2.jsonl").read_text() == "mine"


def test_csv_numbers_and_items_that_are_no_images(tmp_path: Path) -> None:
    request = Request(
        "validation-attempt-1",
        (7, 3),
        torch.tensor([[0.5, 2], [1, 3]]),
        Numbers(),
        predictions=torch.tensor([[1.5, 0.25]] * 2),
    )
    assert "(a number; or abstain)" in write(tmp_path, request, format="csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "validation-again-1.csv").read_text())))
    assert [(row["id"], row["label"], row["values"], row["predicted"], row["standard deviation"]) for row in rows] == [
        ("7", "", "[0.5, 2.0]", "1.5", "0.25"), ("3", "", "[1.0, 3.0]", "1.5", "0.25"),
    ]  # fmt: skip


def test_what_cannot_be_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="writes jsonl or csv, not 'xml'"):
        make_oracle("files", load("digits"), options={"format": "xml"}, folder=tmp_path)
    with pytest.raises(UserError, match="needs a run that is kept"):
        make_oracle("files", load("digits"))
    with pytest.raises(UserError, match="'files' has no option 'formt'; it has: format, cost"):
        make_oracle("files", load("digits"), options={"formt": "csv"}, folder=tmp_path)


def test_a_picture_of_any_numbers_goes_from_black_to_white() -> None:
    image = torch.tensor([[[-2.0, 0.0], [2.0, 1.0]]]).expand(3, 2, 2)
    with Image.open(io.BytesIO(png(image))) as picture:
        assert picture.mode == "RGB" and picture.tobytes()[::3] == bytes([0, 128, 255, 191])
    digit = torch.tensor([[[0, 8], [16, 255]]], dtype=torch.uint8)
    with Image.open(io.BytesIO(png(digit, white=16))) as picture:
        assert picture.tobytes() == bytes([0, 128, 255, 255])
    with Image.open(io.BytesIO(png(digit))) as picture:
        assert picture.tobytes() == bytes([0, 8, 16, 255])
    with Image.open(io.BytesIO(png(torch.zeros(1, 2, 2)))) as picture:
        assert picture.mode == "L" and picture.tobytes() == bytes(4)


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """The exit code, and all that was said."""
    with pytest.raises(SystemExit) as exit:
        main([*arguments])
    said = capsys.readouterr()
    return int(exit.value.code or 0), said.out + said.err


QUICK = ["--no-mlflow", "--set", "posterior.training.steps=20", "--draws", "4", "--budget", "60"]


@pytest.mark.parametrize("format", ["jsonl", "csv"])
def test_a_run_by_files_is_the_run_with_the_labels_at_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], format: str
) -> None:
    """Partial, out of order, repeated, edited again, with mistakes: in the end the same."""
    monkeypatch.chdir(tmp_path)
    shuffle, truth = random.Random(format), load("digits").labels
    assert truth is not None
    first, name, file = -1, f"{format}-run", Path("answers." + format)
    code, told = command(
        capsys, "run", "digits-small", "--oracle", "files", "--name", name, "--set", f"oracle.format={format}", *QUICK
    )
    while code == 3:
        found = re.search(r"in '(\S+)'", told)
        assert found is not None
        text = Path(found[1]).read_text()
        rows: list[dict[str, Any]] = (
            [json.loads(line) for line in text.splitlines()]
            if format == "jsonl"
            else list(csv.DictReader(io.StringIO(text)))
        )
        right = [{"id": int(row["id"]), "label": int(truth[int(row["id"])])} for row in rows]
        shuffle.shuffle(right)

        def give(answers: list[dict[str, Any]]) -> tuple[int, str]:
            if format == "jsonl":
                file.write_text("".join(json.dumps(row) + "\n" for row in answers))
            else:
                file.write_text("id,label\n" + "".join(f"{row['id']},{row['label']}\n" for row in answers))
            return command(capsys, "ingest", name, str(file), "--no-mlflow")

        first = right[0]["id"]
        wrong = {"id": first, "label": (int(truth[first]) + 1) % 10}
        code, told = give([wrong, *right[1:8]])
        assert code == 3 and "8 new answers taken, 0 were known" in told
        assert f"still waits for {len(right) - 8} items: " in told
        code, told = give([right[0], {"id": right[9]["id"], "label": "horse"}, *right[1:9]])
        assert code == 2 and "2 new answers taken, 7 were known" in told and "line" in told and "'horse'" in told
        code, told = give(right[4:])
    assert code == 0 and "kept in" in told
    command(capsys, "run", "digits-small", "--name", "at hand", *QUICK)
    journals = [Path("runs") / each / "journal.sqlite" for each in (name, "at hand")]
    results = [[(r.n_labels, r.results["metrics"]) for r in read_rounds(journal)] for journal in journals]
    assert results[0] == results[1] and len(results[0]) == 3
    with Journal(journals[0]) as journal:
        assert [said.id for said in journal.history()].count(first) == 2
    code, told = command(capsys, "labels", name)
    assert code == 0 and "60 labels, 0 abstentions, 63 lines of history" in told
    assert command(capsys, "labels", name, "--export", "out/l.csv")[0] == 2
    code, told = command(capsys, "labels", name, "--export", "l.csv")
    assert code == 0 and len(Path("l.csv").read_text().splitlines()) == 64
    code, told = command(capsys, "labels", name, "--fix", f"{first}=3")
    assert code == 0 and "kept; the run is finished, and uses it no more" in told
    assert command(capsys, "ingest", "at hand", "nothing.csv")[0] == 2
    code, told = command(capsys, "label", "at hand")
    assert code == 2 and "come from 'dataset', not from people" in told


def test_a_budget_in_cost_is_not_overspent_by_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    quick = ["--oracle", "files", "--set", "oracle.cost=1", "--set", "max_cost=30", "--name", "dear", "--no-mlflow"]
    assert command(capsys, "run", "digits-small", *quick)[0] == 3
    with Journal(tmp_path / "runs" / "dear" / "journal.sqlite") as journal:
        ids = sorted(journal.waits_for())
    lines = [f"{id},1,{50 if id == ids[0] else ''}" for id in ids]
    (tmp_path / "a.csv").write_text("\n".join(["id,label,cost", *lines]))
    code, told = command(capsys, "ingest", "dear", "a.csv", "--no-mlflow")
    assert code == 2 and "cost 50, where the budget in cost counts on 1" in told
    with Journal(tmp_path / "runs" / "dear" / "journal.sqlite") as journal:
        assert journal.waits_for() == [ids[0]] and sum(journal.paid_for(ids).values()) == 19
