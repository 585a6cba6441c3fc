import csv
import io
from dataclasses import replace

from activebdl.report import Curve, by_label, table, to_csv
from tests.report.made import curve, of_numbers

CURVES = [
    curve("bald", 0, [0.5, 0.9, 0.98]),
    curve("random", 0, [0.5, 0.7, 0.8]),
    curve("bald", 1, [0.6, 0.94, 0.96]),
    curve("random", 1, [0.6, 0.8, 0.9]),
]


def rows(text: str) -> dict[str, str]:
    return {line[:14].strip(): line[14:].strip() for line in text.splitlines()}


def test_the_table_tells_means_prices_and_areas() -> None:
    told = rows(table(CURVES))
    assert told["labels"].split() == ["bald", "random"]
    assert told["40"].split("  ")[0] == "92.00 ± 2.83"  # sd of .90 and .94, in percent
    assert told["labels to 90%"].split() == ["40", "60", "-", "never"]
    assert told["labels to 95%"].endswith("never")
    assert told["labels to 98%"].split()[0] == "60"
    assert told["AULC"].split()[0] == "84.00"  # of .82 and .86, the means of (.70, .94) and (.77, .95)
    assert told["time per run"].split() == ["1.5", "min", "1.5", "min"]


ENDING_APART = [
    replace(curve("bald", 0, [0.5, 0.9], (20, 40)), stopped=True),
    replace(curve("bald", 1, [0.6, 0.8, 0.9]), stopped=True),
    curve("random", 0, [0.5, 0.6, 0.7, 0.98], (20, 40, 60, 80)),
]


def test_curves_that_end_apart_are_compared_where_all_of_them_are() -> None:
    """A run that a rule stopped has no points beyond, and its area is not one of a run that went on."""
    told = rows(table(ENDING_APART))
    assert [name for name in told if name.isdigit()] == ["20", "40"]
    assert told["AULC"] == "70.00 ± 0.00       55.00 %   up to 40 labels"
    assert told["ends at"].split() == ["40", "-", "60", "80"]
    assert told["there"] == "90.00 ± 0.00       98.00 %"
    assert told["labels to 90%"].split() == ["40", "-", "60", "80"]
    assert told["labels to 98%"].split() == ["not", "by", "40", "80"]  # and not "never": it was not let go further
    longest = replace(curve("bald", 0, [0.5, 0.9], (20, 40)), stopped=True)
    assert rows(table([longest]))["labels to 98%"] == "not by 40"
    assert "ends at" not in rows(table(CURVES)) and rows(table(ENDING_APART[:1]))["AULC"] == "70.00 %"
    assert len(list(csv.DictReader(io.StringIO(to_csv(ENDING_APART))))) == 2 + 3 + 4


NUMBERS = [of_numbers("gaussian_bald", 0, [71.5, 60, 50]), of_numbers("gaussian_bald", 1, [70.5, 58, 52])]


def test_the_table_of_numbers_tells_their_error() -> None:
    told = rows(table(NUMBERS))
    assert told["20"] == "71 ± 0.71"
    assert told["mean RMSE"] == "60 ± 0.53"  # of 60.375 and 59.625, by trapezoids
    assert not any(name.startswith("labels to") for name in told)


def test_a_single_seed_has_no_deviation() -> None:
    told = rows(table(CURVES[:2]))
    assert told["60"].split() == ["98.00", "%", "80.00", "%"]


def test_a_long_table_is_thinned_but_keeps_both_ends() -> None:
    counts = tuple(range(20, 1001, 10))
    text = table([curve("bald", 0, [0.5] * 99, counts)], rows=10)
    numbers = [int(line[:14].replace(",", "")) for line in text.splitlines() if line[:14].strip()[:1].isdigit()]
    assert len(numbers) == 10
    assert (numbers[0], numbers[-1]) == (20, 1000)


def test_posteriors_are_told_apart_when_there_are_several() -> None:
    other = Curve("bald", "map", 0, (20,), {"accuracy": (0.5,)})
    assert list(by_label([*CURVES, other])) == ["bald, mc_dropout", "random, mc_dropout", "bald, map"]
    assert list(by_label(CURVES)) == ["bald", "random"]


def test_the_csv_holds_every_point() -> None:
    points = list(csv.DictReader(io.StringIO(to_csv(CURVES))))
    assert len(points) == 12
    assert points[4] == {
        "strategy": "random", "posterior": "mc_dropout", "seed": "0", "n_labels": "40", "accuracy": "0.7",
        "nll": "0.3", "ece": "0.7",
    }  # fmt: skip
