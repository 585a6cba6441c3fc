"""BAIT, batches by the Fisher information of the last layer (Ash, Goel, Krishnamurthy, Kakade 2021).

The batch S that, with the labelled items L, leaves the least expected error on the pool U, by the bound

    tr( I_U (I_L + I_S + lambda)^-1 ),    I_X = sum_{x in X} I_x,    I_x = E_{y ~ p_x}[ g_xy g_xy^T ]

where ``g_xy = (p_x - e_y) (x) h_x`` is the gradient of the loss in the last layer's weights under the label y, p the
posterior predictive, h the features that the layer reads, and I_U a mean in place of a sum, which changes no choice.
lambda is the precision of a Gaussian prior on the weights. (The authors' program divides I_L and I_S by the number of
items, so that its lambda grows with that number.)

An item's information has the factor ``V_x [C D, C]``, whose column y is ``sqrt(p_x(y)) g_xy``. With ``M`` the sum in
the brackets and ``P = M^-1``, one more item changes the trace by (Woodbury)

    tr(I_U (M + V V^T)^-1) - tr(I_U P) = - tr( (1 + V^T P V)^-1  V^T P I_U P V )

Greedy as in the paper: ``oversample * Q`` items are added one by one, each time the one that leaves the least trace;
then they are taken away again, each time the one that leaves the least trace, until Q are left.

The two small matrices of every item, ``V^T P V`` and ``V^T P I_U P V``, are computed once, at (C D)^2 an item; when an
item is added or taken away all of them change by products of ``[C, C]``, at D C^2 an item. So a step costs
O(n D C^2 + n C^3 + C (C D)^2), and the memory is O((C D)^2 + n (C^2 + D)).

Where n C^2 is too large for that, only two classes are told apart, the most probable one of an item and any other: the
binary approximation of Huseljic, Hahn, Herde, Rauch, Sick (2024, "Fast Fishing"), which they found to do no worse. An
item's information is then that of a Bernoulli variable, ``p (1 - p) h h^T`` with p its highest probability.

n: items looked at, C: classes, D: features, Q: items asked for.
"""

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from activebdl.errors import UserError
from activebdl.progress import say
from activebdl.randomness import some_of
from activebdl.scoring import ignore
from activebdl.strategies import Query, Selection, joint_strategy
from activebdl.strategies._batches import BLOCK, class_probabilities, largest

LARGEST = 3000
"""C D above which features are reduced unless told otherwise: a few dense ``[C D, C D]``, 72 MB each."""

MANY = 2**25
"""n C^2 above which two classes stand for all unless told otherwise: 129 classes of 2,000 items, twice 268 MB."""

MOST = 2**31
"""Numbers in memory, 16 GiB, above which it refuses to begin."""


def _check(
    candidates: int | None, oversample: float, regularisation: float, components: int | None, binary: bool | None
) -> None:
    if candidates is not None and candidates < 1:
        raise UserError(f"bait's option 'candidates' must be at least 1, or null for all, and is {candidates}.")
    if not 1 <= oversample < math.inf:
        raise UserError(f"bait's option 'oversample' must be at least 1, and is {oversample}.")
    if not 0 < regularisation < math.inf:
        raise UserError(f"bait's option 'regularisation' must be above 0, and is {regularisation}.")
    if components is not None and components < 1:
        raise UserError(f"bait's option 'components' must be at least 1, or null, and is {components}.")


@joint_strategy(
    "bait",
    target="classes",
    needs=("draws", "features"),
    paper="Ash et al. 2021",
    memory="(C D)^2 + n (C^2 + D)",
    check=_check,
)
def bait(
    query: Query,
    *,
    candidates: int | None = 2000,
    oversample: float = 2.0,
    regularisation: float = 1.0,
    components: int | None = None,
    binary: bool | None = None,
) -> Selection:
    """A batch to leave the least expected error on the pool, by the last layer's information.

    The information is Fisher's. The scores are what the trace would rise by if the item alone were taken away
    from the batch.

    Args:
        query: For labels that are classes.
        candidates: How many unlabelled items, drawn at random, stand for the pool in I_U and may be chosen, and never
            fewer than Q; 2,000 by default, and a line tells when that cuts. None takes all.
        oversample: How many times Q are chosen before the rest is taken away; 1 takes none away.
        regularisation: lambda, above 0.
        components: How many principal components (uncentred) of the features are looked at. None takes the features as
            they are, unless C D is above 3,000: then as many components as fit, and a line tells it.
        binary: Whether only an item's most probable class and any other are told apart. None does so where the classes
            are too many to tell all, 130 and more of 2,000 candidates, and a line tells it.

    Raises:
        UserError: More than 16 GiB of memory, or features too large to be inverted.
    """
    ids = _candidates(query, candidates)
    p, h = class_probabilities(query, ids), query.model.features(ids)
    quiet = replace(query, scorer=replace(query.model, on_items=ignore))  # the progress is of unlabelled items
    known = query.labelled.long()
    if len(known):
        p, h = torch.cat([p, class_probabilities(quiet, known)]), torch.cat([h, query.model.features(known)])
    n = len(ids)
    p = _two_classes(p, n, binary)
    h = _reduced(h.double(), p.shape[1], components)
    _refuse_too_large(n, p.shape[1], h.shape[1])
    try:
        precision = fisher(p[n:], h[n:])
        precision.diagonal().add_(regularisation)
        trace = Trace(precision, fisher(p[:n], h[:n]) / n, p[:n], h[:n])
        more = min(n, math.ceil(oversample * query.quantity))
        chosen, scores = _forward_backward(trace, query.quantity, more, query.generator)
    except torch.linalg.LinAlgError as error:  # pyright: ignore[reportPrivateImportUsage]
        raise UserError(
            f"bait's option 'regularisation', {regularisation:g}, is lost beside features as large as "
            f"{float(h.abs().max()):.1g}; normalise the inputs, or raise it."
        ) from error
    return Selection(ids[chosen], scores)


