"""Prefilters: a strategy need not see every unlabelled item.

A joint strategy looks at items together, which a large pool can make slow. It may be shown some items at random, or
those that a cheap score of few draws puts first, or these out of those:

    ActiveLearning(..., strategy="batchbald", candidates=10_000)
    ActiveLearning(..., strategy="batchbald", candidates=Candidates(top=10_000, by="max_entropy", draws=5))

Without one a strategy sees everything, and with one too where it needs no model, as random and typiclust. A random
subset of a pool that says everything several times holds fewer repetitions; the top of a score keeps them.
"""

from dataclasses import dataclass, replace

from torch import Tensor

from activebdl.errors import UserError
from activebdl.randomness import some_of
from activebdl.strategies import Query, Strategy, resolve


@dataclass(frozen=True)
class Candidates:
    """Which of the unlabelled items a strategy sees; chosen anew in each round, and never fewer than it asks for.

    Args:
        random: So many at random; None for all.
        top: Of these, so many that a cheap score puts first; None for all.
        by: The cheap score, a name as for a strategy: "bald", or "power_bald" for more variety.
        draws: K, draws of the posterior that the cheap score sees.

    Raises:
        UserError: A number below 1, ``by`` or ``draws`` without ``top``, or ``by`` is not a score.
    """

    random: int | None = None
    top: int | None = None
    by: str = "max_entropy"
    draws: int = 5

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        counts: tuple[object, ...] = (self.random, self.top)
        for count in counts:
            if count is not None and not (isinstance(count, int) and count >= 1):
                raise UserError(f"A strategy must see at least 1 of the candidates, not {count!r}.")
        if self.top is None and (self.by, self.draws) != (Candidates.by, Candidates.draws):
            raise UserError("'by' and 'draws' of the candidates are of the 'top' of a cheap score: say how many, too.")
        if self.draws < 1:
            raise UserError(f"The cheap score of the candidates needs at least 1 of the draws, not {self.draws}.")
        _ = self.score  # is it one?

    @property
    def score(self) -> Strategy | None:
        """The cheap score; None where there is none."""
        if self.top is None:
            return None
        found = resolve(self.by)
        if found.score is None:
            raise UserError(f"Candidates are the top of a score, such as max_entropy, and '{self.by}' is none.")
        return found

    def some(self, query: Query) -> Tensor:
        """Those at random: ids ``[N']``, ascending."""
        if self.random is None:
            return query.unlabelled
        return some_of(query.unlabelled, max(self.random, query.quantity), query.generator)

    def best(self, query: Query) -> Tensor:
        """Those that the cheap score puts first: ids ``[M]``, ascending. The query has the draws for it."""
        score = self.score
        if score is None or self.top is None:
            return query.unlabelled
        return score.select(replace(query, quantity=max(self.top, query.quantity))).ids.sort().values

    def __str__(self) -> str:
        """In words, as a run's first line has it."""
        some = "" if self.random is None else f"{self.random:,} at random"
        if self.top is None:
            return some or "all unlabelled items"
        best = f"the first {self.top:,} by {self.by} of {self.draws} draws"
        return f"{best}, out of {some}" if some else best
