from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from activebdl import ActiveDataset, Classes, Normalise, Numbers, UserError, load
from activebdl.data import StreamedInputs
from activebdl.data.inputs import chunks


class Squares(Dataset[tuple[Tensor, int]]):
    """Item i is (i, i squared); it remembers what was read."""

    def __init__(self, n: int) -> None:
        self.n, self.read = n, list[int]()

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        self.read.append(i)
        return torch.tensor([float(i), float(i * i)]), i % 3


def test_normalise_is_the_formula_per_channel() -> None:
    x = torch.randint(0, 256, (5, 2, 3, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    normalised = Normalise(255.0, (0.1, 0.2), (0.5, 2.0))(x)
    expected = (x.double() / 255 - torch.tensor([0.1, 0.2]).view(2, 1, 1)) / torch.tensor([0.5, 2.0]).view(2, 1, 1)
    assert normalised.dtype == torch.float32
    torch.testing.assert_close(normalised.double(), expected.double(), rtol=0, atol=1e-5)
    assert Normalise()(torch.zeros(1, 2, dtype=torch.double)).dtype == torch.double


def test_the_users_own_arrays() -> None:
    pool = np.arange(40, dtype=np.uint8).reshape(10, 4)
    labels = np.arange(10, dtype=np.int32) % 3
    data = ActiveDataset.from_arrays(pool, labels, pool[:6], labels[:6])
    assert data.input_shape == (4,)
    assert data.classes == ("0", "1", "2")
    assert isinstance(data.pool, Tensor)
    assert data.pool.dtype == torch.uint8  # as stored
    assert float(data.normalise(data.pool).max()) == pytest.approx(39 / 255)


def test_numpys_float64_becomes_what_networks_are_made_of() -> None:
    data = ActiveDataset.from_arrays(np.random.rand(9, 4), np.arange(9) % 3, np.random.rand(6, 4), np.arange(6) % 3)
    assert data.normalise(data.pool[torch.tensor([0])]).dtype == torch.float32


@pytest.mark.parametrize("workers", [0, 2])
def test_a_map_style_dataset_is_streamed_in_order(workers: int) -> None:
    source = Squares(1000)
    data = ActiveDataset.from_datasets(source, Squares(9), classes=["a", "b", "c"], workers=workers)
    ids = torch.tensor([999, 3, 500, 7, 7])
    stacks = list(chunks(data.pool, ids, 2))
    assert [len(stack) for stack in stacks] == [2, 2, 1]
    assert torch.cat(stacks)[:, 0].tolist() == ids.tolist()
    assert data.test_labels.tolist() == [i % 3 for i in range(9)]
    assert len(source.read) < 10  # never the whole of it


def test_a_streamed_item_is_its_input_without_the_label() -> None:
    inputs = StreamedInputs(Squares(10))
    assert inputs.item(3).tolist() == [3.0, 9.0]
    assert inputs[torch.tensor([4, 2])].tolist() == [[4.0, 16.0], [2.0, 4.0]]
    assert len(inputs) == 10


X, Y = torch.zeros(4, 2), torch.tensor([0, 1, 2, 0])
WITH_NAN = X.clone().index_fill_(0, torch.tensor([2]), torch.nan)
WITH_INF = X.clone().index_fill_(0, torch.tensor([1]), -torch.inf)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((WITH_NAN, Y, X, Y), "pool input of item 2 holds NaN or infinity"),
        ((X, Y, WITH_INF, Y), "test input of item 1 holds NaN"),
        ((X, Y[:3], X, Y), r"pool set has 4 items but labels of shape \(3,\)"),
        ((X, Y.float(), X, Y), "labels must be one integer per item"),
        ((X, Y[:, None], X, Y), "labels must be one integer per item"),
        ((X, torch.tensor([0, 1, -1, 0]), X, Y), "pool label of item 2 is -1; labels run from 0 to 2"),
        ((X[:0], Y[:0], X, Y), "at least one pool item"),
        ((X, Y * 0, X, Y * 0), "at least two classes"),
        ((torch.zeros(4), Y, X, Y), "at least two axes"),
    ],
)
def test_data_that_cannot_be_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ActiveDataset.from_arrays(*arguments)


def test_more_classes_in_labels_than_names_is_refused() -> None:
    with pytest.raises(UserError, match="label of item 2 is 2; labels run from 0 to 1"):
        ActiveDataset.from_arrays(X, Y, X, Y, classes=["a", "b"])


def test_digits_are_whole_and_split_once_for_all() -> None:
    data = load("digits")
    assert len(data.pool) == 1297
    assert len(data.test) == 500
    assert data.labels is not None
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    counts = np.bincount(bunch.target)
    both = torch.cat([data.labels, data.test_labels]).bincount().numpy()
    assert both.tolist() == counts.tolist()
    x = data.normalise(data.pool[torch.arange(1297)])
    assert abs(float(x.mean())) < 0.1
    assert abs(float(x.std()) - 1) < 0.1


def test_an_option_that_a_dataset_does_not_take_is_told() -> None:
    with pytest.raises(UserError, match="'unbalanced_mnist' takes no option 'kep'; its options: keep, rare, seed"):
        load("unbalanced_mnist", kep=0.5)


def test_a_function_that_makes_no_dataset_is_told() -> None:
    with pytest.raises(UserError, match="returned str; it must return an ActiveDataset"):
        load("os:getcwd")


