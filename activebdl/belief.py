"""What is believed after one round: the posterior given the labels there were, and what it says of any inputs."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, is_dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from activebdl.data.dataset import ActiveDataset, Labelled, Unlabelled
from activebdl.data.inputs import Inputs
from activebdl.devices import Precision
from activebdl.errors import UserError
from activebdl.evaluation import evaluate
from activebdl.fitted import Fitted
from activebdl.modes import evaluating
from activebdl.pool import Pool
from activebdl.posteriors import Draws, InferenceMethod, Posterior
from activebdl.posteriors._last_layer import LastLayer
from activebdl.predictor import Predictor
from activebdl.pretraining import SimCLR, pretrained
from activebdl.progress import Advance, Progress
from activebdl.randomness import generator, global_rng_kept
from activebdl.regression import Moments
from activebdl.scoring import Scorer, default_chunk, ignore, predictive
from activebdl.shards import Shards
from activebdl.signals import signals
from activebdl.targets import Task
from activebdl.training import Training, check_network
from activebdl.views import Views

PRETRAINING = -2
"""Its round: before that of validation labels, -1, and all that follow."""

EXAMPLES = 3
"""Items of the pool that a `Predictor` shows."""


@dataclass(frozen=True)
class Learner:
    """What learns, the same in every round of a run; its fields are as in `activebdl.ActiveLearning`."""

    dataset: ActiveDataset
    network: Callable[[], nn.Module]
    method: InferenceMethod
    seed: int
    device: torch.device
    chunk: int | None
    progress: Progress
    shards: Shards | None = None
    views: Views | None = None
    pretraining: SimCLR | None = None

    @cached_property
    def example(self) -> Tensor:
        """The first item twice, as the network reads it, on the device."""
        return self.dataset.normalise(self.dataset.pool[torch.tensor([0, 0])].to(self.device))

    @property
    def method_label(self) -> str:
        """The inference method with its hyperparameters, where it tells them."""
        return repr(self.method) if is_dataclass(self.method) else type(self.method).__name__

    @cached_property
    def fresh(self) -> Callable[[], nn.Module]:
        """Makes the network that a fit begins with; the first time, pretrain."""
        if self.pretraining is None:
            return self._made
        with self.progress("pretrain", self.pretraining.steps) as advance:
            rng = generator(self.seed, PRETRAINING, "pretrain")
            return pretrained(
                self._made,
                self.dataset,
                self.pretraining,
                self.device,
                seed=self.seed,
                generator=rng,
                advance=advance,
            )

    @cached_property
    def embed(self) -> Callable[[Tensor], Tensor] | None:
        """Features ``[B, D]`` of normalised inputs, on the CPU, before there is a label; None without pretraining."""
        if self.pretraining is None:
            return None
        with global_rng_kept(self.device):
            module = self.fresh().to(self.device).eval()
        head = LastLayer.of(module, self.example)
        most = self.chunk or default_chunk(self.device)
        return lambda x: torch.cat([head.features(some.to(self.device)).float().cpu() for some in x.split(most)])

    def check(self) -> nn.Module:
        """A fresh network, after it was tried on two items.

        Raises:
            UserError: The network cannot read the items or cannot tell such labels, or the method cannot treat it.
        """
        target = self.dataset.target
        module = check_network(self._made, self.example, target.width)
        check_method = getattr(self.method, "check", None)
        if check_method is not None:
            check_method(module, self.example)
        likelihood = target.task(torch.zeros(1)).likelihood
        check_likelihood = getattr(self.method, "check_likelihood", None)
        if check_likelihood is not None:
            check_likelihood(likelihood)
        training = getattr(self.method, "training", None)
        if isinstance(training, Training):
            training.check(module, likelihood)
        if self.pretraining is not None:
            LastLayer.of(module, self.example)
        self._check_augmentations(training)
        if self.views is not None:
            self.views.check(self.example)
        return module

    def _made(self) -> nn.Module:
        """A fresh network, whose lazy layers know their sizes."""
        module = self.network()
        if any(isinstance(parameter, nn.UninitializedParameter) for parameter in module.parameters()):
            with torch.no_grad(), evaluating(module.to(self.device)):
                module(self.example)
        return module

    def _check_augmentations(self, training: object) -> None:
        """Tries them on two items."""
        pseudo_labels = getattr(training, "pseudo_labels", None)
        whose = {"training": training, "pseudo_labels": pseudo_labels, "pretraining": self.pretraining}
        for name, what in whose.items():
            augmentation = getattr(what, "augmentation", None)
            if augmentation is not None:
                x = self.dataset.pool[torch.tensor([0, 0])].to(self.device).float()
                try:
                    augmentation(x, torch.Generator().manual_seed(0))
                except UserError as error:
                    raise UserError(f"The augmentation of {name} does not suit the data set: {error}") from error


class Belief:
    """What is believed after one round; the posterior is fitted when it is first needed.

    Args:
        learner: What learns.
        round: Which round; randomness goes by it.
        pool: With the labels of that round. It goes on; the belief stays.
    """

    def __init__(self, learner: Learner, round: int, pool: Pool) -> None:
        self.learner, self.round, self.pool = learner, round, pool
        self.ids, self.labels, self.unlabelled = pool.labelled, pool.labels, pool.unlabelled
        self.n_labels = pool.n_labels
        self.fit_seconds = 0.0

    @cached_property
    def task(self) -> Task:
        """What a network is to learn of the labels."""
        return self.learner.dataset.target.task(self.labels)

    @cached_property
    def posterior(self) -> Posterior:
        """fit, on a fresh network."""
        learner = self.learner
        fresh = learner.fresh
        begin = time.perf_counter()
        inputs, labels = learner.dataset.pool[self.ids].to(learner.device), self.task.labels.to(learner.device)
        rest = Unlabelled(learner.dataset.pool, self.unlabelled)
        labelled = Labelled(inputs, labels, self.task.likelihood, learner.dataset.normalise, rest)
        rng = generator(learner.seed, self.round, "fit")
        with learner.progress("fit", learner.method.steps(len(labelled))) as advance:
            try:
                posterior = learner.method.fit(fresh, labelled, generator=rng, on_step=lambda: advance(1))
            except UserError as error:
                raise UserError(f"{type(learner.method).__name__}, {len(labelled)} labels: {error}") from error
        self.fit_seconds = time.perf_counter() - begin
        return posterior

    @cached_property
    def fitted(self) -> Fitted:
        """What it takes to look at items, wherever they are looked at."""
        learner, kind = self.learner, self.learner.dataset.target.kind
        return Fitted(
            self.posterior, self.task.predict, kind, learner.dataset.normalise, learner.example,
            learner.seed, self.round, learner.chunk, learner.views,
        )  # fmt: skip

    def draw(self, k: int, purpose: str) -> Draws:
        """draw: K functions from the posterior."""
        return self.fitted.draw(k, purpose)

    def scorer(self, k: int, purpose: str, advance: Advance, *, precision: Precision = "float32") -> Scorer:
        """K draws, ready to look at the pool, in shards where the run has some."""
        learner, pool = self.learner, self.learner.dataset.pool
        scorer = self.fitted.scorer(self.draw(k, purpose), pool, learner.device, advance, precision=precision)
        if learner.shards is None:
            return scorer
        return replace(scorer, elsewhere=learner.shards.sight(self.fitted, pool, k, purpose, precision))

    def predictor(self, test_draws: int) -> Predictor:
        """What is believed, to be used on its own; it predicts as `evaluate` does."""
        learner, dataset = self.learner, self.learner.dataset
        example = dataset.pool[torch.arange(min(len(dataset.pool), EXAMPLES))].clone()
        return Predictor(self.fitted, test_draws, self.n_labels, dataset.target, example, learner.device)

    def predict(self, ids: Tensor, draws: int) -> Tensor:
        """What is predicted of items, for people: probabilities ``[n, C]``, or mean and deviation ``[n, 2]``."""
        scorer = self.scorer(draws, "ask", ignore)
        if self.learner.dataset.target.kind == "classes":
            return scorer.reduce(ids, lambda log_probs: predictive(log_probs).exp())
        return scorer.reduce(ids, _mean_and_deviation)

    def _scorer(self, draws: Draws, inputs: Inputs, advance: Advance, called: str = "item") -> Scorer:
        return self.fitted.scorer(draws, inputs, self.learner.device, advance, called=called)

    def evaluate(self, test_draws: int, watched: Tensor, before: Sequence[int] | None) -> dict[str, Any]:
        """How good the predictions on the test set are, as `Round` has it, and what stopping rules go by.

        Args:
            test_draws: Draws of the posterior that the test set, validation items and the stop set are predicted with.
            watched: Ids of the stop set.
            before: The classes that the last round's posterior predicted on the stop set.
        """
        dataset, progress = self.learner.dataset, self.learner.progress
        draws = self.draw(test_draws, "test")
        begin = time.perf_counter()
        with progress("test", len(dataset.test)) as advance:
            results = evaluate(self._scorer(draws, dataset.test, advance, "test item"), dataset)
        with progress("watch", len(self.pool.validation) + len(watched)) as advance:
            results |= signals(self._scorer(draws, dataset.pool, advance), self.pool, watched, before)
        return results | {
            "diagnostics": dict(getattr(self.posterior, "diagnostics", {})),
            "seconds": {"fit": self.fit_seconds, "evaluate": time.perf_counter() - begin},
        }


def _mean_and_deviation(predictions: Tensor) -> Tensor:
    moments = Moments.of(predictions)
    return torch.stack([moments.predicted, moments.total.sqrt()], dim=1)
