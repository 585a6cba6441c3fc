"""The cycle: fit -> draw -> score -> select -> ask -> record, again and again.

    cycle = ActiveLearning(dataset, network, counts=label_counts(20, 1000, 20))
    for round in cycle:
        print(round.n_labels, round.metrics["accuracy"])

Round r ends with ``counts[r]`` labels and a posterior fitted to them. The items of round 0 are chosen by the start,
those of round r + 1 by the strategy and the posterior of round r. What the journal knows is not done again, so the
same lines start a run and resume it. A stopping rule, asked after each round, may end it before the last count.
"""

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from activebdl.arguments import check_kinds, whole
from activebdl.asking import VALIDATION, Asking
from activebdl.belief import Belief, Learner
from activebdl.candidates import Candidates
from activebdl.counts import check_counts
from activebdl.data.dataset import ActiveDataset
from activebdl.devices import choose_device
from activebdl.errors import UserError
from activebdl.identity import claim, traits
from activebdl.journal import Asked, Journal
from activebdl.journal_reading import RoundRecord
from activebdl.oracles import Annotation, make_oracle
from activebdl.oracles.function import FunctionOracle
from activebdl.pool import Pool
from activebdl.posteriors import InferenceMethod
from activebdl.posteriors._last_layer import check_features
from activebdl.posteriors.mc_dropout import MCDropout
from activebdl.predictor import Predictor
from activebdl.pretraining import SimCLR
from activebdl.progress import Progress, silent, together
from activebdl.racing import Heat, Race, make_race
from activebdl.randomness import generator
from activebdl.rounds import Round
from activebdl.scoring import checked_scores
from activebdl.shards import Shards
from activebdl.signals import draw_stop_set
from activebdl.stopping import StoppingRule, make_stop, why
from activebdl.stopping._trial import check_stop
from activebdl.strategies import Query, ScoreFunction, Strategy, resolve
from activebdl.strategies._start import make_start
from activebdl.strategies._trial import check_strategy
from activebdl.views import Views