def factors(p: Tensor) -> Tensor:
    """``B [n, C, C]`` of ``p [n, C]``, column y ``sqrt(p(y)) (p - e_y)``: the factor of an item is ``V = B (x) h``."""
    one_hot = torch.eye(p.shape[1], dtype=p.dtype)
    return (p[:, :, None] - one_hot) * p.sqrt()[:, None, :]


def fisher(p: Tensor, h: Tensor) -> Tensor:
    """The sum of the items' Fisher information, ``sum_x (diag(p) - p p^T) (x) h h^T``: ``[C D, C D]``.

    Args:
        p: Probabilities ``[n, C]``.
        h: Features ``[n, D]``.
    """
    (n, C), D = p.shape, h.shape[1]
    total = torch.zeros(C, D, C * D, dtype=p.dtype)
    for part in _blocks(n, C * D):
        for c in range(C):
            covariance = -p[part, c : c + 1] * p[part]  # row c of each item's diag(p) - p p^T
            covariance[:, c] += p[part, c]
            total[c].addmm_(h[part].T, (covariance[:, :, None] * h[part, None, :]).flatten(1))
    return total.view(C * D, C * D)


class Trace:
    """``tr(U M^-1)``, and how it changes as the information of an item is added to M or taken away.

    Args:
        precision: ``M [C D, C D]``, positive definite.
        target: ``U [C D, C D]``.
        p: Probabilities ``[n, C]`` of the items.
        h: Their features ``[n, D]``.

    Attributes:
        inner: ``V^T P V`` of every item, ``[n, C, C]``, where ``P = M^-1``.
        outer: ``V^T P U P V`` of every item, ``[n, C, C]``.
    """

    def __init__(self, precision: Tensor, target: Tensor, p: Tensor, h: Tensor) -> None:
        self.inverse = torch.cholesky_inverse(torch.linalg.cholesky(precision))
        self.target, self.p, self.h = target, p, h
        self.inner = quadratic_forms(self.inverse, p, h)
        self.outer = quadratic_forms(self.inverse @ target @ self.inverse, p, h)

    def value(self) -> float:
        """The trace as it is."""
        return float((self.target * self.inverse).sum())

    def changes(self, sign: int) -> Tensor:
        """What adding (sign 1) or taking away (-1) each of the items does to the trace: ``[n]``."""
        one = torch.eye(self.p.shape[1], dtype=self.p.dtype)
        solved = torch.linalg.solve(one + sign * self.inner, self.outer)
        return -sign * solved.diagonal(dim1=1, dim2=2).sum(dim=1)

    def update(self, i: int, sign: int) -> None:
        """Adds item i to M (sign 1), or takes it away (-1)."""
        C = self.p.shape[1]
        v = (factors(self.p[i : i + 1])[0][:, None, :] * self.h[i][None, :, None]).reshape(-1, C)
        y = self.inverse @ v
        uy = self.target @ y
        z = self.inverse @ uy
        k = torch.linalg.inv(torch.eye(C, dtype=v.dtype) + sign * v.T @ y)
        # P becomes P - sign y k y^T. What V^T P V and V^T P U P V become follows from w = V^T y and x = V^T P U y.
        for part in _blocks(len(self.p), C * max(C, self.h.shape[1])):
            b, h = factors(self.p[part]), self.h[part]
            w, x = _projected(b, h, y), _projected(b, h, z)
            wk = w @ k
            self.inner[part] -= sign * wk @ w.mT
            cross = wk @ x.mT
            self.outer[part] += wk @ (y.T @ uy) @ wk.mT - sign * (cross + cross.mT)
        self.inverse.addmm_(y @ k, y.T, alpha=-sign)

    def keep(self, items: Tensor) -> None:
        """Forgets all items but these, by position or mask; M stays as it is."""
        self.p, self.h = self.p[items], self.h[items]
        self.inner, self.outer = self.inner[items], self.outer[items]


