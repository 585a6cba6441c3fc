"""BADGE against gradients written out, and the probabilities of k-means++."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from activebdl import resolve
from activebdl.strategies import badge as module
from activebdl.strategies.badge import Gradients
from tests.strategies.fakes import Known, pool, pools, seeds


def embeddings(known: Known) -> Tensor:
    """``[N, C D]``, formed."""
    errors = known.p - F.one_hot(known.p.argmax(1), known.p.shape[1])
    return torch.einsum("nc,nd->ncd", errors, known.h).flatten(1)


def test_an_embedding_is_the_gradient_in_the_last_layer_under_the_label_that_it_gives() -> None:
    layer = nn.Linear(5, 3, dtype=torch.double)
    h = pool(4, seed=2, width=5).h
    logits = layer(h)
    log_probs = logits.detach().log_softmax(-1)[:, None]  # one draw
    formed = embeddings(Known(log_probs, h))
    for i in range(4):
        loss = F.cross_entropy(logits[i], logits[i].argmax())
        (gradient,) = torch.autograd.grad(loss, layer.weight, retain_graph=True)
        torch.testing.assert_close(formed[i], gradient.flatten())


@given(pools())
def test_factored_distances_equal_those_of_the_embeddings(known: Known) -> None:
    gradients, formed = Gradients.of(known.p, known.features), embeddings(known)
    torch.testing.assert_close(gradients.lengths, formed.square().sum(1), rtol=1e-12, atol=0)
    for i in range(len(formed)):
        expected = (formed - formed[i]).square().sum(1)
        scale = float(formed.square().sum(1).max())
        torch.testing.assert_close(gradients.squared_distances(i), expected, rtol=0, atol=4e-12 * scale)
        assert gradients.squared_distances(i)[i] == 0


def test_the_size_of_a_block_changes_no_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    known = pool(23, seed=0)
    whole = Gradients.of(known.p, known.features)
    expected = whole.squared_distances(3)
    monkeypatch.setattr(module, "BLOCK", 9)  # two rows of 4, and one short block
    torch.testing.assert_close(Gradients.of(known.p, known.features).squared_distances(3), expected)


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (4, 2, 0, 3, 1)])
def test_the_first_is_the_longest_and_the_rest_are_drawn_by_squared_distance(order: tuple[int, ...]) -> None:
    """Every ordered batch of 3 out of 4 unlabelled items has the probability that it ought to, in any order."""
    base = pool(5, seed=3, labelled=1)
    known = base.in_order(torch.tensor(order))
    formed = embeddings(known)
    distance = torch.cdist(formed, formed).square()
    first = max(known.unlabelled, key=lambda i: float(formed[i].norm()))
    expected: dict[tuple[int, ...], float] = {}
    for second, third in itertools.permutations([i for i in known.unlabelled if i != first], 2):
        near = torch.minimum(distance[first], distance[second])
        others = sum(float(distance[first, i]) for i in known.unlabelled)
        left = sum(float(near[i]) for i in known.unlabelled)
        expected[first, second, third] = float(distance[first, second]) / others * float(near[third]) / left
    assert sum(expected.values()) == pytest.approx(1)
    trials, counts = 2000, dict.fromkeys(expected, 0)
    strategy = resolve("badge")
    for seed in range(trials):
        chosen = strategy.select(known.query(3, seed))
        counts[tuple(chosen.ids.tolist())] += 1
    for batch, probability in expected.items():
        off = 4.5 * math.sqrt(probability * (1 - probability) / trials)
        assert counts[batch] / trials == pytest.approx(probability, abs=off)


def test_its_scores_are_the_squared_distances_when_chosen() -> None:
    known = pool(12, seed=5, labelled=2)
    chosen, formed = resolve("badge").select(known.query(5)), embeddings(known)
    assert chosen.scores is not None
    ids = chosen.ids.tolist()
    assert float(chosen.scores[0]) == pytest.approx(float(formed[ids[0]].square().sum()))
    for i in range(1, 5):
        distances = [float((formed[ids[i]] - formed[j]).square().sum()) for j in ids[:i]]
        assert float(chosen.scores[i]) == pytest.approx(min(distances))


@settings(max_examples=30)
@given(seeds, st.integers(2, 6), st.integers(2, 3), st.floats(0, 3e-7))
def test_duplicates_come_last_in_any_order(seed: int, kinds: int, copies: int, noise: float) -> None:
    """As many as there are kinds: one of each, though the features of equal items differ by float32's rounding."""
    base = pool(kinds, seed, width=6)
    order = torch.randperm(kinds * copies, generator=torch.Generator().manual_seed(seed)) % kinds
    wobble = 1 + noise * (2 * torch.rand(kinds * copies, 6, generator=torch.Generator().manual_seed(seed)) - 1)
    known = Known(base.log_probs[order], base.features[order] * wobble)
    gradients = Gradients.of(known.p, known.features)
    for i in range(len(order)):
        assert (gradients.squared_distances(i) == 0).tolist() == (order == order[i]).tolist()
    chosen = known.choose("badge", kinds, seed)
    assert sorted(order[chosen].tolist()) == list(range(kinds))


def test_sure_predictions_are_chosen_at_random_and_last() -> None:
    """An item whose label is certain has no gradient, and one such item stands for all of them."""
    known = pool(6, seed=1)
    known.log_probs[2:] = torch.tensor([0, -1e4, -1e4], dtype=torch.double)
    firsts = [known.choose("badge", 3, seed) for seed in range(200)]
    assert all({0, 1} <= set(chosen) for chosen in firsts)
    assert {i for chosen in firsts for i in chosen} == set(range(6))
