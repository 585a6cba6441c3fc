import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from activebdl import ABSTAIN, ActiveDataset, Annotation, Numbers, Request, UserError
from activebdl.build import resolved
from activebdl.oracles import Oracle, make_oracle
from activebdl.spec import Named, read_spec

MATRIX = [[0.7, 0.3, 0.0], [0.05, 0.9, 0.05], [0.0, 0.5, 0.5]]
N = 6000


def classes(n: int = N, costs: torch.Tensor | None = None) -> ActiveDataset:
    x = torch.zeros(n, 1)
    return ActiveDataset.from_arrays(x, torch.arange(n) % 3, x[:3], torch.arange(3), costs=costs)


def numbers(n: int = N) -> ActiveDataset:
    x = torch.zeros(n, 1)
    return ActiveDataset.from_arrays(x, torch.linspace(-5, 5, n).double(), x, torch.zeros(n), numbers=Numbers())


DATA = classes()


def request(ids: Any, data: ActiveDataset = DATA, key: str = "round-0") -> Request:
    ids = tuple(ids)
    return Request(key, ids, data.pool[torch.tensor(ids)], data.target)


def said(oracle: Oracle, ids: Any, data: ActiveDataset = DATA) -> list[Annotation]:
    return list(oracle.poll(oracle.submit(request(ids, data))))


def noisy(data: ActiveDataset = DATA, seed: int = 0, **options: Any) -> Oracle:
    return make_oracle("noisy", data, options=options, seed=seed)


def counts(oracle: Oracle) -> np.ndarray[Any, Any]:
    """[3 true][3 answers, and how often none]."""
    table = np.zeros((3, 4))
    for answer in said(oracle, range(N)):
        table[answer.id % 3, 3 if answer.label is None else int(answer.label)] += 1
    return table


def chi_square(seen: np.ndarray[Any, Any], probabilities: list[list[float]]) -> float:
    """Pearson's, of 3 rows of N / 3; infinite where the impossible has happened."""
    expected = np.array(probabilities) * N / 3
    assert ((expected > 0) | (seen == 0)).all()
    return float((((seen - expected) ** 2)[expected > 0] / expected[expected > 0]).sum())


# The 99.9 % points of chi-square with 4, 6 and 7 degrees of freedom are 18.5, 22.5 and 24.3.
def test_answers_come_as_often_as_the_confusion_matrix_says() -> None:
    seen = counts(noisy(confusion=MATRIX))[:, :3]
    assert chi_square(seen, MATRIX) < 18.5
    assert chi_square(seen, [*MATRIX[:2], [0.0, 0.4, 0.6]]) > 18.5  # so near a matrix is told from it


def test_errors_of_a_rate_are_uniform_over_the_other_classes() -> None:
    assert chi_square(counts(noisy(rate=0.3))[:, :3], [[0.7, 0.15, 0.15], [0.15, 0.7, 0.15], [0.15, 0.15, 0.7]]) < 22.5
    assert chi_square(counts(noisy())[:, :3], [[0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.05, 0.05, 0.9]]) < 22.5
    assert [a.label for a in said(noisy(rate=0.0), range(N))] == [id % 3 for id in range(N)]


def test_abstention_has_the_probability_of_the_true_class_and_leaves_the_rest_as_it_was() -> None:
    silent = [0.1, 0.0, 0.6]
    with_silence = [[*((1 - s) * p for p in row), s] for s, row in zip(silent, MATRIX, strict=True)]
    assert chi_square(counts(noisy(confusion=MATRIX, abstain=silent)), with_silence) < 24.3
    plain = said(noisy(confusion=MATRIX), range(N))
    for answer, other in zip(said(noisy(confusion=MATRIX, abstain=silent), range(N)), plain, strict=True):
        assert answer.label in (ABSTAIN, other.label)
    assert all(a.label is ABSTAIN for a in said(noisy(abstain=1.0), range(50)))


@given(st.permutations(range(30)), st.sets(st.integers(1, 29)), st.integers(0, 3))
def test_an_answer_depends_on_seed_annotator_and_id_alone(order: list[int], cuts: set[int], seed: int) -> None:
    whole = {a.id: a for a in said(noisy(rate=0.5, abstain=0.2, seed=seed), range(30))}
    parts: dict[int, Annotation] = {}
    oracle = noisy(rate=0.5, abstain=0.2, seed=seed)
    for begin, end in pairwise([0, *sorted(cuts), 30]):
        oracle = noisy(rate=0.5, abstain=0.2, seed=seed) if end % 2 else oracle  # some after a restart
        parts |= {a.id: a for a in said(oracle, order[begin:end])}
    assert parts == whole


def test_other_seeds_and_other_annotators_make_other_mistakes() -> None:
    def wrong(**options: Any) -> set[int]:
        return {a.id for a in said(noisy(rate=0.3, **options), range(N)) if a.label != a.id % 3}

    mistakes = [wrong(), wrong(seed=1), wrong(annotator="carol")]
    for i, one in enumerate(mistakes):
        for other in mistakes[:i]:  # independent: .09 of 6,000 in common, with a standard deviation of 22
            assert abs(len(one & other) - 0.09 * N) < 100


def test_numbers_have_gaussian_noise_and_may_be_withheld() -> None:
    data = numbers()
    assert data.labels is not None
    given = said(noisy(data, noise=0.5, abstain=0.25), range(N), data)
    errors = sorted(float(a.label - data.labels[a.id]) for a in given if a.label is not None)
    assert abs(len(errors) / N - 0.75) < 0.02
    steps = np.arange(1, len(errors) + 1) / len(errors)
    normal = np.array([0.5 * math.erfc(-e / 0.5 / math.sqrt(2)) for e in errors])
    assert np.abs(steps - normal).max() < 1.95 / math.sqrt(len(errors))  # Kolmogorov-Smirnov at .1 %


