import pytest
import torch
import torch.nn.functional as F
from torch import nn

from activebdl.posteriors._shared import WeightDraws


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_a_layer_that_is_used_twice_is_replaced_twice_and_comes_back() -> None:
    shared = nn.Linear(3, 3).requires_grad_(False)
    module = nn.Sequential(shared, nn.ReLU(), shared)
    before, x = state(module), torch.randn(5, 3)
    drawn = {"0.weight": torch.randn(3, 3), "0.bias": torch.randn(3)}
    found = WeightDraws(module, [drawn, drawn]).outputs(x)
    hidden = F.linear(x, drawn["0.weight"], drawn["0.bias"]).relu()
    expected = F.linear(hidden, drawn["0.weight"], drawn["0.bias"])
    torch.testing.assert_close(found, torch.stack([expected, expected], dim=1))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_a_weight_that_two_layers_share_is_replaced_in_both() -> None:
    module = nn.Sequential(nn.Linear(3, 3, bias=False), nn.ReLU(), nn.Linear(3, 3, bias=False)).requires_grad_(False)
    module[2].weight = module[0].weight
    before, x, w = state(module), torch.randn(5, 3), torch.randn(3, 3)
    found = WeightDraws(module, [{"0.weight": w}]).outputs(x)[:, 0]
    torch.testing.assert_close(found, F.linear(F.linear(x, w).relu(), w))
    assert module[0].weight is module[2].weight
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize("channels", [1, 3])
def test_drawn_weights_lie_in_memory_as_the_parameters_do(channels: int) -> None:
    module = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    drawn = {name: torch.rand_like(p, memory_format=torch.contiguous_format) for name, p in module.named_parameters()}
    module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    weights = WeightDraws(module, [drawn]).weights[0]
    for name, parameter in module.named_parameters():
        assert weights[name].stride() == parameter.stride()
        assert torch.equal(weights[name], drawn[name])