class ActiveLearning:
    """One run of the cycle; iterating over it runs it, and yields a `Round` at a time.

    Args:
        dataset: The pool, and the test set that touches no choice.
        network: Makes a fresh ``nn.Module`` that maps ``[B, ...]`` to logits ``[B, C]``; or, for numbers, to mean and
            log variance ``[B, 2]``, see `activebdl.targets`.
        counts: Labels at the end of each round, ascending, those of validation items included; see `label_counts`.
        posterior: The inference method.
        strategy: A name such as "bald" or "power_bald", a score function of log_probs or moments, or a `Strategy`.
        oracle: A name, a function of items that returns labels, or an object with submit and poll.
        time_limit: Seconds that the oracle may go without a new answer before the run stops, to be resumed; None for
            ever.
        max_cost: What all annotations together may cost; None for whatever they cost. No item is asked for that could
            cost more than is left, and the run ends when none can be paid.
        start: How the first items are chosen: "balanced", or a strategy that needs no model, or the name of one, such
            as "random".
        draws: K, draws of the posterior that the strategy sees.
        test_draws: Draws of the posterior that the test set, validation items and the stop set are predicted with.
        scoring: "full", where all K draws see every item; "race", where most see those alone that are ahead; or a
            `Race`. It is for scores: joint strategies look at all draws.
        candidates: Which unlabelled items the strategy sees in a round: a number of them at random, or `Candidates`;
            None for all.
        stop: A rule that may end the run before the last count, or several of which any may; see `activebdl.stopping`.
        validation: Labels, of items drawn at random before the first round, that no network is trained on; each round
            tells how good it is on them.
        stop_set: Items of the pool that rules look at without their labels, where one does.
        seed: The source of all randomness.
        device: "auto", "cpu", "cuda", "mps", ...
        chunk: Items at a time while scoring; None takes what suits the device.
        shards: How many processes of Ray look at the pool in place of this one, or `Shards`, which may be on many
            machines; scores are the same. None for none.
        views: Test-time augmentation: from how many views an item is looked at where it is predicted, or `Views`, by
            which strategies may look so too; None for the item as it is alone.
        pretraining: How features are learned from the pool before the first label, with which every fit then begins,
            and by which strategies without a model tell items from each other: `SimCLR`, or true for one by default;
            None for networks with random weights.
        journal: The file that keeps the run; when it is there, the run goes on where it stopped, also to further counts
            behind those that it had. None keeps nothing.
        progress: Shows progress bars; see `activebdl.progress`.

    Raises:
        UserError: Anything above that cannot work, before any work is done. What a joint strategy of one's own returns
            is seen when it first chooses.
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
        time_limit: float | None = None,
        max_cost: float | None = None,
        start: str | Strategy = "random",
        draws: int = 20,
        test_draws: int = 50,
        scoring: str | Race = "full",
        candidates: int | Candidates | None = None,
        stop: StoppingRule | Sequence[StoppingRule] | None = None,
        validation: int = 0,
        stop_set: int = 2000,
        seed: int = 0,
        device: str | torch.device = "auto",
        chunk: int | None = None,
        shards: int | Shards | None = None,
        views: int | Views | None = None,
        pretraining: SimCLR | bool | None = None,
        journal: str | Path | None = None,
        progress: Progress = silent,
    ) -> None:
        method: InferenceMethod = MCDropout() if posterior is None else posterior
        check_kinds(dataset, network, method, start)
        seed, chunk = whole("seed", seed, 0), None if chunk is None else whole("chunk", chunk)
        self.dataset = dataset
        self.counts = tuple(int(count) for count in counts)
        self.device = choose_device(str(device))
        self.journal = None if journal is None else Path(journal)
        folder = None if self.journal is None else self.journal.parent
        self.oracle = make_oracle(oracle, dataset, seed=seed, folder=folder)
        watches = getattr(self.oracle, "progress", None)
        self.progress = progress if watches is None else together(progress, watches)
        self.shards = Shards(shards) if isinstance(shards, int) else shards
        self.views = Views.of(views)
        self.learner = Learner(
            dataset, network, method, seed, self.device, chunk, self.progress, self.shards, self.views,
            SimCLR.of(pretraining),
        )  # fmt: skip
        self.strategy = resolve(strategy)
        self.starter = make_start(start, dataset)
        self.draws, self.test_draws, self.seed = whole("draws", draws), whole("test_draws", test_draws), seed
        self.race = make_race(scoring)
        self.candidates = candidates if isinstance(candidates, Candidates) else Candidates(random=candidates)
        self.stop = make_stop(stop)
        self.validation, self.stop_set = whole("validation", validation, 0), whole("stop_set", stop_set)
        self._check()
        self.asking = Asking(dataset, self.oracle, self.counts[-1], time_limit, max_cost)
        self.belief: Belief | None = None  # after the last round that was run

    def __iter__(self) -> Iterator[Round]:
        """Runs the cycle, or what is left of it, and keeps it in the journal's file."""
        with Journal(self.journal) as journal:
            yield from self.run(journal)

    def run(self, journal: Journal) -> Iterator[Round]:
        """Runs the cycle, or what is left of it, with a journal that is open."""
        self._claim(journal)
        pool = Pool(len(self.dataset.pool), self.dataset.target)
        belief = Belief(self.learner, VALIDATION, pool)
        rounds: list[Round] = []
        seconds = {"select": 0.0, "ask": 0.0}
        with self.asking.to_the_end(), self.shards or contextlib.nullcontext():
            self._collect(journal, belief, VALIDATION, self.validation, seconds)  # its time is the first round's
            for round in itertools.count():
                last = rounds[-1].n_labels if rounds else 0  # less than was wanted, where money or items were short
                n_labels = next(count for count in self.counts if count > last)
                new = self._collect(journal, belief, round, n_labels, seconds)
                if not new:  # the last of the budget in cost, or of the pool, went for abstentions
                    journal.note("ended", self.asking.why_no_more(journal, pool))
                    break
                belief = self.belief = Belief(self.learner, round, pool)
                rounds.append(self._record(journal, rounds, belief, new, seconds))
                self.asking.tell(rounds[-1])
                yield rounds[-1]
                if rounds[-1].stopped is not None or rounds[-1].n_labels >= self.counts[-1]:
                    break
                seconds = dict.fromkeys(seconds, 0.0)

    def predictor(self) -> Predictor:
        """What the last round's posterior says of any items, as it said it of the test set.

        Raises:
            UserError: No round was run yet.
        """
        if self.belief is None:
            raise UserError("There is nothing to predict with before the first round; iterate over the cycle first.")
        return self.belief.predictor(self.test_draws)

    def _collect(
        self, journal: Journal, belief: Belief, round: int, n_labels: int, seconds: dict[str, float]
    ) -> list[tuple[Annotation, float | None]]:
        """Select -> ask, until there are so many labels: the new ones and their scores. Adds up the seconds it took."""
        scores: dict[int, float | None] = {}
        answers: dict[int, Annotation] = {}
        for attempt in itertools.count():  # a second one only where the oracle abstained, or took a label back
            missing = n_labels - belief.pool.n_labels
            if missing <= 0:
                break
            asked = journal.request(round, attempt)
            if asked is None and journal.round(round) is None:  # else it has ended, with less money than today's
                asked = self._select(journal, belief, round, attempt, missing)
            if asked is None:
                break
            scores |= zip(asked.ids, asked.scores, strict=True)
            answers |= self.asking.ask(journal, belief.pool, round, attempt, asked)
            seconds["select"] += asked.seconds
            seconds["ask"] += sum(answers[id].seconds for id in asked.ids)
        if belief.pool.n_labels < n_labels and (round == VALIDATION or len(belief.pool.labelled) == 0):
            raise UserError(f"There is no label to train on: {self.asking.why_no_more(journal, belief.pool)}.")
        return [(answers[id], score) for id, score in scores.items() if answers[id].label is not None]

    def _select(self, journal: Journal, belief: Belief, round: int, attempt: int, quantity: int) -> Asked | None:
        """Draw -> score -> select, and the request is in the journal before anyone is asked; None when nothing is left.

        Only a budget in cost may leave nothing, or an oracle that would not label the last items of the pool.
        """
        pool = belief.pool
        affordable = self.asking.affordable(journal, pool)
        quantity = min(quantity, len(affordable))
        if quantity == 0:
            return None
        begin = time.perf_counter()
        _ = self.learner.fresh  # pretrain, before the first label is asked for
        strategy = {VALIDATION: resolve("random"), 0: self.starter}.get(round, self.strategy)
        again = f" again {attempt}" if attempt else ""
        data = self.dataset
        rng = generator(self.seed, round, "candidates" + again)
        query = Query(
            affordable, pool.labelled, quantity, rng, None,
            data.pool, data.normalise, data.costs, data.target_inputs, pool.unlabelled,
            self.learner.embed if "items" in strategy.needs else None,
        )  # fmt: skip
        spent = time.perf_counter() - begin
        if strategy.needs_model:  # fit, where the last round's results were in the journal already
            _ = belief.posterior
        begin = time.perf_counter()
        if strategy.needs_model:
            query = self._prefiltered(query, belief)
        heats = self.race.before(self.draws) if strategy.score is not None else ()
        looks = len(query.unlabelled) * (1 + sum(share for _, share in heats)) if strategy.needs_model else 0
        with self.progress("score", math.ceil(looks)) as advance:
            scorer = belief.scorer(self.draws, "score", advance) if strategy.needs_model else None
            racing = tuple(
                Heat(belief.scorer(k, "score", advance, precision=self.race.precision), share) for k, share in heats
            )
            rng = generator(self.seed, max(round, 0), ("validation" if round == VALIDATION else "select") + again)
            selection = strategy.select(replace(query, generator=rng, scorer=scorer, heats=racing))
        kept = self.asking.as_far_as_it_goes(journal, selection.ids)
        ids, scores = selection.ids[kept], None if selection.scores is None else selection.scores[kept].tolist()
        predictions = None
        if getattr(self.oracle, "shows_predictions", False) and belief.round >= 0:
            predictions = tuple(tuple(row) for row in belief.predict(ids, self.test_draws).tolist())
        asked = Asked(
            tuple(ids.tolist()),
            (None,) * len(ids) if scores is None else tuple(scores),
            spent + time.perf_counter() - begin,
            selection.samples,
            predictions,
        )
        journal.write_request(round, attempt, asked)
        return asked

    def _prefiltered(self, query: Query, belief: Belief) -> Query:
        """The query with those candidates alone that the strategy is to see."""
        query = replace(query, unlabelled=self.candidates.some(query))
        if self.candidates.top is None or len(query.unlabelled) <= self.candidates.top:
            return query
        with self.progress("prefilter", len(query.unlabelled)) as advance:
            scorer = belief.scorer(self.candidates.draws, "candidates", advance)
            return replace(query, unlabelled=self.candidates.best(replace(query, scorer=scorer)))

    def _record(
        self,
        journal: Journal,
        rounds: list[Round],
        belief: Belief,
        new: list[tuple[Annotation, float | None]],
        seconds: dict[str, float],
    ) -> Round:
        """Fit -> draw -> evaluate -> record, and whether to stop, unless the journal has the round already."""
        record = journal.round(belief.round)
        if record is None:
            last = journal.round(belief.round - 1)
            before = None if last is None else last.results.get("predicted")
            results = belief.evaluate(self.test_draws, self.watched, before)
            results["seconds"] = seconds | results["seconds"]
            results["cost"] = journal.cost(belief.round)
            results["samples"] = journal.samples(belief.round)
            if journal.about("ended") is not None:  # with a smaller budget in cost than today's
                journal.note("ended", None)
            if self.stop is not None:
                now = Round.of(belief.round, new, RoundRecord(belief.n_labels, results, 0))
                results["stopped"] = why(self.stop, [*rounds, now])
            if results.get("stopped") is None and belief.n_labels < self.counts[-1]:
                results["stopped"] = self.asking.why_no_more(journal, belief.pool)
            record = journal.write_round(belief.round, belief.n_labels, results)
        elif self.asking.can_pay_again(record.results.get("stopped"), journal, belief.pool):
            record = journal.reopen(belief.round)
        if "cost" not in record.results:  # an older journal
            record = replace(record, results={**record.results, "cost": journal.cost(belief.round)})
        return Round.of(belief.round, new, record)

    def _check(self) -> None:
        check_counts(self.counts, len(self.dataset.pool), self.validation)
        choosing = [(self.strategy, self.draws)]
        if self.candidates.score is not None:
            choosing.append((self.candidates.score, self.candidates.draws))
        if self.strategy.score is not None:
            choosing += [(self.strategy, draws) for draws, _ in self.race.before(self.draws)]
        views = self.views.count if self.views is not None and self.views.scoring else 1
        for strategy, draws in choosing:
            check_strategy(strategy, self.dataset, self.learner.method, draws, views=views)
        if self.stop is not None:
            costless = isinstance(self.oracle, FunctionOracle) and self.oracle.costs is None
            check_stop(self.stop, kind=self.dataset.target.kind, validation=self.validation, costless=costless)

        # The network and the scores are tried on two items, so that no label is paid for before they are known to work.
        module = self.learner.check()
        if "features" in self.strategy.needs:
            try:
                check_features(self.learner.method, module, self.learner.example)
            except UserError as error:
                raise UserError(f"'{self.strategy.name}' looks at what the last layer reads: {error}") from error
        for strategy, draws in choosing:
            if strategy.score is not None:
                checked_scores(strategy.scores, self.dataset.target.example(2, draws))
        self._architecture = str(module)

    @cached_property
    def watched(self) -> Tensor:
        """Ids of the stop set; none where no rule looks at it."""
        looks = self.stop is not None and any(part.needs_stop_set for part in self.stop.parts)
        return draw_stop_set(self.seed, len(self.dataset.pool), self.stop_set if looks else 0)

    def _claim(self, journal: Journal) -> None:
        """Makes the journal this run's; refuses one that holds another."""
        identity = {
            **traits(self.dataset),
            "network": self._architecture,
            "posterior": self.learner.method_label,
            "strategy": self.strategy.label,
            "start": self.starter.label,
            "counts": list(self.counts),
            "draws": self.draws,
            "test_draws": self.test_draws,
            "scoring": repr(self.race) if self.race.heats else "full",
            "candidates": self.candidates.random if self.candidates.top is None else str(self.candidates),
            "stop": None if self.stop is None else repr(self.stop),
            "validation": self.validation,
            "stop_set": len(self.watched) or None,
            "views": None if self.views is None else repr(self.views),
            "pretraining": None if self.learner.pretraining is None else repr(self.learner.pretraining),
            "seed": self.seed,
        }
        claim(journal, identity)
