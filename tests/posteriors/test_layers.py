import pytest
import torch
from torch import Tensor, nn

from activebdl import UserError
from activebdl.posteriors._layers import called_layers, last_layer, replace_layers


class Backwards(nn.Module):
    """Defines its layers in the opposite order of their use."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.body = nn.Sequential(nn.Conv1d(1, 2, 1), nn.Flatten(), nn.Linear(10, 4), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def test_layers_come_in_the_order_of_use() -> None:
    assert called_layers(Backwards(), torch.zeros(2, 1, 5)) == ["body.0", "body.2", "head"]
    assert last_layer(Backwards(), torch.zeros(2, 1, 5)) == "head"


def test_a_single_layer_is_its_own_last() -> None:
    assert called_layers(nn.Linear(2, 2), torch.zeros(2, 2)) == [""]
    assert last_layer(nn.Linear(2, 2), torch.zeros(2, 2)) == ""
    assert isinstance(replace_layers(nn.Linear(2, 2), [""], lambda layer: nn.Identity()), nn.Identity)


def test_named_layers_are_replaced_and_no_others() -> None:
    module = replace_layers(Backwards(), ["body.2", "head"], lambda layer: nn.Identity())
    assert called_layers(module, torch.zeros(2, 1, 5)) == ["body.0"]


def test_a_layer_that_is_used_twice_stays_one() -> None:
    shared = nn.Linear(3, 3)
    module = nn.Sequential(shared, nn.ReLU(), shared)
    assert called_layers(module, torch.zeros(2, 3)) == ["0"]
    replace_layers(module, ["0"], lambda layer: nn.Linear(3, 3))
    assert module.get_submodule("0") is module.get_submodule("2") is not shared


def test_watching_leaves_no_hook_and_no_other_mode() -> None:
    module = Backwards()
    called_layers(module, torch.zeros(2, 1, 5))
    assert module.training and not any(child._forward_hooks for child in module.modules())
    with pytest.raises(RuntimeError):
        called_layers(module, torch.zeros(2, 1, 6))
    assert module.training and not any(child._forward_hooks for child in module.modules())


def test_what_cannot_be_treated_is_told() -> None:
    with pytest.raises(UserError, match=r"Flatten calls no nn.Linear or nn.Conv layer"):
        called_layers(nn.Flatten(), torch.zeros(2, 3))
    with pytest.raises(UserError, match=r"not that of an nn.Linear layer.* without softmax"):
        last_layer(nn.Sequential(nn.Linear(3, 3), nn.Softmax(-1)), torch.zeros(2, 3))