def quadratic_forms(matrix: Tensor, p: Tensor, h: Tensor) -> Tensor:
    """``V_x^T A V_x`` of every item: ``[n, C, C]``.

    Args:
        matrix: ``A [C D, C D]``.
        p: Probabilities ``[n, C]``.
        h: Features ``[n, D]``.
    """
    (n, C), D = p.shape, h.shape[1]
    rows = matrix.view(C, D, C * D)
    forms = torch.empty(n, C, C, dtype=p.dtype)
    for part in _blocks(n, C * D):
        b, features = factors(p[part]), h[part]
        middle = [((features @ rows[c]).view(-1, C, D) @ features[:, :, None])[:, :, 0] for c in range(C)]
        forms[part] = b.mT @ torch.stack(middle, dim=1) @ b
    return forms


def _projected(b: Tensor, h: Tensor, y: Tensor) -> Tensor:
    """``V_x^T y`` of every item: ``[n, C, C]``, of ``b [n, C, C]``, ``h [n, D]`` and ``y [C D, C]``."""
    C, D = b.shape[1], h.shape[1]
    return b.mT @ (h @ y.view(C, D, C).transpose(0, 1).reshape(D, C * C)).view(-1, C, C)


def _forward_backward(trace: Trace, quantity: int, more: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Positions ``[Q]`` of those left of the ``more`` chosen greedily, in the order of choice, and their scores."""
    chosen: list[int] = []
    free = torch.ones(len(trace.p), dtype=torch.bool)
    for _ in range(more):
        pick = largest((-trace.changes(1)).where(free, -torch.inf), generator)
        trace.update(pick, 1)
        free[pick] = False
        chosen.append(pick)
    trace.keep(torch.tensor(chosen))
    while len(chosen) > quantity:
        drop = largest(-trace.changes(-1), generator)
        trace.update(drop, -1)
        del chosen[drop]
        trace.keep(torch.arange(len(trace.p)) != drop)
    return torch.tensor(chosen), trace.changes(-1)


def _candidates(query: Query, candidates: int | None) -> Tensor:
    """The unlabelled items that are looked at, ascending; a line tells when they are not all."""
    total = len(query.unlabelled)
    count = total if candidates is None else max(candidates, query.quantity)
    if count >= total:
        return query.unlabelled
    say(f"  bait looks at {count:,} of {total:,} unlabelled items, drawn at random; its option 'candidates' sets that")
    return some_of(query.unlabelled, count, query.generator)


def _two_classes(p: Tensor, n: int, binary: bool | None) -> Tensor:
    """Probabilities ``[., C]`` as those of the most probable class and of any other, ``[., 2]``, if that is wanted."""
    C = p.shape[1]
    if binary is None and n * C * C > MANY:
        binary = True
        say(
            f"  bait: {C:,} classes are too many to tell all apart for {n:,} items; of each it looks at the most "
            "probable class and any other (Huseljic et al. 2024); its option 'binary' sets that"
        )
    top = p.amax(dim=1)
    return torch.stack([top, (1 - top).clamp_min(0)], dim=1) if binary else p


def _refuse_too_large(n: int, classes: int, features: int) -> None:
    numbers = 4 * (classes * features) ** 2 + 2 * n * classes**2
    if numbers > MOST:
        raise UserError(
            f"bait would hold {8 * numbers / 2**30:,.0f} GiB for {n:,} items, {classes:,} classes and {features:,} "
            "features; its options 'candidates', 'components' and 'binary' make that less."
        )


def _reduced(h: Tensor, classes: int, components: int | None) -> Tensor:
    """Features ``[n, D]`` on their first principal components, where there are to be fewer."""
    D = h.shape[1]
    wanted = max(1, LARGEST // classes) if components is None else components
    if wanted >= D or (components is None and classes * D <= LARGEST):
        return h
    # Uncentred: the information is of h h^T, and a shift of the features would change it.
    values, vectors = torch.linalg.eigh(h.T @ h)  # ascending
    if components is None:
        kept = float(values[-wanted:].sum() / values.sum().clamp_min(torch.finfo(values.dtype).tiny))
        say(
            f"  bait: {classes} classes x {D} features are more than {LARGEST:,}; it looks at {wanted} principal "
            f"components, {kept:.1%} of the features' squared length; its option 'components' sets how many"
        )
    return h @ vectors[:, -wanted:]


def _blocks(n: int, width: int) -> Iterator[slice]:
    """Slices of n items, so that a block of ``width`` numbers an item is not too large."""
    rows = max(1, BLOCK // width)
    return (slice(start, start + rows) for start in range(0, n, rows))
