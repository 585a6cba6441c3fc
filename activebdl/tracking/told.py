"""What MLflow is told of a run: parameters, tags, metrics and pictures."""

import hashlib
import json
import platform
import re
from collections.abc import Callable
from typing import Any

import torch

from activebdl import __version__
from activebdl.build import make_strategy
from activebdl.data import ActiveDataset
from activebdl.devices import choose_device, describe
from activebdl.pictures import asked_grid, confusion_matrix, reliability_diagram
from activebdl.rounds import Round
from activebdl.settings import CHANGES_NOTHING, presets
from activebdl.spec import BUDGETS, RunSpec
from activebdl.targets import Classes, Target

EACH_ROUND = "time/round"
"""The metric that tells which rounds a store has: every round has it, it is finite, and the last of its batch."""


MOST_CLASSES = 100
"""Of how many classes at most it is told how often each was asked: a store takes 1,000 numbers of a round."""


def flat(spec: RunSpec) -> dict[str, str]:
    """The spec as MLflow's parameters: ``strategy`` is a name, ``strategy.beta`` an option of it."""
    params = {"label": f"{make_strategy(spec.strategy).label}, {spec.posterior.name}{_protocol(spec)}"}

    def walk(key: str, value: Any) -> None:
        if isinstance(value, dict):
            for inner, deeper in value.items():  # pyright: ignore[reportUnknownVariableType]
                walk(key if inner == "name" else f"{key}.{inner}", deeper)
        else:
            params[key] = str(value)

    for key, value in spec.model_dump(mode="json", exclude={"compare", "experiment"}).items():
        walk(key, value)
    return params


def _protocol(spec: RunSpec) -> str:
    """Tells apart what is of one experiment and of several protocols, since charts average all runs of one label.

    There is none where the experiment is a preset's own.
    """
    if spec.experiment in presets() and spec.oracle.name == "dataset":
        return ""
    arms = {"experiment", "strategy", "seed", "compare", *CHANGES_NOTHING, *BUDGETS}
    settings = json.dumps(spec.model_dump(mode="json", exclude=arms), sort_keys=True)
    return f", {hashlib.blake2b(settings.encode(), digest_size=2).hexdigest()}"


def machine(spec: RunSpec) -> dict[str, str]:
    """What a run's numbers may depend on beside its spec, as MLflow's tags."""
    return {
        "version": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": describe(choose_device(spec.device)),
        "threads": str(torch.get_num_threads()),
    }


def metrics_of(round: Round, target: Target) -> dict[str, float]:
    """What is sent of a round: its metrics, what the fit tells of itself, times in seconds, and what was asked."""
    values = dict(round.metrics)
    values |= {f"fit/{key}": value for key, value in round.diagnostics.items()}
    values |= {f"time/{phase}": seconds for phase, seconds in round.seconds.items()}
    values["cost"] = round.cost
    if round.samples is not None:
        values["samples"] = round.samples
    values |= {f"validation/{key}": value for key, value in round.validation.items() if key != "size"}
    values |= {f"stop/{key}": value for key, value in round.watch.items()}
    if isinstance(target, Classes):
        for c, name in enumerate(target.names if len(target.names) <= MOST_CLASSES else ()):
            key = _key(name)[:100]
            values[f"asked/class_{key if key == name else f'{key}_{c}'}"] = round.labels.count(c) / len(round.labels)
    else:
        values["asked/mean_label"] = sum(round.labels) / len(round.labels)
    scores = [score for score in round.scores if score is not None]
    if scores:
        values["asked/mean_score"] = sum(scores) / len(scores)
    values = {"/".join(map(_key, key.split("/"))): value for key, value in values.items()}
    values[EACH_ROUND] = sum(round.seconds.values())  # last: a store that has it has them all
    return values


def _key(name: str) -> str:
    """The name of a metric, or a part of it, of what MLflow allows: it refuses all of a round for one comma."""
    return re.sub(r"[^\w.\- ]", "_", name)


def pictures_of(dataset: ActiveDataset, round: Round, is_last: bool) -> dict[str, Callable[[], bytes]]:
    """What draws each picture of a round, by the file's name.

    Args:
        dataset: The run's.
        round: The round.
        is_last: Whether the run ends with it.
    """
    pictures: dict[str, Callable[[], bytes]] = {}
    if _are_images(dataset):
        pictures[f"asked/{round.n_labels:05d}-labels.png"] = lambda: _grid(dataset, round)
    if is_last and round.confusion:
        at = f"at {round.n_labels:,} labels"
        ece, classes = round.metrics["ece"], dataset.classes
        pictures["confusion_matrix.png"] = lambda: confusion_matrix(round.confusion, classes, f"confusion {at}")
        pictures["reliability.png"] = lambda: reliability_diagram(round.reliability, ece, f"reliability {at}")
    return pictures


def _grid(dataset: ActiveDataset, round: Round) -> bytes:
    names = [dataset.classes[int(label)] if dataset.classes else f"{label:.3g}" for label in round.labels]
    images = dataset.pool[torch.tensor(round.ids, dtype=torch.long)].numpy()
    return asked_grid(images, names, f"asked for, up to {round.n_labels:,} labels")


def _are_images(dataset: ActiveDataset) -> bool:
    shape = dataset.input_shape
    return len(shape) == 3 and shape[0] in (1, 3)