def test_costs_are_one_number_or_by_true_class_or_the_data_set_s() -> None:
    def costs(data: ActiveDataset = DATA, **options: Any) -> tuple[list[float], list[float]]:
        oracle: Any = noisy(data, rate=0.5, abstain=0.3, **options)
        return [a.cost for a in said(oracle, (0, 1, 2, 5), data)], list(oracle.price((0, 1, 2, 5)))

    assert costs() == ([0.0] * 4, [0.0] * 4)
    assert costs(cost=2) == ([2.0] * 4, [2.0] * 4)
    assert costs(cost=[1, 2, 4]) == ([1.0, 2.0, 4.0, 4.0], [4.0] * 4)  # the price does not tell the class
    own = classes(costs=torch.arange(1.0, N + 1))
    assert costs(own) == ([1.0, 2.0, 3.0, 6.0], [1.0, 2.0, 3.0, 6.0])
    oracle: Any = noisy(numbers(), noise=0.1, cost=3)
    assert [a.cost for a in said(oracle, (4, 7), numbers())] == list(oracle.price((4, 7))) == [3.0, 3.0]


def test_a_confusion_matrix_may_be_a_csv_file(tmp_path: Path) -> None:
    file = tmp_path / "confusion.csv"
    file.write_text("\n".join(",".join(map(str, row)) for row in MATRIX) + "\n")
    for path in (file, str(file)):
        assert said(noisy(confusion=path), range(99)) == said(noisy(confusion=MATRIX), range(99))


def test_files_of_a_spec_are_found_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = read_spec("digits-small", {"oracle": "noisy", "oracle.confusion": "errors.csv"})
    assert resolved(spec).oracle.options["confusion"] == str(tmp_path / "errors.csv")
    assert resolved(resolved(spec)) == resolved(spec)
    several = {"name": "crowd", "confusions": ["errors.csv", MATRIX]}
    found = resolved(spec.model_copy(update={"oracle": Named.model_validate(several)})).oracle.options
    assert found["confusions"] == [str(tmp_path / "errors.csv"), MATRIX] and found["consensus"] == "dawid_skene"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"rate": 1.5}, "rate of errors is a probability, from 0 to 1, not 1.5"),
        ({"rate": math.nan}, "rate of errors is a probability"),
        ({"confusion": [[1.0, 0.0], [0.0, 1.0]]}, "is 2 x 2, and must be 3 x 3"),
        ({"confusion": [[1.0], [0.0, 1.0], [1.0]]}, "is 3 rows of 3 numbers each"),
        ({"confusion": [[1, 0, 0], [0.5, 0.6, 0], [0, 0, 1]]}, "Row 1 of the confusion matrix sums to 1.1"),
        ({"confusion": [[1, 0, 0], [0, 1, 0], [0, -0.5, 1.5]]}, "Row 2 of the confusion matrix has -0.5"),
        ({"confusion": [[1, 0, 0], [0, 1, 0], [0, math.nan, 1]]}, "Row 2 of the confusion matrix has nan"),
        ({"confusion": MATRIX, "rate": 0.1}, "'rate' or 'confusion', not both"),
        ({"confusion": "nowhere.csv"}, "'nowhere.csv' cannot be read: No such file"),
        ({"noise": 0.1}, "of classes give 'rate' or 'confusion'"),
        ({"abstain": 1.1}, "'abstain' is from 0 to 1, not 1.1"),
        ({"abstain": [0.1, 0.2]}, "'abstain' is one number, or one for each of the 3 classes, not 2"),
        ({"cost": [1, -1, 1]}, "'cost' is 0 or more, not -1"),
        ({"cost": math.inf}, "'cost' is 0 or more, not inf"),
        ({"speed": 3}, "no option 'speed'"),
    ],
)
def test_what_cannot_be_is_told(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        noisy(**options)


def test_what_cannot_be_with_numbers_is_told() -> None:
    wrong: list[dict[str, Any]] = [{"rate": 0.1}, {"confusion": MATRIX}]
    for options in wrong:
        with pytest.raises(UserError, match="which have no 'rate' or 'confusion'"):
            noisy(numbers(10), noise=1.0, **options)
    for noise, end in ((None, "0.5"), (-1.0, "0.5, not -1.0"), (math.nan, "0.5, not nan")):
        with pytest.raises(UserError, match=f"give 'noise', the standard deviation of the errors, .* noise={end}\\.$"):
            noisy(numbers(10), noise=noise)
    several: list[dict[str, Any]] = [{"abstain": [0.1, 0.2]}, {"cost": [0.1, 0.2]}]
    for options in several:
        with pytest.raises(UserError, match="'(abstain|cost)' is one number, not 2"):
            noisy(numbers(10), noise=1.0, **options)


def test_a_file_that_is_no_matrix_and_data_without_labels_are_told(tmp_path: Path) -> None:
    file = tmp_path / "words.csv"
    file.write_text("cat,dog\n")
    with pytest.raises(UserError, match=r"words.csv' is not numbers with commas"):
        noisy(confusion=file)
    x = torch.zeros(4, 1)
    with pytest.raises(UserError, match="has no labels of its own"):
        noisy(ActiveDataset.from_arrays(x, None, x[:2], torch.tensor([0, 1])))
