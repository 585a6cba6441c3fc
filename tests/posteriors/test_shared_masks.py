"""Masks that parts of a batch share in training: how they are dealt, and that nothing is lost by cutting."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from activebdl import MCDropout, Training, UserError
from activebdl.data import Labelled, Normalise
from activebdl.likelihoods import Categorical
from activebdl.posteriors._cut_layers import take_channels
from activebdl.posteriors._masks import CHANNEL_DROPOUT, UNIT_DROPOUT, Site
from activebdl.posteriors._shared_masks import deal_masks, shared_masks_loss, training_graph
from tests.posteriors.modules import MODULES, PLAIN, dropped, inputs, made, seeded

CPU = torch.device("cpu")


def has_batch_norm(name: str) -> bool:
    return any(isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d) for child in MODULES[name]().modules())


# named has spectral norm, which changes whenever it is called in train mode, and so cannot be compared
CUTTABLE = [name for name in MODULES if name not in (*PLAIN, "named") and not has_batch_norm(name)]


def dealt(p: float, n: int, groups: int, seed: int = 0) -> Tensor:
    """``[groups, n]``."""
    masks = deal_masks({"site": Site(p, (n,))}, groups, seeded(seed), CPU)
    return torch.stack([mask["site"] for mask in masks])


@given(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]), st.integers(1, 40), st.integers(2, 5), st.integers(0, 1000))
def test_units_are_dropped_evenly(p: float, n: int, groups: int, seed: int) -> None:
    """In each mask, and over the masks for each unit, as many as the probability says, up to rounding."""
    keep = dealt(p, n, groups, seed)
    for counts, of in ((keep.sum(1), n), (keep.sum(0), groups)):
        exact = of * (1 - p)
        assert all(math.floor(exact - 1e-9) <= int(count) <= math.ceil(exact + 1e-9) for count in counts)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.75])
def test_every_unit_is_kept_with_probability_1_minus_p(p: float) -> None:
    deals = 4000
    kept = torch.stack([dealt(p, 7, 2, seed) for seed in range(deals)]).double().mean(0)
    assert float((kept - (1 - p)).abs().max()) < 4.5 * math.sqrt(p * (1 - p) / deals)


@pytest.mark.parametrize("name", CUTTABLE)
def test_loss_and_gradients_are_those_of_the_whole_network_with_its_masks(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network in train mode, with torch's dropout fed the masks of each item's part."""
    x, targets, groups = inputs(name, 8), torch.arange(8) % 2, 3
    labelled = Labelled(x, targets, Categorical(2), Normalise())
    module = made(name).requires_grad_(True).train()
    loss = shared_masks_loss(labelled, groups, seeded(1))(module, x, targets, 1)
    loss.backward()
    found = {key: parameter.grad for key, parameter in module.named_parameters()}

    masks = deal_masks(training_graph(module, x[:2]).sites(), groups, seeded(1), CPU)
    in_order = [iter(mask.values()) for mask in masks]

    def forward(self: nn.Module, input: Tensor) -> Tensor:
        parts = zip(input.chunk(groups), in_order, strict=True)
        return torch.cat([dropped(self, part, next(masks)) for part, masks in parts])

    for kind in (*UNIT_DROPOUT, *CHANNEL_DROPOUT):
        monkeypatch.setattr(kind, "forward", forward)
    module.zero_grad()
    expected = Categorical(2).loss(module(x), targets)
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-12)
    for key, parameter in module.named_parameters():
        if parameter.grad is None:
            assert found[key] is None
        else:
            torch.testing.assert_close(found[key], parameter.grad, rtol=0, atol=1e-11)


def test_dropped_channels_are_not_computed_in_training() -> None:
    """Not even in the first layer, which all draws of a trained network share."""
    graph = training_graph(made("batchbald_cnn"), inputs("batchbald_cnn", 2))
    assert [dropped.role for dropped in graph.dropped.values()] == ["cut"] * 3
    plan = graph.plan(deal_masks(graph.sites(), 2, seeded(), CPU)[0])
    assert [tuple(weights.weight.shape[:2]) for weights in plan.weights.values()] == [
        (16, 1),
        (32, 16),
        (64, 128),
        (3, 64),
    ]


