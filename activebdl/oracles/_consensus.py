"""One label out of several votes: the majority's, or that of Dawid and Skene (1979).

N: items, W: annotators, C: classes.
"""

import warnings
from collections import Counter
from collections.abc import Collection, Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np

from activebdl.errors import UserError
from activebdl.randomness import uniforms

Votes = Mapping[int, Mapping[str, int]]
"""By item's id and annotator, what was voted; without those who abstained."""

# What is believed of every annotator before any vote, as if they had been seen on five items of each class.
_RIGHT, _WRONG = 4.0, 1.0
_STEPS = 20  # of EM; a fixed number, so that no last digit decides about one more


def majority(votes: Votes) -> dict[int, int]:
    """The class that most voted for; among classes that are level, one at random, always the same for an item."""
    consensus: dict[int, int] = {}
    for id, said in votes.items():
        if said:
            counts = Counter(said.values())
            most = max(counts.values())
            consensus[id] = _one_of(id, [label for label, count in counts.items() if count == most])
    return consensus


def dawid_skene(votes: Votes, n_classes: int, known: Mapping[int, int] | None = None) -> dict[int, int]:
    """The most probable class of each item, where every annotator has a confusion matrix of their own.

    EM from the majority's shares: the E-step gives each item's probabilities of the classes from the class frequencies
    and the matrices, the M-step these from the probabilities,

        q[n, c] ~ prior[c] prod_w confusion[w, c, vote(w, n)]
        confusion[w, c, a] ~ pseudo[c, a] + sum over n that w called a of q[n, c]

    A. P. Dawid and A. M. Skene (1979), Maximum likelihood estimation of observer error-rates using the EM algorithm,
    Journal of the Royal Statistical Society C 28(1), 20-28.

    Their maximum likelihood (pseudo = 0) falls apart where votes are few: a matrix has C (C - 1) free numbers for each
    annotator, and what was seen twice becomes certain. Of 20 items of 10 classes with 5 annotators that are right 7 to
    9 times in 10, it gets 95.8 % in 100 trials (benchmarks/crowd.py --few), and the majority 98.6 %. So each annotator
    is taken to have been seen on five items of each class before, right on four, wrong evenly (the maximum a posteriori
    under a Dirichlet prior): 98.8 %, no worse than the majority, and better from some hundred items on. It still errs
    where annotators are no better than chance, or where most of them share a mistake; only known labels help there.

    Args:
        votes: N items, W annotators.
        n_classes: C.
        known: Labels that are beyond doubt, such as a correction by hand; they teach how good the annotators are.

    Raises:
        UserError: crowd-kit is not installed.
    """
    consensus: dict[int, int] = {}
    for id, probabilities in class_probabilities(votes, n_classes, known).items():
        best = max(probabilities.values())
        consensus[id] = _one_of(id, [label for label, p in probabilities.items() if p > best - 1e-9])
    return consensus


def class_probabilities(
    votes: Votes, n_classes: int, known: Mapping[int, int] | None = None
) -> dict[int, dict[int, float]]:
    """By item, how probable each class is that anybody voted for; see `dawid_skene`."""
    check_installed()
    rows = [(id, who, votes[id][who]) for id in sorted(votes) for who in sorted(votes[id])]  # sums do not see the order
    if not rows:
        return {}
    import pandas as pd

    data = pd.DataFrame(rows, columns=["task", "worker", "label"])
    seen = sorted({label for _, _, label in rows})
    sure = {id: label for id, label in (known or {}).items() if id in votes and label in seen}
    with warnings.catch_warnings():  # crowd-kit calls what pandas is about to drop
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        model = _smoothed(pd, sorted({who for _, who, _ in rows}), seen, n_classes)
        found = model.fit_predict_proba(data, true_labels=pd.Series(sure) if sure else None)
    return found.to_dict(orient="index")


def check_installed() -> None:
    """Refuses where crowd-kit is missing.

    Raises:
        UserError: It is.
    """
    if find_spec("crowdkit") is None:
        raise UserError("The consensus 'dawid_skene' needs crowd-kit: pip install 'activebdl[crowd]'.")


def _smoothed(pd: Any, annotators: Collection[str], seen: list[int], n_classes: int) -> Any:
    """crowd-kit's Dawid-Skene with pseudo-counts in every M-step; its own option adds them in the first alone."""
    from crowdkit.aggregation import DawidSkene

    wrong = _WRONG / (n_classes - 1)
    pseudo = np.where(np.eye(len(seen), dtype=bool), _RIGHT, wrong)
    index = pd.MultiIndex.from_product([annotators, seen], names=["worker", "label"])
    prior = pd.DataFrame(np.tile(pseudo, (len(annotators), 1)), index=index, columns=seen)

    class Smoothed(DawidSkene):
        @staticmethod
        def _m_step(data: Any, probas: Any, initial_error: Any = None, initial_error_strategy: Any = None) -> Any:
            return DawidSkene._m_step(data, probas, prior[probas.columns], "addition")

        def _evidence_lower_bound(self, *_: Any, **__: Any) -> float:
            return 0.0  # it would decide when to stop, and take a third of the time

    return Smoothed(n_iter=_STEPS, tol=-np.inf)


def _one_of(id: int, level: list[int]) -> int:
    """One of the classes that are level: which, depends on the item alone, and no class is favoured over many items."""
    return level[0] if len(level) == 1 else max(level, key=lambda label: uniforms(0, f"tie of {label}", id, 1))
