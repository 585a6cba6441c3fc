"""MC-dropout: thinned sub-networks are the network with masks, and a draw is one function."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from activebdl import MCDropout, Training, UserError
from activebdl.data import Labelled
from activebdl.likelihoods import Categorical
from activebdl.posteriors.mc_dropout import DropoutPosterior, MaskedDraws, ThinnedDraws
from tests.posteriors.modules import MODULES, PLAIN, dropped, inputs, made, seeded

EVERY = pytest.mark.parametrize("name", MODULES)


def posterior(name: str, thin: bool = True) -> DropoutPosterior:
    return DropoutPosterior(made(name), inputs(name, 2), thin=thin)


@EVERY
def test_thinned_draws_equal_the_whole_network_with_its_masks(name: str) -> None:
    x = inputs(name, 9)
    thinned = posterior(name).draw(12, generator=seeded())
    plain = posterior(name, thin=False).draw(12, generator=seeded())
    assert isinstance(plain, MaskedDraws)
    assert isinstance(thinned, MaskedDraws if name in PLAIN else ThinnedDraws)
    torch.testing.assert_close(thinned.log_probs(x), plain.log_probs(x), rtol=0, atol=1e-12)
    assert name == "beginning_with_dropout" or len(plain.log_probs(x)[0].unique(dim=0)) > 1


@EVERY
def test_masks_are_those_of_torch_in_training(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network in train mode, with torch's own dropout fed our masks, gives our draw."""
    x, given = inputs(name, 4), posterior(name, thin=False)
    draws = given.draw(1, generator=seeded(3))
    assert isinstance(draws, MaskedDraws)
    ours = draws.log_probs(x)[:, 0]
    masks = iter(draws.masks[0].values())
    sites = iter(draws.sites.values())

    def forward(self: nn.Module, input: Tensor) -> Tensor:
        keep, site = next(masks), next(sites)
        assert tuple(keep.shape) == site.shape
        return dropped(self, input, keep)

    for kind in (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout):
        monkeypatch.setattr(kind, "forward", forward)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        expected = given.module(x).log_softmax(-1)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)


@EVERY
def test_a_draw_is_one_function(name: str) -> None:
    """Whatever the batch, its size, its order, and what else is in it."""
    x = inputs(name, 10)
    draws = posterior(name).draw(3, generator=seeded())
    whole = draws.log_probs(x)
    order = torch.randperm(10, generator=seeded(5))
    torch.testing.assert_close(draws.log_probs(x[order]), whole[order], rtol=0, atol=1e-12)
    for size in (1, 3, 7):
        parts = torch.cat([draws.log_probs(part) for part in x.split(size)])
        torch.testing.assert_close(parts, whole, rtol=0, atol=1e-12)
    same = draws.log_probs(x[:1].repeat(6, 1, 1, 1))
    torch.testing.assert_close(same, same[:1].expand_as(same), rtol=0, atol=1e-13)


@EVERY
def test_the_first_draws_are_the_same_however_many_there_are(name: str) -> None:
    x = inputs(name, 4)
    few = posterior(name).draw(2, generator=seeded()).log_probs(x)
    many = posterior(name).draw(7, generator=seeded()).log_probs(x)
    torch.testing.assert_close(many[:, :2], few, rtol=0, atol=1e-13)
    assert not torch.equal(posterior(name).draw(7, generator=seeded(1)).log_probs(x), many) or "beginning" in name


@EVERY
@pytest.mark.parametrize("thin", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_sampling_leaves_the_module_as_it_was(name: str, thin: bool, training: bool) -> None:
    given = posterior(name, thin)
    given.module.train(training)
    first = next(iter(given.module.children()))
    first.train(not training)  # modes may differ within a module
    before = {key: value.clone() for key, value in given.module.state_dict().items()}
    modes = [child.training for child in given.module.modules()]
    hooks = [len(child._forward_hooks) for child in given.module.modules()]
    given.draw(3, generator=seeded()).log_probs(inputs(name, 3))
    with pytest.raises(RuntimeError):  # the linear layers read float64
        given.draw(3, generator=seeded()).log_probs(inputs(name, 3).float())
    assert [child.training for child in given.module.modules()] == modes
    assert [len(child._forward_hooks) for child in given.module.modules()] == hooks
    assert all(torch.equal(value, before[key]) for key, value in given.module.state_dict().items())


def test_the_mean_over_many_masks_is_the_linear_layer_itself() -> None:
    """E[mask] = 1, so for a linear network the draws' logits average to the network without dropout."""
    module = nn.Sequential(nn.Dropout(0.3), nn.Linear(6, 2)).double().eval().requires_grad_(False)
    x = torch.randn(1, 6, generator=seeded(), dtype=torch.double)
    draws = DropoutPosterior(module, x.repeat(2, 1)).draw(20_000, generator=seeded())
    log_probs = draws.log_probs(x)[0]
    logits = log_probs[:, 0] - log_probs[:, 1]  # what softmax leaves of two logits is their difference
    expected = module(x)[0, 0] - module(x)[0, 1]
    error = logits.std() / 20_000**0.5
    assert abs(float(logits.mean() - expected)) < 4.5 * float(error)


@EVERY
def test_float32_agrees_with_float64(name: str) -> None:
    x, module = inputs(name, 5), made(name)
    exact = DropoutPosterior(module, x[:2]).draw(8, generator=seeded()).log_probs(x)
    rough = DropoutPosterior(module.float(), x[:2].float()).draw(8, generator=seeded()).log_probs(x.float())
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough.double(), exact, rtol=0, atol=1e-5)