def blobs(n: int) -> Labelled:
    """Two classes that a line parts."""
    labels = torch.arange(n) % 2
    x = torch.randn(n, 4, generator=seeded()) + 3 * labels[:, None] - 1.5
    return Labelled(x, labels, Categorical(2), Normalise())


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 2))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("masks", [None, 2, 5])
def test_a_network_learns_by_few_masks_and_in_low_precision(precision: str, masks: int | None) -> None:
    training = Training(60, batch_size=32, precision=precision)  # type: ignore[arg-type]
    fitted = MCDropout(training, masks_per_batch=masks).fit(perceptron, blobs(64), generator=seeded())
    test = blobs(400)
    found = fitted.draw(20, generator=seeded()).log_probs(test.inputs).exp().mean(1).argmax(1)
    assert all(parameter.dtype == torch.float32 for parameter in fitted.module.parameters())
    assert float((found == test.labels).double().mean()) > 0.98


def test_there_may_be_fewer_items_than_masks() -> None:
    training = Training(3, batch_size=2)
    MCDropout(training, masks_per_batch=4).fit(perceptron, blobs(2), generator=seeded())


def test_a_fit_with_shared_masks_depends_on_its_generator_alone() -> None:
    def weights() -> Tensor:
        fit = MCDropout(Training(5), masks_per_batch=2).fit(perceptron, blobs(8), generator=seeded(3))
        return torch.cat([p.flatten() for p in fit.module.parameters()])

    first = weights()
    torch.rand(5)
    assert torch.equal(weights(), first)


def test_a_single_mask_is_refused() -> None:
    with pytest.raises(UserError, match="masks_per_batch is 1; it must be 2 or more"):
        MCDropout(masks_per_batch=1)


@pytest.mark.parametrize(("name", "says"), [("resnet", "batch norm"), ("dynamic", "cannot be taken apart")])
def test_networks_that_cannot_be_cut_in_training_are_refused_before_it(name: str, says: str) -> None:
    with pytest.raises(UserError, match=f"{says}.*leave masks_per_batch out"):
        MCDropout(masks_per_batch=2).check(made(name), inputs(name, 2))


def test_nothing_that_training_does_beside_dropout_is_lost() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop, self.out = nn.Dropout(0.5), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                x = x + torch.randn_like(x)
            return self.out(self.drop(x))

    with pytest.raises(UserError, match="something else in training.*leave masks_per_batch out"):
        MCDropout(masks_per_batch=2).check(Noisy(), torch.randn(2, 4))


@pytest.mark.parametrize("name", ["batchbald_cnn", "gal2017_cnn", "mlp", "alpha"])
def test_every_weight_is_trained_from_the_first_step_in_bfloat16_too(name: str) -> None:
    torch.manual_seed(0)
    module = MODULES[name]()
    x, targets = inputs(name, 6).float(), torch.arange(6) % 2
    loss = shared_masks_loss(Labelled(x, targets, Categorical(3), Normalise()), 2, seeded())
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(module, x, targets, 0)
    value.backward()
    assert value.dtype == torch.float32
    assert all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in module.parameters())


def test_the_settings_reach_the_fit() -> None:
    """With the same generator each gives other weights, and layers multiply what the precision says."""
    seen: set[torch.dtype] = set()

    def watched() -> nn.Module:
        module = perceptron()
        last = list(module.children())[-1]
        last.register_forward_hook(lambda layer, inputs, output: seen.add(output.dtype))
        return module

    def weights(masks: int | None, precision: str) -> Tensor:
        training = Training(3, precision=precision)  # type: ignore[arg-type]
        fit = MCDropout(training, masks_per_batch=masks).fit(watched, blobs(8), generator=seeded(3))
        return torch.cat([p.flatten() for p in fit.module.parameters()])

    plain = weights(None, "float32")
    assert seen == {torch.float32}
    assert not torch.equal(weights(2, "float32"), plain)
    assert not torch.equal(weights(None, "bfloat16"), plain)
    assert seen == {torch.float32, torch.bfloat16}


def test_a_precision_that_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match="precision of training is float32 or bfloat16, not 'half'"):
        Training(precision="half")  # type: ignore[arg-type]


@pytest.mark.parametrize("channels", [16, 200])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_channels_are_taken_exactly(channels: int, layout: torch.memory_format, dtype: torch.dtype) -> None:
    x = torch.randn(5, channels, 3, 4, generator=seeded()).to(dtype).contiguous(memory_format=layout)
    wanted = torch.randperm(channels, generator=seeded())[:7]
    with torch.inference_mode():
        found = take_channels(x, wanted)
    assert torch.equal(found, x[:, wanted]) and found.is_contiguous(memory_format=layout)
