import pytest
import torch
from torch import nn

from activebdl import UserError
from activebdl.networks import make_network


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# Counted by hand, from the papers where there is one: weights and biases of each layer.
SIZES = {
    "batchbald_cnn": (1 * 25 * 32 + 32) + (32 * 25 * 64 + 64) + (1024 * 128 + 128) + (128 * 10 + 10),
    "bn_cnn": (25 * 32 + 9 * (32 * 64 + 64 * 64 + 64 * 128) + 1152 * 128) + 2 * (32 + 64 + 64 + 128 + 128) + 1290,
    "gal2017_cnn": (16 * 32 + 32) + (32 * 16 * 32 + 32) + (32 * 11 * 11 * 128 + 128) + (128 * 10 + 10),
    "mlp": (784 * 256 + 256) + (256 * 256 + 256) + (256 * 10 + 10),
}


@pytest.mark.parametrize("name", SIZES)
def test_mnist_networks_have_the_weights_they_should(name: str) -> None:
    fresh = make_network(name, (1, 28, 28), 10)
    module = fresh()
    assert parameters(module) == SIZES[name]
    assert module(torch.zeros(3, 1, 28, 28)).shape == (3, 10)
    assert fresh() is not module


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 21, 20)])
def test_other_images_fit_too(name: str, shape: tuple[int, int, int]) -> None:
    assert make_network(name, shape, 4)()(torch.zeros(2, *shape)).shape == (2, 4)


@pytest.mark.parametrize(
    ("name", "shape", "options", "message"),
    [
        ("batchbald_cnn", (1, 8, 8), {}, "sides of 16 or more, not inputs of shape"),
        ("bn_cnn", (1, 28, 19), {}, "sides of 20 or more"),
        ("gal2017_cnn", (64,), {}, "reads images of"),
        ("mlp", (4,), {"width": 3}, "cannot be made for inputs"),
        ("resnet", (1, 28, 28), {}, "Unknown network 'resnet'. Known: batchbald_cnn, bn_cnn, gal2017_cnn, mlp"),
    ],
)
def test_what_does_not_fit_is_told(name: str, shape: tuple[int, ...], options: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_network(name, shape, 10, **options)
