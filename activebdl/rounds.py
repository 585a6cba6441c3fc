"""What one round of the cycle brought."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from activebdl.annotations import Annotation
from activebdl.journal_reading import RoundRecord


@dataclass(frozen=True)
class Round:
    """What one round brought.

    Args:
        number: From 0.
        n_labels: Labels known at its end, those of validation items included.
        ids: The items labelled in this round, in the order in which they were asked for; no validation items.
        labels: Theirs.
        scores: Theirs; None where the strategy has none.
        metrics: On the test set: accuracy, nll, ece and brier of classes; rmse, nll and coverages of numbers.
        diagnostics: What the inference method tells of its fit, e.g. "nll" and "kl" in nats; often empty.
        seconds: What "select", "ask", "fit" and "evaluate" took.
        confusion: Counts ``[C true][C predicted]`` on the test set; empty for numbers.
        reliability: Lower edge, mean confidence, accuracy and count of each bin on the test set; empty for numbers.
        written_ms: When it was recorded, in milliseconds since 1970; the same after a resume. 0 for a
            stopping rule, which is asked before.
        cost: What all annotations have cost by its end, those of abstentions and of validation items too.
        samples: Items times draws that a score looked at to choose its items, without those of a prefilter; None where
            the strategy is not a score.
        validation: The same metrics on the validation items, and their "size"; empty where there are none.
        watch: What is seen on the stop set, where a stopping rule looks at it: "uncertainty", the mean entropy of the
            predictive in nats, or its mean standard deviation in units of numbers; and of classes, from the second
            round on, "kappa", the agreement with the last round's predictions.
        stopped: Why a stopping rule ended the run with this round; None in all others.
    """

    number: int
    n_labels: int
    ids: tuple[int, ...]
    labels: tuple[int | float, ...]
    scores: tuple[float | None, ...]
    metrics: dict[str, float]
    diagnostics: dict[str, float]
    seconds: dict[str, float]
    confusion: list[list[int]]
    reliability: dict[str, list[float]]
    written_ms: int
    cost: float = 0.0
    samples: int | None = None
    validation: dict[str, float] = field(default_factory=dict[str, float])
    watch: dict[str, float] = field(default_factory=dict[str, float])
    stopped: str | None = None

    @staticmethod
    def of(number: int, new: Sequence[tuple[Annotation, float | None]], record: RoundRecord) -> "Round":
        """Of what is recorded of it, and the annotations, with their scores, that came in it."""
        known = {field.name for field in fields(Round)}  # a later version may have recorded more
        return Round(
            number=number,
            n_labels=record.n_labels,
            ids=tuple(annotation.id for annotation, _ in new),
            labels=tuple(annotation.label for annotation, _ in new if annotation.label is not None),
            scores=tuple(score for _, score in new),
            written_ms=record.written_ms,
            **{key: value for key, value in record.results.items() if key in known},
        )
