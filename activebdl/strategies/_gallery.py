"""What each strategy is, needs and costs: for `activebdl list strategies`, and in README.md beside this file.

`python -m activebdl.strategies._gallery` writes the README's table again.
"""

from pathlib import Path

from activebdl.strategies import Strategy, strategies

COLUMNS = ("kind", "labels", "memory", "needs", "paper")
LETTERS = (
    "N items, Q asked for, n looked at, K draws, C classes, D features, P principal components, T target inputs; "
    "memory is in numbers, beyond one chunk of predictions"
)
README = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- the gallery -->\n", "<!-- the end of the gallery -->"


def facts(strategy: Strategy) -> tuple[str, ...]:
    """What is told of a strategy, by `COLUMNS`; a dash where nobody says."""
    kind = "joint" if strategy.score is None else "score"
    needs = ", ".join(strategy.needs) or "nothing"
    return kind, strategy.target, strategy.memory or "-", needs, strategy.paper or "-"


def builtin() -> list[Strategy]:
    """The library's own strategies, in alphabetical order: those that a module of this package defines."""
    known = [strategies.get(name) for name in strategies.names() if _is_ours(strategies.get(name))]
    return sorted(known, key=lambda strategy: strategy.name)


def table() -> str:
    """The gallery in Markdown."""
    head = ("strategy", "asks for", *COLUMNS)
    rows = [(f"[`{s.name}`]({s.name}.py)", s.doc.partition("\n")[0], *facts(s)) for s in builtin()]
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + f"\n{LETTERS}.\n"


def with_table(text: str) -> str:
    """A README with the table as it is to be."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    return before + begin + table() + end + after


def _is_ours(strategy: Strategy) -> bool:
    return strategy.function.__module__.startswith(f"{__package__}.")


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
