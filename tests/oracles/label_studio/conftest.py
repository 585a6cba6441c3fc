"""A small stand-in for a Label Studio server, pictures to label, and an oracle between them.

Only test_real_server.py takes a real one.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch

from activebdl import ActiveDataset, Annotation, Normalise, Request
from activebdl.annotations import standing
from activebdl.oracles import make_oracle
from activebdl.oracles.label_studio import LabelStudioOracle
from tests.oracles.label_studio.fake import LEGACY, FakeLabelStudio, serving

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
