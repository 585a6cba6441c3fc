"""What is told of each strategy, in the list and in the README beside them: that it is there, and that it is true."""

import inspect
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from activebdl import Normalise, Query, UserError, joint_strategy, strategy
from activebdl.listings import listings
from activebdl.scoring import Scorer
from activebdl.strategies import Strategy, strategies
from activebdl.strategies._gallery import README, builtin, with_table
from tests.conftest import KnownDraws
from tests.strategies.fakes import target_of

BUILTIN = pytest.mark.parametrize("found", builtin(), ids=lambda found: found.name)
SCORES = pytest.mark.parametrize("found", [found for found in builtin() if found.score], ids=lambda found: found.name)
SIZES = {"N": 2000, "K": 10, "C": 5, "D": 12, "P": 12, "n": 200, "T": 100}
OPTIONS: dict[str, dict[str, Any]] = {"bait": {"candidates": SIZES["n"]}, "epig": {"targets": SIZES["T"]}}
LABELLED = 20


def predictions(target: str, n: int, k: int, c: int) -> Tensor:
    noise = torch.randn(n, k, c, generator=torch.Generator().manual_seed(0))
    return torch.stack([noise[..., 0], noise[..., 1].exp()], dim=2) if target == "numbers" else noise.log_softmax(2)


