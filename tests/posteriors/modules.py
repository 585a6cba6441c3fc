"""Modules with dropout of every kind and in every place, that MC-dropout must treat rightly; small ones to fit."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from activebdl.data import Labelled, Normalise
from activebdl.likelihoods import Categorical
from activebdl.networks import make_network
from tests.conftest import blobs


class Functional(nn.Module):
    """relu, pooling and flattening as functions and methods, not modules."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.drop = nn.Dropout2d(0.4)
        self.fc = nn.Linear(4 * 3 * 3, 6)
        self.drop2 = nn.Dropout(0.5)
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.max_pool2d(self.drop(self.conv(x)), 2))
        x = x.view(x.size(0), -1)
        return self.out(self.drop2(torch.relu(self.fc(x))))


class Residual(nn.Module):
    """A value read twice: dropout may not be cut out of the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.drop = nn.Dropout(0.5)
        self.second = nn.Linear(8, 8)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)[:, :8]
        h = self.first(x)
        return self.out(self.second(self.drop(torch.relu(h))) + h)


class Reused(nn.Module):
    """One dropout module called twice: two independent masks."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)[:, :8]
        return self.c(self.drop(self.b(self.drop(self.a(x).tanh()))))


class Dynamic(nn.Module):
    """A forward that depends on values: torch.fx cannot follow it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.drop = nn.Linear(64, 8), nn.Linear(8, 3), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x.flatten(1))
        if h.abs().max() > 1e9:
            h = h * 0
        return self.b(self.drop(h))


class Tokens(nn.Module):
    """Dropout between the layers of a sequence: linear layers on more than two axes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.drop = nn.Linear(8, 6), nn.Linear(6, 3), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.drop(F.relu(self.a(x[:, 0])))).mean(1)  # [B, 8 tokens, 8] -> [B, 3]


class Scaled(nn.Module):
    """A forward with a default argument: a second input for torch.fx."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.drop, self.b = nn.Linear(64, 8), nn.Dropout(0.5), nn.Linear(8, 3)

    def forward(self, x: Tensor, scale: float = 0.5) -> Tensor:
        return self.b(self.drop(self.a(x.flatten(1) * scale)))


class InPlace(nn.Module):
    """In-place operations on values that are read elsewhere too."""

    def __init__(self, add: bool) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(64, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.drop, self.relu, self.add = nn.Dropout(0.5), nn.ReLU(inplace=True), add

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x.flatten(1))
        if self.add:
            return self.out(h.add_(self.drop(h.tanh())))
        return self.out(h + self.b(self.relu(self.drop(h))))


class LiteralView(nn.Module):
    """The features counted out in the forward, as the BatchBALD authors have them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.drop1 = nn.Conv2d(1, 4, 3), nn.Dropout2d(0.4)
        self.conv2, self.drop2 = nn.Conv2d(4, 5, 3), nn.Dropout2d(0.4)
        self.out = nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.drop1(self.conv1(x)))
        x = F.relu(F.max_pool2d(self.drop2(self.conv2(x)), 2))
        return self.out(x.view(-1, 20))


class Named(nn.Module):
    """Dropout called by keyword, a submodule without input, and a buffer that spectral norm changes in train mode."""

    class Shift(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.by = nn.Parameter(torch.ones(8))

        def forward(self) -> Tensor:
            return self.by

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.utils.parametrizations.spectral_norm(nn.Linear(64, 8))
        self.shift, self.drop, self.b = Named.Shift(), nn.Dropout(0.5), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.drop(input=self.a(x.flatten(1)) + self.shift()))