def test_low_precision_networks_give_float32_log_probs() -> None:
    module = made("mlp").bfloat16()
    x = inputs("mlp", 3).bfloat16()
    log_probs = DropoutPosterior(module, x[:2]).draw(4, generator=seeded()).log_probs(x)
    assert log_probs.dtype == torch.float32
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(3, 4))


# ---- what is computed once ----


def test_what_comes_before_the_first_dropout_is_computed_once() -> None:
    calls: dict[str, int] = {}
    module = made("batchbald_cnn")
    for name, child in module.named_children():
        child.register_forward_hook(lambda *_, name=name: calls.update({name: calls.get(name, 0) + 1}))
    x = inputs("batchbald_cnn", 3)
    draws = DropoutPosterior(module, x[:2]).draw(10, generator=seeded())
    calls.clear()
    draws.log_probs(x)
    # convolution, pooling and relu up to the second convolution: the dropout sank through two of them
    assert {name: calls.get(name, 0) for name in ("0", "2", "3")} == {"0": 1, "2": 1, "3": 1}


def test_what_a_hook_keeps_of_a_layer_is_not_written_over() -> None:
    module, x = made("mlp"), inputs("mlp", 3)
    draws = DropoutPosterior(module, x[:2]).draw(2, generator=seeded())
    kept: list[Tensor] = []
    module[1].register_forward_hook(lambda _, __, output: kept.append(output))  # type: ignore[index]
    given = DropoutPosterior(module, x[:2]).draw(2, generator=seeded())
    kept.clear()
    torch.testing.assert_close(given.log_probs(x), draws.log_probs(x), rtol=0, atol=1e-13)
    assert torch.equal(kept[0], module[1](x.flatten(1)))  # type: ignore[index]
    assert bool((kept[0] < 0).any())


def test_dropped_channels_are_not_computed() -> None:
    draws = posterior("batchbald_cnn").draw(4, generator=seeded())
    assert isinstance(draws, ThinnedDraws)
    for plan in draws.plans:
        second = next(weights.weight for weights in plan.weights.values() if weights.weight.dim() == 4)
        live = next(iter(plan.live.values()))
        assert second.shape[1] == len(live) < 32
        assert second.shape[0] < 64


def test_channels_are_cut_out_through_batch_norm() -> None:
    """What lies between two convolutions, batch norm and relu, keeps neither whole."""
    draws = posterior("resnet").draw(4, generator=seeded())
    assert isinstance(draws, ThinnedDraws)
    called = [draws.graph.modules.get(str(node.target), nn.Identity()) for node in draws.graph.graph.nodes]
    assert not any(isinstance(child, nn.BatchNorm2d) for module in called for child in module.modules())
    for plan in draws.plans:
        shapes = {name: tuple(weights.weight.shape[:2]) for name, weights in plan.weights.items()}
        assert shapes["_5_conv1"][0] == shapes["_5_conv2"][1] < 18
        assert shapes["_5_conv1"][1] == shapes["_5_conv2"][0] == 18


@pytest.mark.parametrize("kind", ["no statistics", "low precision"])
def test_batch_norm_that_cannot_go_into_a_convolution_stays(kind: str) -> None:
    """Without statistics it looks at the batch, in eval mode too; bfloat16 would round the weights once more."""
    dtype = torch.bfloat16 if kind == "low precision" else torch.double
    norm = nn.BatchNorm2d(6, track_running_stats=kind != "no statistics")
    module = nn.Sequential(
        nn.Conv2d(1, 6, 3), norm, nn.ReLU(), nn.Dropout2d(0.5), nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(64, 3)
    )
    module = module.to(dtype).eval().requires_grad_(False)
    x = inputs("functional", 5).to(dtype)
    thinned, plain = DropoutPosterior(module, x), DropoutPosterior(module, x, thin=False)
    assert thinned.graph is not None
    assert norm in [thinned.graph.modules.get(str(node.target)) for node in thinned.graph.trunk]
    if kind == "no statistics":
        ours, theirs = (given.draw(4, generator=seeded()).log_probs(x) for given in (thinned, plain))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "name", ["three_dimensional", "convolutions", "functional", "one_dimensional", "mlp", "resnet"]
)
def test_a_draw_that_drops_everything_is_a_constant(name: str) -> None:
    given, plain = posterior(name), posterior(name, thin=False)
    assert given.graph is not None
    nothing = {key: torch.zeros(site.shape, dtype=torch.bool) for key, site in given.sites.items()}
    thinned = ThinnedDraws(given.module, given.graph, [given.graph.plan(nothing)])
    whole = MaskedDraws(plain.module, plain.sites, [dict(zip(plain.sites, nothing.values(), strict=True))])
    x = inputs(name, 4)
    torch.testing.assert_close(thinned.log_probs(x), whole.log_probs(x), rtol=0, atol=1e-12)
    assert torch.equal(whole.log_probs(x), whole.log_probs(x)[:1].expand(4, -1, -1))


