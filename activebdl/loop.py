"""The cycle: fit -> draw -> score -> select -> ask -> record, again and again.

    cycle = ActiveLearning(dataset, network, counts=label_counts(20, 1000, 20))
    for round in cycle:
        print(round.n_labels, round.metrics["accuracy"])

Round r ends with ``counts[r]`` labels and a posterior fitted to them. The items of round 0 are chosen by the start,
those of round r + 1 by the strategy and the posterior of round r. What the journal knows is not done again, so the
same lines start a run and resume it.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from activebdl.counts import check_counts
from activebdl.data.dataset import ActiveDataset, Inputs, Labelled
from activebdl.devices import choose_device
from activebdl.errors import UserError
from activebdl.evaluation import evaluate
from activebdl.journal import Asked, Journal
from activebdl.oracles import Annotation, Request, make_oracle, sort_annotations
from activebdl.pool import Pool
from activebdl.posteriors import Draws, InferenceMethod, Posterior
from activebdl.posteriors._last_layer import feature_reader
from activebdl.posteriors.mc_dropout import MCDropout
from activebdl.progress import Advance, Progress, silent
from activebdl.randomness import generator, some_of
from activebdl.scoring import Scorer, check_score
from activebdl.strategies import Query, ScoreFunction, Selection, Strategy, resolve, strategy_names
from activebdl.strategies._start import make_start
from activebdl.targets import Task
from activebdl.training import check_network

_ONCE: dict[str, object] = {"candidates": None}  # what an older journal does not name, and what it was
_LONGEST_PAUSE = 2.0  # seconds between two looks at an oracle that is still answering


@dataclass(frozen=True)
class Round:
    """What one round brought.

    Args:
        number: From 0.
        n_labels: Labels known at its end.
        ids: The items labelled in this round, in the order in which they were asked for.
        labels: Theirs.
        scores: Theirs; None where the strategy has none.
        metrics: On the test set: accuracy, nll, ece and brier of classes; rmse, nll and coverages of numbers.
        diagnostics: What the inference method tells of its fit, e.g. "nll" and "kl" in nats; often empty.
        seconds: What "select", "ask", "fit" and "evaluate" took.
        confusion: Counts ``[C true][C predicted]`` on the test set; empty for numbers.
        reliability: Lower edge, mean confidence, accuracy and count of each bin on the test set; empty for numbers.
        written_ms: When it was recorded, in milliseconds since 1970; the same after a resume.
    """

    number: int
    n_labels: int
    ids: tuple[int, ...]
    labels: tuple[int | float, ...]
    scores: tuple[float | None, ...]
    metrics: dict[str, float]
    diagnostics: dict[str, float]
    seconds: dict[str, float]
    confusion: list[list[int]]
    reliability: dict[str, list[float]]
    written_ms: int


class ActiveLearning:
    """One run of the cycle; iterating over it runs it, and yields a `Round` at a time.

    Args:
        dataset: The pool, and the test set that touches no choice.
        network: Makes a fresh ``nn.Module`` that maps ``[B, ...]`` to logits ``[B, C]``; or, for numbers, to mean and
            log variance ``[B, 2]``, see `activebdl.targets`.
        counts: Labels at the end of each round, ascending; see `label_counts`.
        posterior: The inference method.
        strategy: A name such as "bald" or "power_bald", a score function of log_probs or moments, or a `Strategy`.
        oracle: A name, a function of items that returns labels, or an object with submit and poll.
        start: How the first items are chosen: "balanced", or a strategy that needs no model, such as "random".
        draws: K, draws of the posterior that the strategy sees.
        test_draws: Draws of the posterior that the test set is predicted with.
        candidates: Unlabelled items that the strategy sees in a round, chosen at random anew each time; None for all.
        seed: The source of all randomness.
        device: "auto", "cpu", "cuda", "mps", ...
        chunk: Items at a time while scoring; None takes what suits the device.
        journal: The file that keeps the run; when it is there, the run goes on where it stopped. None keeps nothing.
        progress: Shows progress bars; see `activebdl.progress`.

    Raises:
        UserError: Anything above that cannot work, before any work is done.
    """

    def __init__(
        self,
        dataset: ActiveDataset,
        network: Callable[[], nn.Module],
        *,
        counts: Sequence[int],
        posterior: InferenceMethod | None = None,
        strategy: str | Strategy | ScoreFunction = "bald",
        oracle: object = "dataset",
        start: str = "random",
        draws: int = 20,
        test_draws: int = 50,
        candidates: int | None = None,
        seed: int = 0,
        device: str | torch.device = "auto",
        chunk: int | None = None,
        journal: str | Path | None = None,
        progress: Progress = silent,
    ) -> None:
        self.dataset = dataset
        self.network = network
        self.counts = tuple(int(count) for count in counts)
        self.method: InferenceMethod = MCDropout() if posterior is None else posterior
        self.strategy = resolve(strategy)
        self.oracle = make_oracle(oracle, dataset)
        self.starter = make_start(start, dataset)
        self.draws, self.test_draws, self.candidates, self.seed = draws, test_draws, candidates, seed
        self.device = choose_device(str(device))
        self.chunk = chunk
        self.journal = None if journal is None else Path(journal)
        self.progress = progress
        self._check()

    def __iter__(self) -> Iterator[Round]:
        """Runs the cycle, or what is left of it, and keeps it in the journal's file."""
        with Journal(self.journal) as journal:
            yield from self.run(journal)

    def run(self, journal: Journal) -> Iterator[Round]:
        """Runs the cycle, or what is left of it, with a journal that is open."""
        self._claim(journal)
        pool = Pool(len(self.dataset.pool), self.dataset.target)
        belief = Belief(self, -1, pool)
        for round, n_labels in enumerate(self.counts):
            seconds: dict[str, float] = {"select": 0.0, "ask": 0.0}
            new: list[tuple[Annotation, float | None]] = []
            for attempt in itertools.count():  # a second one only where the oracle abstained
                missing = n_labels - len(pool.labelled)
                if missing == 0:
                    break
                asked = journal.request(round, attempt) or self._select(journal, belief, round, attempt, missing)
                answers = self._ask(journal, pool, round, attempt, asked)
                new += [(answers[id], score) for id, score in zip(asked.ids, asked.scores, strict=True)]
                seconds["select"] += asked.seconds
                seconds["ask"] += sum(answer.seconds for answer in answers.values())
            belief = Belief(self, round, pool)
            yield self._record(journal, belief, [(a, s) for a, s in new if a.label is not None], seconds)

    def _select(self, journal: Journal, belief: "Belief", round: int, attempt: int, quantity: int) -> Asked:
        """Draw -> score -> select, and the request is in the journal before anyone is asked."""
        pool = belief.pool
        if quantity > len(pool.unlabelled):
            raise UserError(
                f"The pool is used up: the oracle would not label {len(pool.set_aside)} items, and only "
                f"{len(pool.unlabelled)} are left where {quantity} are wanted."
            )
        strategy = self.starter if round == 0 else self.strategy
        again = f" again {attempt}" if attempt else ""
        unlabelled = pool.unlabelled
        if strategy.needs_model and self.candidates is not None:
            rng = generator(self.seed, round, "candidates" + again)
            unlabelled = some_of(unlabelled, max(self.candidates, quantity), rng)
        draws = belief.draw(self.draws, "score") if strategy.needs_model else None
        begin = time.perf_counter()
        with self.progress("score", 0 if draws is None else len(unlabelled)) as advance:
            scorer = None if draws is None else belief.scorer(draws, self.dataset.pool, advance)
            rng = generator(self.seed, round, "select" + again)
            data = self.dataset
            query = Query(unlabelled, pool.labelled, quantity, rng, scorer, data.pool, data.normalise, data.costs)
            selection = strategy.select(query)
        asked = Asked(tuple(selection.ids.tolist()), _scores(selection), time.perf_counter() - begin)
        journal.write_request(round, attempt, asked)
        return asked

    def _ask(self, journal: Journal, pool: Pool, round: int, attempt: int, asked: Asked) -> dict[int, Annotation]:
        """ask: every answer is in the journal before the pool learns it."""
        answers = journal.annotations(round, attempt)
        missing = tuple(id for id in asked.ids if id not in answers)
        if missing:
            items = self.dataset.pool[torch.tensor(missing)]
            request = Request(f"round-{round}-attempt-{attempt}", missing, items, self.dataset.target)
            ticket = self.oracle.submit(request)
            pause = 0.0
            while len(answers) < len(asked.ids):
                time.sleep(pause)
                pause = min(2 * pause + 0.01, _LONGEST_PAUSE)
                good, mistake = sort_annotations(self.oracle.poll(ticket), asked.ids, self.dataset.target)
                journal.write_annotations(good)
                if mistake:
                    raise UserError(f"{mistake} {len(good)} good answers of this batch are kept; mend it and go on.")
                answers = journal.annotations(round, attempt)
        pool.ask(asked.ids)
        for id in asked.ids:
            pool.answer(id, answers[id].label)
        return answers

    def _record(
        self,
        journal: Journal,
        belief: "Belief",
        new: list[tuple[Annotation, float | None]],
        seconds: dict[str, float],
    ) -> Round:
        """Fit -> draw -> evaluate -> record, unless the journal has the round already."""
        record = journal.round(belief.round)
        if record is None:
            results = belief.evaluate()
            results["seconds"] = seconds | results["seconds"]
            record = journal.write_round(belief.round, len(belief.ids), results)
        return Round(
            number=belief.round,
            n_labels=record.n_labels,
            ids=tuple(annotation.id for annotation, _ in new),
            labels=tuple(annotation.label for annotation, _ in new if annotation.label is not None),
            scores=tuple(score for _, score in new),
            written_ms=record.written_ms,
            **record.results,
        )

    def _check(self) -> None:
        check_counts(self.counts, len(self.dataset.pool))
        if self.draws < 1 or self.test_draws < 1:
            raise UserError("The posterior must be drawn from at least once: draws and test_draws are 1 or more.")
        if self.candidates is not None and self.candidates < 1:
            raise UserError(f"A strategy must see at least 1 of the candidates, not {self.candidates}.")
        kind = self.dataset.target.kind
        if self.strategy.target not in (kind, "any"):
            raise UserError(
                f"'{self.strategy.name}' is for {self.strategy.target}, and the labels of '{self.dataset.name}' are "
                f"{kind}; take one of {', '.join(strategy_names(kind))} (a score of numbers takes 'moments')."
            )
        if self.strategy.needs_costs and self.dataset.costs is None:
            raise UserError(
                f"'{self.strategy.name}' divides by what the label of an item costs, and the data set "
                f"'{self.dataset.name}' has no costs; give it costs=, or take the score without 'per_cost_'."
            )
        if self.strategy.needs_disagreement and self.draws < 2:
            raise UserError(
                f"'{self.strategy.name}' measures how much draws of the posterior disagree, so it needs at least 2, "
                f"and draws is {self.draws}; 20 or more are usual."
            )
        if self.strategy.needs_disagreement and getattr(self.method, "draws_agree", False):
            others = [name for name in strategy_names(kind, forms=False) if not resolve(name).needs_disagreement]
            raise UserError(
                f"'{self.strategy.name}' measures how much draws of the posterior disagree, and those of "
                f"{type(self.method).__name__} never do: take another posterior, such as mc_dropout, or one of "
                f"{', '.join(others)}."
            )

        # The network and the score are tried on two items, so that no label is paid for before they are known to work.
        module = check_network(self.network, self.example, self.dataset.target.width)
        check_method = getattr(self.method, "check", None)
        if check_method is not None:
            check_method(module, self.example)
        check_likelihood = getattr(self.method, "check_likelihood", None)
        if check_likelihood is not None:
            check_likelihood(self.dataset.target.task(torch.zeros(1)).likelihood)
        if self.strategy.score is not None:
            check_score(self.strategy.scores, self.dataset.target.example(2, self.draws))
        self._architecture = str(module)

    @cached_property
    def example(self) -> Tensor:
        """The first item twice, as the network reads it, on the device."""
        return self.dataset.normalise(self.dataset.pool[torch.tensor([0, 0])].to(self.device))

    def _claim(self, journal: Journal) -> None:
        """Makes the journal this run's; refuses one that holds another."""
        identity = {
            "dataset": self.dataset.name,
            "pool size": len(self.dataset.pool),
            "classes": list(self.dataset.classes),
            "target": repr(self.dataset.target),
            "network": self._architecture,
            "posterior": repr(self.method) if is_dataclass(self.method) else type(self.method).__name__,
            "strategy": self.strategy.label,
            "start": self.starter.name,
            "counts": list(self.counts),
            "draws": self.draws,
            "test_draws": self.test_draws,
            "candidates": self.candidates,
            "seed": self.seed,
        }
        known = journal.about("identity")
        if known is None:
            journal.note("identity", identity)
            return
        for key, value in identity.items():
            was = known.get(key, _ONCE.get(key, value))
            if was != value:
                raise UserError(
                    f"The journal is of another run: its {key} is {was}, not {value}. "
                    "Give this run a journal of its own."
                )