class Block(nn.Module):
    """Two convolutions and a way around them, in the words of torchvision: relu in place, ``out += identity``."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(after), nn.BatchNorm2d(after, affine=False)
        self.drop, self.relu = nn.Dropout2d(0.4), nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        self.downsample = nn.Sequential()
        if before != after:
            self.downsample = nn.Sequential(nn.Conv2d(before, after, 1, stride=stride), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(self.drop(out)))
        out += self.downsample(x)
        return self.relu(out)


def resnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), Block(4, 4, 1), Block(4, 18, 2),
        Block(18, 18, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(18, 3),
    )  # fmt: skip


class Normalised(nn.Module):
    """Batch norm that may not go into the layer before it: others read that too, or it is over another axis."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.drop, self.tokens, self.bn_tokens = nn.Dropout(0.5), nn.Linear(6, 4), nn.BatchNorm1d(4)
        self.out, self.bn_out, self.last = nn.Linear(6 * 16, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        h = self.drop(self.bn(h) * h).mean(2)  # [B, 4, 6]
        t = self.bn_tokens(self.tokens(h))  # [B, 4, 4], normalised along the first 4
        h = torch.einsum("bij,bjk->bik", t, h).flatten(1).repeat(1, 4)
        return self.last(self.drop(F.relu(self.bn_out(self.out(h)))))


class Sums(nn.Module):
    """Sums whose first term all draws share, or is read again, or is broadcast; and an output that is read too."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(64, 8), nn.Linear(8, 8), nn.Linear(8, 1)
        self.d, self.drop, self.out, self.same = nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 3), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        shared, once = self.a(x.flatten(1)), self.d(x.flatten(1)[:, :8])
        h = once + self.b(self.drop(shared))
        h = F.relu(shared + (self.same(h) + self.d(h))) * h
        h = F.relu(self.d(h) - 1) + h
        h = self.d(h) + 1
        h = F.relu(self.c(h) + h)
        h = torch.add(self.b(self.drop(h)), h)
        h = h + shared
        twice = self.d(h)
        out = self.out(F.relu(twice) + twice) + self.c(F.relu(h))
        _ = out.exp() - 1  # nothing comes of it
        return out


def normalised_vectors() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 6, bias=False),
        nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.3), nn.Linear(6, 3),
    )  # fmt: skip


def hooked_norm() -> nn.Module:
    """Batch norm whose output a forward hook changes, in a sequence that has no dropout."""
    module = nn.Sequential(
        nn.Flatten(), nn.Dropout(0.3), nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8)), nn.Linear(8, 3)
    )
    module[2][1].register_forward_hook(lambda _, __, output: 2 * output.relu())  # type: ignore[index]
    return module


def hooked() -> nn.Module:
    """A layer whose output a forward hook changes."""
    module = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 8), nn.Dropout(0.5), nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 3)
    )
    module[3].register_forward_hook(lambda _, __, output: 2 * output.relu())
    return module


def relu_in_place() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.Dropout2d(0.4), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(144, 8),
        nn.Dropout(0.5), nn.ReLU(inplace=True), nn.Linear(8, 3),
    )  # fmt: skip


def attention() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.3, batch_first=True)
    layer.self_attn.dropout = 0.0
    return nn.Sequential(nn.Flatten(1, 2), layer, nn.Flatten(), nn.Linear(64, 3))


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Dropout2d(0.3), nn.ReLU(), nn.AvgPool2d(2),
        nn.Conv2d(6, 5, 3), nn.LeakyReLU(), nn.Dropout2d(0.4), nn.Conv2d(5, 4, 2), nn.Dropout2d(0.2),
        nn.Flatten(), nn.Dropout(0.1), nn.Linear(4, 3),
    )  # fmt: skip


def grouped() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.Dropout2d(0.5), nn.Conv2d(4, 4, 3, groups=2), nn.Dropout(0.5), nn.Flatten(),
        nn.Linear(64, 3),
    )  # fmt: skip


def alpha() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.SELU(), nn.FeatureAlphaDropout(0.3), nn.Flatten(), nn.Linear(144, 8), nn.SELU(),
        nn.AlphaDropout(0.2), nn.Linear(8, 3),
    )  # fmt: skip


def ending_in_dropout() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.Dropout(0.5))


def beginning_with_dropout() -> nn.Module:
    return nn.Sequential(nn.Dropout(0.2), nn.Flatten(), nn.Dropout(1.0), nn.Linear(64, 3))


def one_dimensional() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(2), nn.Conv1d(1, 4, 3, bias=False), nn.Dropout1d(0.5), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(),
        nn.Linear(124, 3, bias=False),
    )  # fmt: skip


def three_dimensional() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(2, (2, 4)), nn.Conv3d(1, 18, 2), nn.Dropout3d(0.5), nn.Conv3d(18, 3, (1, 2, 2)), nn.Flatten(),
        nn.Linear(3 * 1 * 2 * 6, 3),
    )  # fmt: skip


MODULES = {
    "batchbald_cnn": lambda: make_network("batchbald_cnn", (1, 20, 20), 3)(),
    "gal2017_cnn": lambda: make_network("gal2017_cnn", (1, 8, 8), 3)(),
    "mlp": lambda: make_network("mlp", (1, 8, 8), 3, hidden=(16, 12))(),
    "functional": Functional,
    "residual": Residual,
    "reused": Reused,
    "dynamic": Dynamic,
    "tokens": Tokens,
    "attention": attention,
    "convolutions": convolutions,
    "grouped": grouped,
    "alpha": alpha,
    "ending_in_dropout": ending_in_dropout,
    "beginning_with_dropout": beginning_with_dropout,
    "one_dimensional": one_dimensional,
    "three_dimensional": three_dimensional,
    "scaled": Scaled,
    "in_place_relu": lambda: InPlace(add=False),
    "in_place_add": lambda: InPlace(add=True),
    "literal_view": LiteralView,
    "named": Named,
    "hooked": hooked,
    "relu_in_place": relu_in_place,
    "resnet": resnet,
    "normalised": Normalised,
    "normalised_vectors": normalised_vectors,
    "hooked_norm": hooked_norm,
    "sums": Sums,
}


PLAIN = ("dynamic", "attention", "scaled", "in_place_add")  # what torch.fx cannot read, or thinning would get wrong


def inputs(name: str, n: int) -> Tensor:
    side = 20 if name == "batchbald_cnn" else 8
    return torch.randn(n, 1, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.double)


def made(name: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = MODULES[name]().double()
        for child in module.modules():  # statistics that are not the neutral ones
            if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
                child.running_mean.normal_()  # type: ignore[union-attr]
                child.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
                if child.affine:
                    nn.init.uniform_(child.weight, -2, 2)
                    nn.init.normal_(child.bias)
    return module.eval().requires_grad_(False)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def dropped(layer: nn.Module, x: Tensor, keep: Tensor) -> Tensor:
    """What torch's dropout layer makes of ``x`` in training where it keeps this, by torch's documentation."""
    keep, p = keep.to(x.dtype), float(layer.p)  # type: ignore[arg-type]
    if not isinstance(layer, nn.AlphaDropout | nn.FeatureAlphaDropout):
        return x * keep / (1 - p) if p < 1 else x * 0
    a = ((1 - p) * (1 + p * 1.7580993408473766**2)) ** -0.5
    return a * (x * keep - 1.7580993408473766 * (1 - keep)) + a * p * 1.7580993408473766


class ConvNet(nn.Module):
    """Convolutions, two kinds of batch normalisation, and dropout, for `images`."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5, momentum=0.3),
            nn.Dropout2d(0.2), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(5 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).flatten(1))


def images(n: int, dtype: torch.dtype = torch.float32) -> Labelled:
    """Noise of two channels, of three classes."""
    x = torch.randn(n, 2, 6, 6, generator=torch.Generator().manual_seed(2), dtype=dtype)
    return Labelled(x, torch.arange(n) % 3, Categorical(3), Normalise())


def mlp() -> nn.Module:
    """For `points`."""
    return nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))


def points(n: int) -> Labelled:
    """Those of `blobs`."""
    x, y = blobs(n)
    return Labelled(x, y, Categorical(3), Normalise())
