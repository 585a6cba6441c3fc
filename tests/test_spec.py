from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from activebdl import (
    Affine,
    CostLimit,
    Elastic,
    PseudoLabels,
    SimCLR,
    StablePredictions,
    UserError,
    Views,
    WallTime,
)
from activebdl.build import (
    build,
    make_dataset,
    make_method,
    make_pretraining,
    make_rule,
    make_views,
    named_posterior,
    resolved,
)
from activebdl.data.augment import strong
from activebdl.settings import presets
from activebdl.spec import Comparison, Named, named_strategy, read_spec, spec_text, validate
from activebdl.views import gentle


@pytest.mark.parametrize("name", presets())
def test_every_preset_is_valid_and_survives_being_written_and_read(name: str) -> None:
    spec = resolved(read_spec(name))
    again = validate(yaml.safe_load(yaml.safe_dump(spec.model_dump(mode="json"))), "again")
    assert again == spec
    assert resolved(again) == spec


def test_gal_2017_is_their_protocol() -> None:
    spec = resolved(read_spec("mnist-gal2017"))
    assert spec.label_counts() == tuple(range(20, 1001, 10))
    assert spec.draws == 100
    assert spec.start.name == "balanced"
    assert spec.network.name == "gal2017_cnn"
    training = spec.posterior.options["training"]
    assert training["augmentation"] is None
    assert training["prior_on"] == ["dense1.weight"]  # theirs is on the first dense layer alone