def test_numbers_are_kept_as_they_are() -> None:
    data = ActiveDataset.from_arrays(X, np.array([0.1, -1, 3, 1e9]), X, np.arange(4), numbers=Numbers())
    assert data.labels is not None and data.labels.tolist() == [0.1, -1.0, 3.0, 1e9]
    assert data.test_labels.dtype == torch.double and data.classes == ()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_label_that_is_no_number_is_refused(bad: float) -> None:
    labels = torch.tensor([0.0, 1.0, bad, 2.0])
    with pytest.raises(UserError, match="test label of item 2 is .*; labels are finite numbers"):
        ActiveDataset.from_arrays(X, None, X, labels, numbers=Numbers())


def test_streamed_numbers() -> None:
    class Halves(Dataset[tuple[Tensor, float]]):
        def __len__(self) -> int:
            return 3

        def __getitem__(self, i: int) -> tuple[Tensor, float]:
            return torch.zeros(2), i / 2

    data = ActiveDataset.from_datasets(Squares(5), Halves(), numbers=Numbers())
    assert data.test_labels.tolist() == [0.0, 0.5, 1.0]
    with pytest.raises(UserError, match="Say what a label is"):
        ActiveDataset.from_datasets(Squares(5), Halves())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"numbers": Numbers}, "numbers= takes Numbers"),
        ({"numbers": True}, "numbers= takes Numbers"),
        ({"numbers": Numbers(), "classes": ["a", "b"]}, "either classes=.* or numbers="),
    ],
)
def test_what_a_label_is_is_said_once_and_rightly(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ActiveDataset.from_arrays(X, None, X, Y, **options)


@pytest.mark.parametrize("label", ["a", [1.0, 2.0], float("nan")])
def test_a_streamed_label_that_is_none_is_told(label: Any) -> None:
    class Bad(Dataset[tuple[Tensor, Any]]):
        def __len__(self) -> int:
            return 1

        def __getitem__(self, i: int) -> tuple[Tensor, Any]:
            return torch.zeros(2), label

    with pytest.raises(UserError, match="test label of item 0 is"):
        ActiveDataset.from_datasets(Squares(5), Bad(), numbers=Numbers())


def test_labels_of_the_wrong_kind_for_the_target_are_refused() -> None:
    with pytest.raises(UserError, match="pool labels are torch.float32, and labels of classes are torch.int64"):
        ActiveDataset("a", X, Y.float(), X, Y, Classes(("a", "b", "c")))
    with pytest.raises(UserError, match="labels must be a tensor or an array of numbers"):
        ActiveDataset.from_arrays(X, ["1"] * 4, X, Y)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("options", [{"pool": -5}, {"inputs": 3}, {"noise": float("nan")}, {"test": 0}])
def test_friedman_refuses_what_it_cannot_make(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="friedman needs at least 1 item in pool and test, 6 inputs"):
        load("friedman", **options)


def test_diabetes_is_whole_and_split_once_for_all() -> None:
    from sklearn.datasets import load_diabetes

    data = load("diabetes")
    assert data.labels is not None and (len(data.pool), len(data.test)) == (342, 100)
    everyone: Any = load_diabetes()
    found = sorted([*data.labels.tolist(), *data.test_labels.tolist()])
    assert found == sorted(everyone.target.tolist())
    again = load("diabetes").labels
    assert again is not None and torch.equal(again, data.labels)
    x = data.normalise(torch.cat([data.pool[torch.arange(342)], data.test[torch.arange(100)]]))
    torch.testing.assert_close(x.mean(0), torch.zeros(10), rtol=0, atol=1e-3)
    torch.testing.assert_close(x.square().mean(0), torch.ones(10), rtol=1e-3, atol=0)


def test_friedman_is_its_formula_and_its_noise() -> None:
    data = load("friedman", noise=2.0)
    x, y = data.pool, data.labels
    assert isinstance(x, Tensor) and y is not None and x.shape == (5000, 8)
    truth = 10 * torch.sin(torch.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
    noise = (y - truth) / (4 * x[:, 5])
    assert abs(float(noise.mean())) < 4 / 5000**0.5
    assert abs(float(noise.square().mean()) - 1) < 4 * (2 / 5000) ** 0.5
    assert abs(float((y - truth).square().mean()) - 16 / 3) < 0.7  # 4/3 noise^2


def test_the_test_set_is_like_the_pool() -> None:
    pool, labels = torch.zeros(6, 1, 4, 4, dtype=torch.uint8), torch.arange(6) % 2

    def given(test: Tensor) -> ActiveDataset:
        return ActiveDataset.from_arrays(pool, labels, test, labels)

    with pytest.raises(
        UserError, match=r"An item of the test set has the shape \(4, 4\), and one of the pool \(1, 4, 4\)"
    ):
        given(pool[:, 0])
    with pytest.raises(UserError, match=r"test items are torch.float32 and the pool's torch.uint8: .* store all alike"):
        given(pool / 255)
    assert given(pool.int()).test.dtype == torch.int32  # pyright: ignore


def test_target_inputs_are_like_items_of_the_pool() -> None:
    pool, labels = torch.zeros(6, 2), torch.arange(6) % 2

    def given(inputs: Tensor) -> ActiveDataset:
        return ActiveDataset.from_arrays(pool, labels, pool, labels, target_inputs=inputs)

    assert given(torch.ones(3, 2)).target_inputs is not None
    with pytest.raises(UserError, match=r"target set has the shape \(5,\), and one of the pool \(2,\)"):
        given(torch.ones(3, 5))
    with pytest.raises(UserError, match="target_inputs has no items"):
        given(torch.ones(0, 2))
    with pytest.raises(UserError, match="target input of item 1 holds NaN"):
        given(torch.tensor([[0.0, 1.0], [float("nan"), 1.0]]))