def query(found: Strategy, n: int, k: int, c: int, d: int, see: Callable[[str], Any]) -> Query:
    """Two of n items, of which the first few are labelled; ``see`` is told what the strategy looks at."""
    labelled = LABELLED if n > LABELLED else 1
    table, features = predictions(found.target, n, k, c), torch.randn(n, d, generator=torch.Generator().manual_seed(1))

    def predict(draws: object, x: Tensor) -> Tensor:
        see("draws")
        return table[x[:, 0].long()]

    def read(x: Tensor) -> Tensor:
        see("features")
        return features[x[:, 0].long()]

    class Items:
        def __len__(self) -> int:
            return n

        def __getitem__(self, ids: Tensor) -> Tensor:
            see("items")
            return features[ids]

    positions = torch.arange(n)
    scorer = Scorer(
        KnownDraws(table), positions[:, None].float(), Normalise(), torch.device("cpu"), 32,
        predict=predict, read_features=read, target=target_of(found),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    return Query(positions[labelled:], positions[:labelled], 2, generator, scorer, Items(), Normalise())


@BUILTIN
def test_each_needs_what_it_says(found: Strategy) -> None:
    seen: set[str] = set()
    found.select(query(found, 12, 4, 3, 5, seen.add))
    assert seen == set(found.needs)


class Largest(TorchFunctionMode):
    """Sees every tensor that is made, and keeps the largest number of elements."""

    numbers = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for made in result if isinstance(result, tuple | list) else [result]:
            if isinstance(made, Tensor):
                self.numbers = max(self.numbers, made.untyped_storage().nbytes() // made.element_size())
        return result


def value(memory: str, sizes: dict[str, int]) -> int:
    """What a formula such as "N (C + D)" comes to."""
    written_out = re.sub(r"(?<=[\w)]) (?=[\w(])", " * ", memory).replace("^", "**")
    return eval(written_out, {}, sizes)


def test_formulas_are_read_as_they_are_meant() -> None:
    sizes = {"N": 7, "K": 3, "C": 2, "D": 5, "n": 4}
    assert value("N", sizes) == 7 and value("N K C", sizes) == 42 and value("N (C + D)", sizes) == 49
    assert value("(C D)^2 + n (C^2 + D)", sizes) == 100 + 4 * 9


@BUILTIN
def test_each_holds_what_it_says_in_memory(found: Strategy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest tensor that it makes is of that size, where blocks of work and chunks are small."""
    for module in ("_batches", "_joint_entropy", "badge", "bait", "epig", "k_centre"):
        monkeypatch.setattr(f"activebdl.strategies.{module}.BLOCK", 2**13)
    for module in ("_clusters", "typiclust"):
        monkeypatch.setattr(f"activebdl.strategies.{module}.AT_A_TIME", 2**13)
    told = value(found.memory, SIZES)
    chosen = replace(found, options=OPTIONS.get(found.name, {}))
    asked = query(found, *(SIZES[letter] for letter in "NKCD"), see=lambda what: None)
    with Largest() as largest:
        chosen.select(asked)
    assert told / 3 <= largest.numbers <= 2 * told


@BUILTIN
def test_each_has_a_paper_that_its_file_cites_in_full(found: Strategy) -> None:
    cited = inspect.getdoc(inspect.getmodule(found.function)) or ""
    assert found.paper == "folklore" if found.name == "random" else found.paper[-4:].isdigit()
    if found.paper != "folklore":
        names = re.findall(r"[A-Z]\w+", found.paper)
        assert names and [word for word in (*names, found.paper[-4:]) if word not in cited] == []


@SCORES
def test_scores_are_zero_where_their_line_says_so(found: Strategy) -> None:
    line = found.doc.partition("\n")[0]
    assert line.count("0 (") == 1
    agreeing = predictions(found.target, 6, 1, 4).expand(-1, 5, -1)
    sure = torch.eye(4).log()[:, None].expand(-1, 5, -1)
    tables = {"0 (sure)": [sure], "0 (all agree)": [agreeing], "0 (all do)": [agreeing]}
    for table in tables[line[line.index("0 (") : line.index(")") + 1]]:
        torch.testing.assert_close(found.scores(table), torch.zeros(len(table)), atol=1e-6, rtol=0)
    various = found.scores(predictions(found.target, 6, 5, 4))
    assert bool((various > 1e-3).any()) and bool((various >= 0).all())


# ---- the list ----


def told() -> list[str]:
    """The list, as the command line prints it."""
    rows = listings()["strategies"]()
    width = max(len(name) for name, _ in rows)
    return [f"  {name.ljust(width)}  {about}".rstrip() for name, about in rows]


@pytest.fixture
def forgetting(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is registered in a test is forgotten after it."""
    strategies.names()
    monkeypatch.setattr(strategies, "_known", {found.name: found for found in strategies.known()})


def test_the_list_fits_a_terminal_in_columns() -> None:
    lines = told()
    assert max(map(len, lines)) <= 110
    head = next(line for line in lines if line.split() == ["kind", "labels", "memory", "needs", "paper"])
    at = [head.index(word) for word in head.split()]
    for found in builtin():
        first = next(i for i, line in enumerate(lines) if line.startswith(f"  {found.name} "))
        cells = [lines[first + 1][start:end].strip() for start, end in zip(at, [*at[1:], None], strict=True)]
        kind = "score" if found.score else "joint"
        assert cells == [kind, found.target, found.memory, ", ".join(found.needs) or "nothing", found.paper]
        options = [line.split("strategy.")[1] for line in lines[first + 2 :][: len(found.settings)]]
        assert [line.partition(" = ")[0] for line in options] == list(found.settings)


@pytest.mark.usefixtures("forgetting")
def test_ones_own_is_in_the_list_and_not_in_the_readme() -> None:
    before = with_table(README.read_text())

    @strategy("mine", paper="Me 2026")
    def mine(log_probs: Tensor, *, weight: float = 0.5) -> Tensor:
        """Nothing in particular."""
        return weight * log_probs[:, 0, 0]

    @joint_strategy("also_mine", needs=("items",))
    def also_mine(query: Query) -> Tensor:
        return query.unlabelled[: query.quantity]

    lines = told()
    at = next(i for i, line in enumerate(lines) if re.fullmatch(r"  mine +Nothing in particular\.", line))
    assert lines[at + 1].split() == ["score", "classes", "N", "draws", "Me", "2026"]
    assert lines[at + 2].split() == ["strategy.weight", "=", "0.5"]
    at = next(i for i, line in enumerate(lines) if line == "  also_mine")
    assert lines[at + 1].split() == ["joint", "any", "-", "items", "-"]
    assert with_table(README.read_text()) == before


@pytest.mark.parametrize("needs", ["features", ("feature",), ["draws"]])
def test_needs_that_there_are_not_are_told(needs: Any) -> None:
    with pytest.raises(UserError, match="'odd' needs=.* must be a tuple of some of draws, features, items"):
        joint_strategy("odd", needs=needs)(lambda query: query.unlabelled)


def test_the_readme_has_the_table_that_the_registry_gives() -> None:
    text = README.read_text(encoding="utf-8")
    told_so = "the gallery differs from the registry: python -m activebdl.strategies._gallery writes it again"
    assert all(f"[`{found.name}`]({found.name}.py)" in text for found in builtin()), told_so
    assert text == with_table(text), told_so
