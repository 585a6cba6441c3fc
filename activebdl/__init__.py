"""Active learning on Bayesian deep networks: more accuracy for every label.

    cycle = activebdl.ActiveLearning(dataset, network, counts=activebdl.label_counts(20, 1000, 20))
    for round in cycle:
        print(round.n_labels, round.metrics["accuracy"])

What is imported here is public, and nothing else is. It takes torch and numpy alone, and these only when a name is
first used, so that the command line can answer at once.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from activebdl.candidates import Candidates
    from activebdl.counts import label_counts
    from activebdl.data import ActiveDataset, Labelled, Normalise, dataset, load
    from activebdl.data.augment import Affine, Elastic, Handwriting
    from activebdl.errors import UserError, Waiting
    from activebdl.loop import ActiveLearning
    from activebdl.networks import network
    from activebdl.oracles import ABSTAIN, Annotation, Oracle, Request, oracle
    from activebdl.oracles.crowd import Crowd
    from activebdl.posteriors import posterior
    from activebdl.posteriors.bayes_by_backprop import BayesByBackprop
    from activebdl.posteriors.ensemble import Ensemble
    from activebdl.posteriors.ivon import IVON
    from activebdl.posteriors.laplace import Laplace
    from activebdl.posteriors.map import MAP
    from activebdl.posteriors.mc_dropout import MCDropout
    from activebdl.posteriors.mnf import MNF
    from activebdl.posteriors.swag import SWAG
    from activebdl.predictor import Predictor, load_model
    from activebdl.pretraining import SimCLR
    from activebdl.pseudo_labels import PseudoLabels
    from activebdl.racing import Race
    from activebdl.regression import Moments
    from activebdl.rounds import Round
    from activebdl.shards import Shards
    from activebdl.stopping import AllOf, AnyOf, StoppingRule, stopping_rule
    from activebdl.stopping.limits import CostLimit, LabelLimit, WallTime
    from activebdl.stopping.overall_uncertainty import OverallUncertainty
    from activebdl.stopping.stable_predictions import StablePredictions
    from activebdl.stopping.validation_accuracy import ValidationAccuracy
    from activebdl.strategies import Query, Selection, joint_strategy, resolve, strategy
    from activebdl.targets import Classes, Numbers
    from activebdl.training import Training
    from activebdl.views import Views

__version__ = "0.1.0"

_HOMES = {
    "activebdl.candidates": ("Candidates",),
    "activebdl.counts": ("label_counts",),
    "activebdl.data": ("ActiveDataset", "Labelled", "Normalise", "dataset", "load"),
    "activebdl.data.augment": ("Affine", "Elastic", "Handwriting"),
    "activebdl.errors": ("UserError", "Waiting"),
    "activebdl.loop": ("ActiveLearning",),
    "activebdl.networks": ("network",),
    "activebdl.oracles": ("ABSTAIN", "Annotation", "Oracle", "Request", "oracle"),
    "activebdl.oracles.crowd": ("Crowd",),
    "activebdl.posteriors": ("posterior",),
    "activebdl.posteriors.bayes_by_backprop": ("BayesByBackprop",),
    "activebdl.posteriors.ensemble": ("Ensemble",),
    "activebdl.posteriors.ivon": ("IVON",),
    "activebdl.posteriors.laplace": ("Laplace",),
    "activebdl.posteriors.map": ("MAP",),
    "activebdl.posteriors.mc_dropout": ("MCDropout",),
    "activebdl.posteriors.mnf": ("MNF",),
    "activebdl.posteriors.swag": ("SWAG",),
    "activebdl.pretraining": ("SimCLR",),
    "activebdl.pseudo_labels": ("PseudoLabels",),
    "activebdl.predictor": ("Predictor", "load_model"),
    "activebdl.racing": ("Race",),
    "activebdl.regression": ("Moments",),
    "activebdl.rounds": ("Round",),
    "activebdl.shards": ("Shards",),
    "activebdl.stopping": ("AllOf", "AnyOf", "StoppingRule", "stopping_rule"),
    "activebdl.stopping.limits": ("CostLimit", "LabelLimit", "WallTime"),
    "activebdl.stopping.overall_uncertainty": ("OverallUncertainty",),
    "activebdl.stopping.stable_predictions": ("StablePredictions",),
    "activebdl.stopping.validation_accuracy": ("ValidationAccuracy",),
    "activebdl.strategies": ("Query", "Selection", "joint_strategy", "resolve", "strategy"),
    "activebdl.targets": ("Classes", "Numbers"),
    "activebdl.training": ("Training",),
    "activebdl.views": ("Views",),
}

__all__ = [
    "ABSTAIN", "IVON", "MAP", "MNF", "SWAG", "ActiveDataset", "ActiveLearning", "Affine", "AllOf", "Annotation",
    "AnyOf", "BayesByBackprop", "Candidates", "Classes", "CostLimit", "Crowd", "Elastic", "Ensemble", "Handwriting",
    "LabelLimit", "Labelled", "Laplace", "MCDropout", "Moments", "Normalise", "Numbers", "Oracle", "OverallUncertainty",
    "Predictor", "PseudoLabels", "Query", "Race", "Request", "Round", "Selection", "Shards", "SimCLR",
    "StablePredictions", "StoppingRule", "Training", "UserError", "ValidationAccuracy", "Views", "Waiting", "WallTime",
    "dataset", "joint_strategy", "label_counts", "load", "load_model", "network", "oracle", "posterior", "resolve",
    "stopping_rule", "strategy",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            globals()[name] = getattr(importlib.import_module(home), name)
            return globals()[name]
    try:
        return importlib.import_module(f"activebdl.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"activebdl.{name}":
            raise
    raise AttributeError(f"module 'activebdl' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
