import pytest
from hypothesis import given
from hypothesis import strategies as st

from activebdl import UserError
from activebdl.pool import Pool
from activebdl.targets import Classes, Numbers

TWO = Classes(("no", "yes"))


def states(pool: Pool) -> list[list[int]]:
    return [ids.tolist() for ids in (pool.unlabelled, pool.pending, pool.labelled, pool.set_aside, pool.validation)]


@given(
    st.integers(1, 30),
    st.lists(st.tuples(st.sampled_from(["ask", "label", "hold out", "abstain"]), st.integers(-2, 32))),
)
def test_ids_are_disjoint_conserved_and_never_asked_for_twice(size: int, steps: list[tuple[str, int]]) -> None:
    pool, asked = Pool(size, TWO), list[int]()
    for action, id in steps:
        before = states(pool)
        try:
            if action == "ask":
                pool.ask([id])
                asked.append(id)
            elif action in ("label", "hold out"):
                pool.answer(id, id % 2, hold_out=action == "hold out")
            else:
                pool.answer(id, None)
        except UserError:
            assert states(pool) == before
        now = states(pool)
        assert sorted(sum(now, [])) == list(range(size))
        assert all(ids == sorted(ids) for ids in now)
        assert pool.labels.tolist() == [id % 2 for id in now[2]]
        assert pool.validation_labels.tolist() == [id % 2 for id in now[4]]
        assert pool.n_labels == len(now[2]) + len(now[4])
    assert len(set(asked)) == len(asked)
    assert sorted(asked) == sorted(sum(states(pool)[1:], []))


@pytest.mark.parametrize("ids", [[1, 1], [0, 9], [-1], [0, 3]])
def test_a_bad_request_changes_nothing(ids: list[int]) -> None:
    pool = Pool(5, TWO)
    pool.ask([3])
    with pytest.raises(UserError):
        pool.ask(ids)
    assert pool.pending.tolist() == [3]


@pytest.mark.parametrize("label", [-2, 2, 100, 0.5])
def test_a_label_out_of_range_is_refused_and_the_item_stays_pending(label: int) -> None:
    pool = Pool(5, TWO)
    pool.ask([4])
    with pytest.raises(UserError, match=f"item 4 is {label}; labels run from 0 to 1"):
        pool.answer(4, label)
    assert pool.pending.tolist() == [4]


def test_labels_are_in_the_order_of_the_ids_not_of_the_answers() -> None:
    pool = Pool(5, Classes(("a", "b", "c")))
    pool.ask([4, 0, 2])
    for id, label in ((4, 2), (2, 1), (0, 0)):
        pool.answer(id, label)
    assert pool.labelled.tolist() == [0, 2, 4]
    assert pool.labels.tolist() == [0, 1, 2]


def test_numbers_are_kept_as_they_are_and_nan_sets_aside() -> None:
    pool = Pool(4, Numbers())
    pool.ask([3, 1, 0])
    for id, label in ((3, 0.1), (1, float("nan")), (0, -2)):
        pool.answer(id, label)
    assert pool.labels.tolist() == [-2.0, 0.1] and pool.set_aside.tolist() == [1]
    pool.ask([2])
    with pytest.raises(UserError, match="item 2 is inf; labels are finite numbers"):
        pool.answer(2, float("inf"))