class Belief:
    """What is believed after one round: the posterior given the labels there were, fitted when it is first needed."""

    def __init__(self, cycle: ActiveLearning, round: int, pool: Pool) -> None:
        self.cycle, self.round, self.pool = cycle, round, pool
        self.ids, self.labels = pool.labelled, pool.labels  # as they are now; the pool goes on
        self.fit_seconds = 0.0

    @cached_property
    def task(self) -> Task:
        """What a network is to learn of the labels."""
        return self.cycle.dataset.target.task(self.labels)

    @cached_property
    def posterior(self) -> Posterior:
        """fit, on a fresh network."""
        cycle = self.cycle
        begin = time.perf_counter()
        inputs, labels = cycle.dataset.pool[self.ids].to(cycle.device), self.task.labels.to(cycle.device)
        labelled = Labelled(inputs, labels, self.task.likelihood, cycle.dataset.normalise)
        rng = generator(cycle.seed, self.round, "fit")
        with cycle.progress("fit", cycle.method.steps(len(labelled))) as advance:
            try:
                posterior = cycle.method.fit(cycle.network, labelled, generator=rng, on_step=lambda: advance(1))
            except UserError as error:
                raise UserError(f"{type(cycle.method).__name__}, {len(labelled)} labels: {error}") from error
        self.fit_seconds = time.perf_counter() - begin
        return posterior

    @cached_property
    def read_features(self) -> Callable[[Tensor], Tensor]:
        """What the last layer of the trained network reads; found when it is first needed."""
        return feature_reader(self.posterior, self.cycle.example)

    def draw(self, k: int, purpose: str) -> Draws:
        """draw: K functions from the posterior."""
        return self.posterior.draw(k, generator=generator(self.cycle.seed, self.round, purpose))

    def scorer(self, draws: Draws, inputs: Inputs, advance: Advance, called: str = "item") -> Scorer:
        """The draws, ready to look at the inputs."""
        cycle = self.cycle
        return Scorer(
            draws, inputs, cycle.dataset.normalise, cycle.device, cycle.chunk, advance,
            self.task.predict, lambda x: self.read_features(x), cycle.dataset.target.kind, called,
        )  # fmt: skip

    def evaluate(self) -> dict[str, Any]:
        """How good the predictions on the test set are, as `Round` has it."""
        dataset = self.cycle.dataset
        draws = self.draw(self.cycle.test_draws, "test")
        begin = time.perf_counter()
        with self.cycle.progress("test", len(dataset.test)) as advance:
            results = evaluate(self.scorer(draws, dataset.test, advance, "test item"), dataset)
        return results | {
            "diagnostics": dict(getattr(self.posterior, "diagnostics", {})),
            "seconds": {"fit": self.fit_seconds, "evaluate": time.perf_counter() - begin},
        }


def _scores(selection: Selection) -> tuple[float | None, ...]:
    if selection.scores is None:
        return (None,) * len(selection.ids)
    return tuple(float(score) for score in selection.scores)
