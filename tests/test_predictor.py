"""What a run has learned, in a file: it says of the test set what the run's last round said of it."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from activebdl import ActiveDataset, ActiveLearning, Classes, Normalise, Numbers, Training, UserError, load_model
from activebdl.build import build, resolved
from activebdl.fitted import Fitted
from activebdl.posteriors import posteriors
from activebdl.predictor import Predictor
from activebdl.runs import resume, start
from activebdl.spec import RunSpec, read_spec
from activebdl.targets import log_probs
from tests.conftest import KnownDraws

EIGHT = ("bayes_by_backprop", "ensemble", "ivon", "laplace", "map", "mc_dropout", "mnf", "swag")


@dataclass(frozen=True)
class Known:
    """A posterior with one set of draws."""

    draws: Any

    def draw(self, k: int, *, generator: torch.Generator) -> Any:
        return self.draws


@dataclass(frozen=True)
class KnownMoments:
    table: Tensor  # [N, K, 2]
    count = 3

    def outputs(self, x: Tensor) -> Tensor:
        return self.table[x[:, 0].long()]


def known(draws: Any, target: Classes | Numbers, read: Any) -> Predictor:
    example = torch.zeros(1, 1)
    fitted = Fitted(Known(draws), read, target.kind, Normalise(), example, seed=0, round=0, chunk=2)
    return Predictor(fitted, 3, 5, target, example, torch.device("cpu"))


@pytest.mark.parametrize("name", EIGHT)
def test_it_says_what_the_last_round_said_also_from_a_file(
    name: str, dataset: ActiveDataset, network: Callable[[], nn.Module], tmp_path: Path
) -> None:
    method = posteriors.get(name)(training=Training(steps=20))  # pyright: ignore[reportCallIssue]
    cycle = ActiveLearning(dataset, network, counts=(6, 12), posterior=method, strategy="random", device="cpu")
    last = list(cycle)[-1]
    predictor = cycle.predictor()
    items = np.asarray(dataset.test)
    told = predictor.predict(items)
    assert (told["label"] == dataset.test_labels.numpy()).mean() == last.metrics["accuracy"]
    right = told["probabilities"][np.arange(60), dataset.test_labels.numpy()]
    assert -np.log(right).mean() == pytest.approx(last.metrics["nll"], rel=1e-5)
    predictor.save(tmp_path / "model.pkl")
    loaded = load_model(tmp_path / "model.pkl", "cpu")
    again = loaded.predict(items)
    assert {key: value.tolist() for key, value in again.items()} == {key: value.tolist() for key, value in told.items()}
    assert loaded.n_labels == 12 and loaded.fitted.round == 1
    alone = np.concatenate([loaded.predict(items[i : i + 1])["probabilities"] for i in range(60)])
    np.testing.assert_allclose(alone, told["probabilities"], rtol=1e-4)  # one function, whatever the batch


def test_doubt_by_hand(known_draws: Callable[[Tensor], KnownDraws]) -> None:
    p = np.array([[[0.9, 0.1], [0.5, 0.5], [0.3, 0.7]], [[0.8, 0.2]] * 3, [[1.0 - 1e-9, 1e-9]] * 3])  # [N, K, C]
    told = known(known_draws(torch.tensor(p).log()), Classes(("a", "b")), log_probs).predict(np.arange(3.0)[:, None])
    mean = p.mean(axis=1)
    total = -(mean * np.log(mean)).sum(axis=1)
    within = -(p * np.log(p)).sum(axis=2).mean(axis=1)
    np.testing.assert_allclose(told["probabilities"], mean, rtol=1e-6)
    np.testing.assert_allclose(told["entropy"], total, atol=1e-7)
    np.testing.assert_allclose(told["mutual_information"], total - within, atol=1e-7)
    assert told["mutual_information"][1] < 1e-7 < told["mutual_information"][0]  # all agree on the second
    assert told["label"].tolist() == [0, 0, 0]
    np.testing.assert_allclose(told["confidence"], mean.max(axis=1))


def test_doubt_of_numbers_by_hand() -> None:
    outputs = torch.tensor([[[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]], [[5.0, 1.0], [5.0, 2.0], [5.0, 3.0]]])
    labels = torch.tensor([10.0, 30.0])  # mean 20, deviation 10
    task = Numbers().task(labels)
    told = known(KnownMoments(outputs), Numbers(), task.predict).predict(np.arange(2.0)[:, None])
    means, variances = 20 + 10 * outputs[..., 0].double().numpy(), 100 * np.exp(outputs[..., 1].double().numpy())
    np.testing.assert_allclose(told["mean"], means.mean(axis=1))
    np.testing.assert_allclose(told["epistemic"], means.var(axis=1))
    np.testing.assert_allclose(told["aleatoric"], variances.mean(axis=1))
    np.testing.assert_allclose(told["sd"] ** 2, means.var(axis=1) + variances.mean(axis=1))


NETWORK = """
from torch import nn
from helper import WIDTH

class Mine(nn.Module):
    def __init__(self, shape, outputs):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, WIDTH), nn.ReLU(), nn.Dropout(0.5))
        self.last = nn.Linear(WIDTH, outputs)

    def forward(self, x):
        return self.last(self.layers(x))

