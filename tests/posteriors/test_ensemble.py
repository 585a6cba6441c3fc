from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from activebdl import Training, UserError
from activebdl.data import Labelled
from activebdl.likelihoods import Categorical
from activebdl.posteriors.ensemble import Ensemble, EnsemblePosterior
from activebdl.posteriors.map import MAP, PointPosterior
from activebdl.scoring import predictive


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def labelled(n: int = 12) -> Labelled:
    return Labelled(torch.randn(n, 2, generator=seeded()), torch.arange(n) % 3, Categorical(3))


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))


def fitted(**options: Any) -> EnsemblePosterior:
    return Ensemble(training=Training(steps=5), **options).fit(network, labelled(), generator=seeded())


X = torch.randn(7, 2, generator=seeded(1))


def member_log_probs(posterior: EnsemblePosterior) -> Tensor:
    """``[B, M, C]``, each member by itself."""
    modules = [member.module for member in posterior.members]
    return torch.stack([module(X).log_softmax(-1) for module in modules], dim=1)


def test_one_draw_is_one_member() -> None:
    posterior = fitted(members=4)
    drawn = posterior.draw(1, generator=seeded()).log_probs(X)
    distances = (member_log_probs(posterior) - drawn).abs().amax(dim=(0, 2))
    assert sorted(distances < 1e-6) == [False, False, False, True]


def test_m_draws_are_all_members_and_their_mean_is_the_ensembles() -> None:
    posterior = fitted(members=4)
    drawn = posterior.draw(4, generator=seeded()).log_probs(X)
    expected = member_log_probs(posterior)
    assert len(drawn.unique(dim=1)[0]) == 4
    torch.testing.assert_close(predictive(drawn), expected.exp().mean(1).log(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dropout", [False, True])
def test_the_first_draws_are_the_same_however_many_are_asked_for(dropout: bool) -> None:
    posterior = fitted(members=3, dropout=dropout)
    many = posterior.draw(11, generator=seeded(5)).log_probs(X)
    for k in (1, 2, 3, 4, 8):
        few = posterior.draw(k, generator=seeded(5)).log_probs(X)
        torch.testing.assert_close(few, many[:, :k], rtol=0, atol=1e-6)


def test_every_member_is_drawn_as_often_as_the_others() -> None:
    posterior = fitted(members=3)
    drawn = posterior.draw(9, generator=seeded()).log_probs(X)
    which = (drawn[:, :, None] - member_log_probs(posterior)[:, None]).abs().amax(dim=(0, 3)).argmin(dim=1)
    assert Counter(which.tolist()) == {0: 3, 1: 3, 2: 3}


@pytest.mark.parametrize("dropout", [False, True])
def test_a_draw_is_one_function(dropout: bool) -> None:
    draws = fitted(members=3, dropout=dropout).draw(7, generator=seeded())
    whole = draws.log_probs(X)
    assert whole.shape == (7, 7, 3)
    order = torch.randperm(7, generator=seeded())
    torch.testing.assert_close(draws.log_probs(X[order]), whole[order], rtol=0, atol=1e-6)
    parts = torch.cat([draws.log_probs(X[:2]), draws.log_probs(X[2:3]), draws.log_probs(X[3:])])
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-6)


def test_dropout_makes_draws_of_one_member_differ() -> None:
    assert not Ensemble(members=1, dropout=True).draws_agree
    drawn = fitted(members=1, dropout=True).draw(6, generator=seeded()).log_probs(X)
    assert len(drawn.unique(dim=1)[0]) > 1
    assert Ensemble(members=1).draws_agree
    assert not Ensemble(members=2).draws_agree


def test_a_fit_can_be_done_again_and_members_share_no_luck() -> None:
    first, again = member_log_probs(fitted(members=3)), member_log_probs(fitted(members=3))
    assert torch.equal(first, again)
    assert len(first.unique(dim=1)[0]) == 3


def test_bagging_shows_each_member_n_labels_taken_with_replacement(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Labelled] = []

    def look(self: MAP, network: Any, labelled: Labelled, **_: Any) -> PointPosterior:
        seen.append(labelled)
        return PointPosterior(network())

    monkeypatch.setattr(MAP, "fit", look)
    n = 300
    known = Labelled(torch.arange(n)[:, None].float(), torch.arange(n) % 3, Categorical(3))
    Ensemble(members=20, bootstrap=True).fit(network, known, generator=seeded())
    for own in seen:
        assert len(own) == n
        assert torch.equal(own.inputs[:, 0].long() % 3, own.labels)  # a label stays with its item
    different = sum(len(own.inputs.unique()) for own in seen) / 20 / n
    assert abs(different - (1 - (1 - 1 / n) ** n)) < 0.02  # about 1 - 1/e
    assert len({tuple(own.inputs.flatten().tolist()) for own in seen}) == 20


def test_the_steps_are_those_of_all_members() -> None:
    told: list[int] = []
    method = Ensemble(members=3, training=Training(steps=4, steps_per_label=0.5))
    method.fit(network, labelled(), generator=seeded(), on_step=lambda: told.append(1))
    assert len(told) == method.steps(12) == 30


def test_one_label_is_enough() -> None:
    posterior = Ensemble(members=2, bootstrap=True, training=Training(steps=3)).fit(
        network, labelled(1), generator=seeded()
    )
    assert posterior.draw(3, generator=seeded()).log_probs(X).isfinite().all()


def test_mistakes_are_told() -> None:
    with pytest.raises(UserError, match="at least one member, not 0"):
        Ensemble(members=0)
    with pytest.raises(UserError, match=r"has no nn.Dropout module"):
        Ensemble(dropout=True).check(nn.Linear(2, 3), X)
    Ensemble().check(nn.Linear(2, 3), X)