# ---- modules that cannot be held fixed ----


class FunctionalDropout(nn.Module):
    def __init__(self, p: float = 0.5, module_too: bool = False) -> None:
        super().__init__()
        self.p, self.fc = p, nn.Linear(2, 3)
        self.drop = nn.Dropout(0.5) if module_too else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(F.dropout(x, self.p, training=self.training)))


REFUSED: list[tuple[Callable[[], nn.Module], str]] = [
    (lambda: nn.Linear(2, 3), "has no nn.Dropout module with p > 0"),
    (lambda: nn.Sequential(nn.Dropout(0.0), nn.Linear(2, 3)), "has no nn.Dropout module with p > 0"),
    (FunctionalDropout, "calls F.dropout in its forward"),
    (lambda: FunctionalDropout(module_too=True), "calls F.dropout in its forward"),
]


def labelled(n: int = 6) -> Labelled:
    return Labelled(torch.randn(n, 2, generator=seeded()), torch.arange(n) % 3, Categorical(3))


@pytest.mark.parametrize(("network", "message"), REFUSED)
def test_a_module_without_dropout_modules_is_refused_before_training(
    network: Callable[[], nn.Module], message: str
) -> None:
    steps: list[int] = []
    with pytest.raises(UserError, match=message):
        MCDropout(Training(steps=2)).fit(network, labelled(), generator=seeded(), on_step=lambda: steps.append(1))
    assert steps == []


def test_dropout_inside_recurrent_layers_is_refused() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.drop, self.fc = nn.GRU(2, 4, 2, dropout=0.5), nn.Dropout(0.5), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.drop(self.rnn(x)[0]))

    with pytest.raises(UserError, match=r"drops inside GRU\(dropout=...\)"):
        MCDropout(Training(steps=2)).fit(Recurrent, labelled(), generator=seeded())


def test_dropout_that_is_never_called_is_refused() -> None:
    class Idle(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 3)
            self.drop = nn.Dropout(0.5)

    with pytest.raises(UserError, match="are never called"):
        MCDropout(Training(steps=2)).fit(Idle, labelled(), generator=seeded())


def test_a_batch_that_is_not_the_first_axis_is_refused() -> None:
    class TimeFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop, self.fc = nn.Dropout(0.5), nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.drop(x[None])).squeeze(0)

    with pytest.raises(UserError, match="the batch is not the first axis"):
        MCDropout(Training(steps=2)).fit(TimeFirst, labelled(), generator=seeded())


def test_functional_dropout_that_drops_nothing_is_no_trouble() -> None:
    MCDropout(Training(steps=2)).fit(
        lambda: nn.Sequential(FunctionalDropout(p=0.0), nn.Dropout(0.5)), labelled(), generator=seeded()
    )


@pytest.mark.parametrize("name", ["functional", "literal_view"])
def test_a_forward_that_views_images_can_be_fitted_and_drawn_from(name: str) -> None:
    """In the layout channels_last, where it can be had, ``view`` would raise."""
    x = inputs(name, 6).float()
    known = Labelled(x, torch.arange(6) % 3, Categorical(3))
    fitted = MCDropout(Training(steps=2)).fit(MODULES[name], known, generator=seeded())
    thinned = fitted.draw(3, generator=seeded()).log_probs(x)
    plain = DropoutPosterior(fitted.module, x[:2], thin=False).draw(3, generator=seeded()).log_probs(x)
    torch.testing.assert_close(thinned, plain, rtol=0, atol=1e-5)


def test_a_fit_depends_on_its_generator_alone() -> None:
    def weights(seed: int) -> list[float]:
        torch.rand(3)
        network = lambda: nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.5), nn.Linear(4, 3))  # noqa: E731
        fitted = MCDropout(Training(steps=5)).fit(network, labelled(), generator=seeded(seed))
        return torch.cat([p.flatten() for p in fitted.module.parameters()]).tolist()

    assert weights(0) == weights(0)
    assert weights(0) != weights(1)
