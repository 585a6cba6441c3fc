"""Settings of a strategy's own: the keyword-only parameters of its function."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from activebdl import Query, Selection, UserError, resolve
from activebdl.build import build, make_strategy, resolved
from activebdl.spec import Named, read_spec
from activebdl.strategies import Strategy


def blend(log_probs: Tensor, *, weight: float = 0.5, power: int = 1) -> Tensor:
    return weight * log_probs[:, 0, 0] ** power


def every(query: Query, *, step: int = 1) -> Tensor:
    return query.unlabelled[::step][: query.quantity]


def test_a_score_is_called_with_them() -> None:
    table = torch.rand(4, 2, 3)
    torch.testing.assert_close(resolve(blend, weight=3.0).scores(table), 3 * table[:, 0, 0])
    torch.testing.assert_close(resolve(blend).scores(table), 0.5 * table[:, 0, 0])


def test_a_joint_strategy_is_called_with_them() -> None:
    query = Query(torch.arange(10), torch.tensor([]), 3, torch.Generator())
    assert resolve(every, step=3).select(query).ids.tolist() == [0, 3, 6]


def test_the_label_tells_what_is_not_the_default() -> None:
    assert resolve(blend).label == "blend"
    assert resolve(blend, weight=0.5, power=2).label == "blend(power=2)"
    assert resolve(blend, power=2).settings == {"weight": 0.5, "power": 2}


def test_a_strategy_that_is_resolved_again_keeps_them() -> None:
    """Everything that takes a strategy resolves it: the cycle too."""
    known = resolve(blend, weight=3.0)
    assert resolve(known) == known
    assert resolve(known, power=2).settings == {"weight": 3.0, "power": 2}
    assert resolve(known, weight=0.5).label == "blend"


def test_options_that_it_does_not_take_are_told() -> None:
    with pytest.raises(UserError, match="'blend' takes no option 'wieght'; its options: weight, power"):
        resolve(blend, wieght=1)
    with pytest.raises(UserError, match="'bald' takes no option 'weight'; its options: none"):
        resolve("bald", weight=1)


def needy(query: Query, *, step: int, width: int = 1) -> Tensor:
    return query.unlabelled[::step][: query.quantity]


def test_one_without_a_default_has_to_be_given() -> None:
    name = f"{__name__}:needy"
    with pytest.raises(UserError, match="'needy' has no default for its option 'step'"):
        build(resolved(read_spec("digits-small", {"strategy": name})))
    assert resolve(needy, step=3).label == "needy(step=3)"
    assert resolved(read_spec("digits-small", {"strategy": {"name": name, "step": 2}})).strategy.options == {
        "step": 2,
        "width": 1,
    }
    with pytest.raises(UserError, match="'needy' takes no option 'pace'; its options: width, step"):
        resolve(needy, pace=1)


def test_types_that_only_a_checker_knows_are_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / "hinted.py").write_text(
        "from __future__ import annotations\nimport functools\n"
        "def first(log_probs: Unknown, *, weight: float = 1) -> Unknown:\n    return weight * log_probs[:, 0, 0]\n"
        "part = functools.partial(first, weight=2)\n"
    )
    for name in ("first", "part"):
        named = Named.model_validate({"name": f"{tmp_path / 'hinted.py'}:{name}", "weight": 3})
        assert float(make_strategy(named).scores(torch.ones(1, 1, 1))) == 3


def test_from_a_file_with_a_rule_in_front_checked_and_written_out(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def blend(log_probs, *, weight: float = 0.5, power: int = 1):\n    return log_probs[:, 0, 0] * weight\n"
    )
    name = f"{tmp_path / 'mine.py'}:blend"
    spec = resolved(read_spec("digits-small", {"strategy": {"name": name, "weight": 2}}))
    assert spec.strategy.options == {"weight": 2, "power": 1}
    assert make_strategy(spec.strategy).label == "blend(weight=2)"
    with pytest.raises(UserError, match="'weight' of the strategy .* not 'much'"):
        make_strategy(Named.model_validate({"name": name, "weight": "much"}))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("batchbald", {"exact": 0}, "exact >= 1 and samples >= 2"),
        ("epig", {"targets": 0}, "at least 1 of the targets"),
        ("bait", {"oversample": 0.2}, "'oversample' must be at least 1"),
        ("typiclust", {"neighbours": 0}, "at least 1 cluster and 1 neighbour"),
        ("k_means", {"components": 0}, "at least 1 of their components"),
    ],
)
def test_what_cannot_be_is_refused_before_there_is_a_query(name: str, options: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve(name, **options)


def test_a_check_of_ones_own_is_called_with_all_settings() -> None:
    seen: list[dict[str, object]] = []

    def check(**settings: object) -> None:
        seen.append(settings)

    known = Strategy("every", joint=every, check=check)
    assert resolve(known, step=3).options == {"step": 3}
    assert seen == [{"step": 3}]


def test_a_joint_score_that_is_nan_is_refused() -> None:
    def unsure(query: Query) -> Selection:
        return Selection(query.unlabelled[: query.quantity], torch.full((query.quantity,), torch.nan))

    query = Query(torch.arange(10), torch.tensor([]), 3, torch.Generator())
    with pytest.raises(UserError, match="'unsure' gave a score that is NaN"):
        Strategy("unsure", joint=unsure, needs=(), target="any").select(query)