def test_a_file_says_only_what_differs(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("dataset: digits\nstrategy: {name: power_bald, beta: 2}\nbudget: 60\n")
    spec = read_spec(str(file), {"posterior.training.steps": 7, "seed": 3})
    assert spec.dataset == Named(name="digits")
    assert spec.strategy.options == {"beta": 2}
    assert spec.posterior.name == "mc_dropout"
    assert spec.posterior.options == {"training": {"steps": 7}}
    assert (spec.budget, spec.seed) == (60, 3)


EXTENDED = """
extends: mnist-1000
dataset: {name: unbalanced_mnist, share: 0.2}
posterior: {training: {steps: 7}}
strategy: {beta: 2}
start: random
compare: {seeds: [1, 2]}
"""


def test_a_file_extends_a_preset_by_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(EXTENDED)
    spec, base = read_spec(str(tmp_path / "mine.yaml")), read_spec("mnist-1000")
    assert spec.dataset.options == {"share": 0.2}
    assert spec.posterior.options["training"] == {**base.posterior.options["training"], "steps": 7}
    assert spec.strategy == Named.model_validate({"name": "power_bald", "beta": 2})
    assert spec.start == Named(name="random")
    assert spec.compare == Comparison(strategies=(spec.strategy, Named(name="random")), seeds=(1, 2))
    assert (spec.network, spec.growth, spec.views) == (base.network, base.growth, base.views)
    assert spec.experiment == "mnist-1000-custom"  # not among the preset's own curves


@pytest.mark.parametrize(
    ("text", "experiment"),
    [
        ("posterior: {training: {steps: 7}}", "mnist-1000-custom"),
        ("posterior: {name: mc_dropout, masks_per_batch: 2}", "mnist-1000-custom"),
        ("posterior: laplace", "mnist-1000"),
        ("posterior: {name: ensemble, members: 3}", "mnist-1000"),
        ("strategy: {beta: 2}\ncompare: {seeds: [1]}\ndevice: cpu", "mnist-1000"),
        ("network: {width: 16}", "mnist-1000-custom"),
        ("dataset: fashion_mnist", "mnist-1000-fashion_mnist"),
        ("dataset: {name: mnist, tuning: true}", "mnist-1000-custom"),
    ],
)
def test_what_extends_a_preset_is_its_experiment_as_on_the_command_line(
    tmp_path: Path, text: str, experiment: str
) -> None:
    (tmp_path / "mine.yaml").write_text(f"extends: mnist-1000\n{text}\n")
    assert read_spec(str(tmp_path / "mine.yaml")).experiment == experiment


def test_another_name_starts_afresh(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "extends: mnist-1000\nposterior: {name: map}\nnetwork: {name: mlp, hidden: [9]}\n"
    )
    spec = read_spec(str(tmp_path / "mine.yaml"))
    assert spec.posterior == Named(name="map")
    assert spec.network.options == {"hidden": [9]}


def test_files_extend_files_beside_them(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "base.yaml").write_text("extends: digits-small\nexperiment: ours\nbudget: 50\nseed: 4\n")
    (tmp_path / "sub" / "mine.yaml").write_text("extends: ../base.yaml\nbudget: 60\nexperiment: mine\n")
    spec = read_spec(str(tmp_path / "sub" / "mine.yaml"), {"seed": 5})
    assert (spec.dataset.name, spec.experiment, spec.budget, spec.seed) == ("digits", "mine", 60, 5)


def test_mistakes_in_what_is_extended(tmp_path: Path) -> None:
    def mistake(text: str) -> str:
        (tmp_path / "sub" / "mine.yaml").write_text(text)
        with pytest.raises(UserError) as told:
            read_spec(str(tmp_path / "sub" / "mine.yaml"))
        return str(told.value)

    (tmp_path / "sub").mkdir()
    (tmp_path / "other.yaml").write_text("extends: sub/mine.yaml\n")
    assert "mine.yaml, line 2: extends is the name of a preset or of a .yaml file, not 3" in mistake(
        "seed: 1\nextends: 3"
    )
    assert "other.yaml, line 1: " in (told := mistake("extends: ../other.yaml")) and "extends itself" in told
    (tmp_path / "base.yaml").write_text("seed: 1\nbudget: many\ncompare:\n  seeds: [-1]\n")
    assert "base.yaml, line 2: budget should be" in mistake("extends: ../base.yaml\nseed: 3")
    assert "mine.yaml, line 2: budget should be" in mistake("extends: ../base.yaml\nbudget: few")
    assert "base.yaml, line 4: compare.seeds.0 should" in mistake("extends: ../base.yaml\nbudget: 30")
    assert "Unknown preset 'mnits'" in mistake("extends: mnits")
    assert "none.yaml' cannot be read" in mistake("extends: none.yaml")
    assert "mine.yaml, line 2: there is no setting 'budgt'" in mistake("extends: mnist-1000\nbudgt: 3")


def test_a_bare_name_can_be_given_options() -> None:
    spec = read_spec("digits-small", {"dataset.noise": 1, "strategy.beta": 3})
    assert spec.dataset.options == {"noise": 1}
    assert spec.strategy == Named.model_validate({"name": "bald", "beta": 3})


def test_a_strategy_by_name_keeps_the_options_that_the_spec_has_for_it() -> None:
    spec = read_spec("mnist-1000")
    assert named_strategy(spec, "power_bald").options == {"beta": 4}
    assert named_strategy(spec, "margin").options == {}


def test_a_posterior_by_name_is_trained_as_the_spec_says() -> None:
    spec = read_spec("mnist-1000")
    laplace = named_posterior(spec, "laplace")
    assert laplace.name == "laplace" and laplace.options == {"training": spec.posterior.options["training"]}
    assert named_posterior(spec, "mc_dropout") == spec.posterior
    assert named_posterior(spec.model_copy(update={"posterior": Named(name="map")}), "swag") == Named(name="swag")


def test_a_posterior_of_ones_own_need_not_have_a_training(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("class Mine:\n    def fit(self): ...\n")
    reference = f"{tmp_path / 'mine.py'}:Mine"
    assert named_posterior(read_spec("mnist-1000"), reference) == Named(name=reference)


BAD: list[tuple[str, str]] = [
    ("dataset: mnist\nbudget: many\n", "line 2: budget should be a valid integer, not 'many'"),
    ("dataset: mnist\nbudgt: 3\n", "line 2: there is no setting 'budgt'. Known: experiment, dataset, .*budget"),
    ("dataset: mnist\n  budget: [1\n", "line 2: this is not YAML: mapping values are not allowed here"),
    ("a: [1, 2\nb: 3\n", "line [12]: this is not YAML"),
    ("- mnist\n", "line 1: a run is told by 'key: value' lines, not by a list"),
    ("just words", "line 1: a run is told by 'key: value' lines, not by a str"),
    ("seed: 0\ncompare:\n  strategies:\n    - bald\n    - {beta: 3}\n", "line 5: compare.strategies.1.name"),
    ("compare:\n  seeds: [0, -1]\n", "line 2: compare.seeds.1 should be greater than or equal to 0, not -1"),
    ("compare:\n  seeds: [4, 4]\n", "line 1: compare.seeds has 4 twice; each stands there once.$"),
    ("compare:\n  seed: [1]\n", "line 2: there is no setting 'compare.seed'. Known: strategies, posteriors, seeds"),
    ("start: 3\n", "line 1: start should be a name, or a name with options, not 3"),
    ("seed: 0\nstop:\n  - stable_predictions\n  - 3\n", "line 4: stop.1 "),
    ("stop: [{kappa: 3}]\n", "line 1: stop.0.name field required"),
    ("validation: -1\n", "line 1: validation should be greater than or equal to 0, not -1"),
    ("stop_set: 0\n", "line 1: stop_set should be greater than or equal to 1, not 0"),
    (
        "seed: 0\nviews: no-views\n",
        "line 2: views cannot be 'no-views'; it is test-time augmentation: true, a number of",
    ),
    ("pretraining: 3\n", r"line 1: pretraining cannot be 3; it is features learned .*: true, or its settings\.$"),
    ("candidates: 0.5\n", "line 1: candidates cannot be 0.5; it is what a strategy sees: null for all, a number"),
    ("scoring: 3\n", "line 1: scoring cannot be 3; it is full: all draws see every item; race: "),
    ("draws: 0\n", "line 1: draws should be greater than or equal to 1, not 0"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_mistakes_in_a_file_are_told_with_their_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=f"mine.yaml, {message}"):
        read_spec(str(file))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_spec(str(tmp_path / "none.yaml"))
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="it is not text"):
        read_spec(str(tmp_path / "binary.yaml"))
    with pytest.raises(
        UserError, match="Unknown preset 'mnits'. Known: diabetes, digits-small, fashion-1000, mnist-1000"
    ):
        read_spec("mnits")


def test_an_empty_file_is_the_default_run(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert read_spec(str(tmp_path / "empty.yaml")).dataset.name == "mnist"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"posterior.training.stps": 3}, "training of the posterior 'mc_dropout' has no setting 'stps'; it has: steps"),
        ({"posterior.thn": 3}, "posterior 'mc_dropout' has no setting 'thn'"),
        ({"posterior.training.steps": "a"}, "'steps' of the training of the posterior 'mc_dropout': input should be"),
        ({"posterior.training.optimizer": "adem"}, "'optimizer' of the .* 'adamw', 'adam' or 'sgd', not 'adem'"),
        ({"posterior.training.augmentation": "flip"}, "Unknown augmentation 'flip'. Known: affine"),
        ({"posterior.training.augmentation": {"name": "affine", "rot": 1}}, "augmentation 'affine' has no setting"),
        ({"posterior.training.steps": 0}, "steps is a whole number from 1 on, not 0"),
        ({"posterior": "mc_drop"}, "Unknown posterior 'mc_drop'. Known: .*map, mc_dropout"),
        ({"network": "cnn"}, "Unknown network 'cnn'"),
        ({"dataset": "minst"}, "Unknown dataset 'minst'"),
        ({"budget": 10}, "below the initial size"),
        ({"stop": "stabel"}, "Unknown stopping rule 'stabel'. Known: all_of, any_of, cost"),
        ({"stop": [{"name": "cost"}]}, "The stopping rule 'cost' needs a setting 'limit'"),
        ({"stop": [{"name": "cost", "limt": 3}]}, "stopping rule 'cost' has no setting 'limt'; it has: limit"),
        ({"stop": [{"name": "cost", "limit": "much"}]}, "'limit' of the stopping rule 'cost': input should be a valid"),
        ({"stop": [{"name": "cost", "limit": -3}]}, "limit of cost is a number above 0, not -3"),
        ({"stop": [{"name": "any_of", "rules": "cost"}]}, "'rules' of the stopping rule 'any_of': input should be"),
        ({"stop": [{"name": "any_of", "rules": ["cost"]}]}, "The stopping rule 'cost' needs a setting 'limit'"),
        ({"stop": [{"name": "all_of", "rules": []}]}, "AllOf takes a list of one or more stopping rules"),
        ({"posterior.training.pseudo_labels": 3}, "takes settings .items, threshold, .*true or false, not 3"),
        (
            {"posterior.training.pseudo_labels": {"treshold": 0.9}},
            "has no setting 'treshold'; it has: items, threshold",
        ),
        ({"posterior.training.pseudo_labels": {"threshold": 2}}, "threshold is a probability"),
        ({"pretraining": {"stepz": 3}}, "setting 'pretraining' has no setting 'stepz'; it has: steps"),
        ({"pretraining": {"steps": 0}}, "SimCLR takes at least 1 step"),
        ({"views": 0}, "at least 1 view"),
        ({"views.scoring": True}, r"'views' is 5, and no settings by name.* as in views={scoring: True}\.$"),
        ({"views": {"augmentation": "crop"}}, "Unknown augmentation 'crop'. Known: affine, elastic, handwriting"),
        ({"validation": 20}, "20 validation labels count among the 20 of the first round.* begin with more than 20"),
        ({"validation": 5, "counts": [5, 10]}, "5 validation labels count among the 5 of the first round"),
    ],
)
def test_mistakes_in_settings_are_told(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolved(read_spec("mnist-1000", changes))


def test_a_resolved_spec_has_every_default_written_out() -> None:
    spec = resolved(read_spec("mnist-1000", {"dataset": "repeated_mnist"}))
    assert spec.dataset.options == {"repeats": 3, "noise": 0.1, "seed": 0}
    assert spec.network.options == {"dropout": 0.05, "width": 32, "hidden": 128}
    assert spec.posterior.options["training"]["weight_decay"] == 0.01
    assert spec.posterior.options["training"]["augmentation"]["name"] == "handwriting"
    assert spec.counts is not None
    assert spec.counts[-1] == 1000


def test_switches_are_on_or_off_or_have_settings() -> None:
    def built(changes: dict[str, Any]) -> tuple[object, object, object]:
        spec = resolved(read_spec("digits-small", changes))
        assert resolved(validate(yaml.safe_load(spec_text(spec)), "again")) == spec
        method: Any = make_method(spec.posterior)
        return method.training.pseudo_labels, make_pretraining(spec), make_views(spec)

    assert built({}) == (None, None, None)
    on = {"posterior.training.pseudo_labels": True, "pretraining": True, "views": 4}
    assert built(on) == (PseudoLabels(), SimCLR(), Views(4))
    assert built({"posterior.training.pseudo_labels": False, "pretraining": False, "views": None}) == (None, None, None)
    bent = {"name": "elastic", "bend": 0.01}
    settings: dict[str, Any] = {
        "posterior.training.pseudo_labels": {"items": 32, "augmentation": bent},
        "pretraining": {"steps": 10, "augmentation": "affine"},
        "views": {"augmentation": bent, "scoring": True},
    }
    pseudo_labels = PseudoLabels(items=32, augmentation=Elastic(bend=0.01))
    assert built(settings) == (
        pseudo_labels,
        SimCLR(10, augmentation=Affine()),
        Views(augmentation=Elastic(bend=0.01), scoring=True),
    )


def test_options_of_an_augmentation_alone_change_those_and_no_others() -> None:
    spec = resolved(
        read_spec("digits-small", {"views.augmentation.rotation": 3, "pretraining.augmentation.bend": 0.01})
    )
    views, pretraining = make_views(spec), make_pretraining(spec)
    assert views is not None and views.augmentation == replace(gentle(), rotation=3)
    assert pretraining is not None and pretraining.augmentation == replace(strong(), bend=0.01)


def test_stopping_rules_are_read_with_their_settings_and_written_out() -> None:
    nested = {"name": "all_of", "rules": ["stable_predictions", {"name": "cost", "limit": 300}]}
    changes = {"stop": [{"name": "wall_time", "minutes": 30}, nested], "validation": 10}
    spec = resolved(read_spec("digits-small", changes))
    first, second = map(make_rule, spec.stop)
    assert first == WallTime(30) and second == StablePredictions(0.99, 3) & CostLimit(300)
    assert spec.stop[1].options["rules"][0] == {"name": "stable_predictions", "kappa": 0.99, "rounds": 3}
    again = validate(yaml.safe_load(spec_text(spec)), "again")
    assert again == spec and resolved(again) == spec
    assert spec.label_counts() == (20, 40, 60, 80, 100)  # validation items are among them


@pytest.mark.parametrize(
    ("given", "count"), [("stable_predictions", 1), ({"name": "labels", "limit": 9}, 1), (None, 0)]
)
def test_a_single_stopping_rule_needs_no_list(given: Any, count: int) -> None:
    assert len(read_spec("digits-small", {"stop": given}).stop) == count


def test_numbers_that_yaml_reads_as_words_are_numbers_to_networks_data_and_oracles() -> None:
    spec = read_spec("digits-small", {"oracle": {"name": "noisy", "cost": "1e-3"}, "network.dropout": "1e-1"})
    cycle = build(spec)
    assert list(cycle.oracle.price([0, 1])) == [0.001, 0.001]  # pyright: ignore[reportAttributeAccessIssue,reportUnknownMemberType,reportUnknownArgumentType]
    assert {part.p for part in cycle.learner.network().modules() if isinstance(part, nn.Dropout)} == {0.1}
    friedman = [make_dataset(Named.model_validate({"name": "friedman", "noise": noise})) for noise in ("5e-1", 0.5)]
    assert torch.equal(friedman[0].labels, friedman[1].labels)  # pyright: ignore[reportArgumentType]