def mine(input_shape, outputs):
    return Mine(input_shape, outputs)
"""
READ = """
import json, sys
import numpy as np
import activebdl
told = activebdl.load_model(sys.argv[1]).predict(np.load(sys.argv[2]))
print(json.dumps({key: value.tolist() for key, value in told.items()}))
"""


def test_a_users_own_network_travels_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "mine.py").write_text(NETWORK)
    (code / "helper.py").write_text("WIDTH = 16\n")
    monkeypatch.syspath_prepend(str(code))
    changes = {"network": f"{code / 'mine.py'}:mine", "budget": 20, "posterior.training.steps": 5}
    start(resolved(read_spec("digits-small", changes)), tmp_path / "run")
    items = load_model(tmp_path / "run").example
    np.save(tmp_path / "items.npy", items.numpy())
    here = load_model(tmp_path / "run").predict(items)
    for file in code.iterdir():  # where the model is read nobody has these
        file.unlink()
    command = [sys.executable, "-c", READ, str(tmp_path / "run"), str(tmp_path / "items.npy")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {key: value.tolist() for key, value in here.items()}


@pytest.fixture(scope="module")
def spec() -> RunSpec:
    return resolved(read_spec("digits-small", {"budget": 40, "posterior.training.steps": 5, "draws": 2}))


def test_a_finished_run_has_a_model_and_a_resumed_one_the_same(spec: RunSpec, tmp_path: Path) -> None:
    curve = start(spec, tmp_path / "run")
    test = np.asarray(build(spec).dataset.test)
    model = load_model(tmp_path / "run")
    told = model.predict(test)
    accuracy = (told["label"] == build(spec).dataset.test_labels.numpy()).mean()
    assert accuracy == curve.metrics["accuracy"][-1]
    file = tmp_path / "run" / "model.pkl"
    whole, when = file.read_bytes(), file.stat().st_mtime_ns
    resume(tmp_path / "run")
    assert file.stat().st_mtime_ns == when  # nothing is fitted for what is there
    file.unlink()  # as of a process that was killed between the last round and this file
    (tmp_path / "run" / ".model.pkl.123.part").write_bytes(whole[:100])
    resume(tmp_path / "run")
    again = load_model(tmp_path / "run").predict(test)
    assert again["probabilities"].tolist() == told["probabilities"].tolist()
    assert [left.name for left in (tmp_path / "run").glob(".model*")] == []


def test_a_run_may_keep_none(spec: RunSpec, tmp_path: Path) -> None:
    start(spec.model_copy(update={"keep_model": False}), tmp_path / "run")
    assert not (tmp_path / "run" / "model.pkl").exists()
    with pytest.raises(UserError, match=r"There is no model at '.*model.pkl'; a run writes it when it ends"):
        load_model(tmp_path / "run")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(28, "No space left on device"), "OSError: [Errno 28] No space left on device"),
        (TypeError("cannot pickle 'module' object"), "TypeError: cannot pickle 'module' object"),
        (UserError("A model in a file needs 'cloudpickle'"), "A model in a file needs 'cloudpickle'"),
    ],
    ids=["disk", "pickle", "cloudpickle"],
)
def test_a_model_that_cannot_be_written_stops_no_run(
    spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    error: Exception, words: str,
) -> None:  # fmt: skip
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("activebdl.portable.save", fail)
    curve = start(spec, tmp_path / "run")
    assert curve.counts == (20, 40)
    assert f"  the model is not kept: {words}" in capsys.readouterr().out
    assert [left.name for left in (tmp_path / "run").glob("*model*")] == []


def test_what_is_no_model_is_refused(tmp_path: Path, dataset: ActiveDataset, network: Callable[[], nn.Module]) -> None:
    (tmp_path / "text.pkl").write_text("hello")
    with pytest.raises(UserError, match=r"The model '.*text.pkl' cannot be read here: "):
        load_model(tmp_path / "text.pkl")
    torch.save([1, 2], tmp_path / "list.pkl")
    with pytest.raises(UserError, match="holds no model of ours, but a list"):
        load_model(tmp_path / "list.pkl")
    cycle = ActiveLearning(dataset, network, counts=(6,), device="cpu")
    with pytest.raises(UserError, match="nothing to predict with before the first round"):
        cycle.predictor()


def test_items_of_another_shape_are_refused() -> None:
    predictor = replace(known(None, Classes(("a", "b")), log_probs), example=torch.zeros(3, 1, 8, 8))
    with pytest.raises(UserError, match=r"Items have the shape \[1, 8, 8\].*got \[8, 8\]"):
        predictor.predict(np.zeros((8, 8)))


def test_images_that_were_scaled_already_are_refused() -> None:
    items = torch.arange(3, dtype=torch.uint8)[:, None]
    table = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    predictor = replace(known(KnownDraws(table), Classes(("a", "b")), log_probs), example=items)
    with pytest.raises(UserError, match="whole numbers from 0 to 255, and not scaled"):
        predictor.predict(items / 255)
    for given in (items, items.float()):
        np.testing.assert_allclose(predictor.predict(given)["probabilities"], table.exp().mean(1), rtol=1e-6)
