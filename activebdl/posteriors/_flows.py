"""Normalising flows, invertible maps of a vector whose log-determinants are known, and two densities made of them.

A chain of masked couplings (RealNVP, Dinh et al. 2017) with the gated update of inverse autoregressive flows
(Kingma et al. 2016), as Louizos and Welling (2017) use them:

    h = tanh(f(m z)),  shift = g(h),  gate = sigmoid(k(h)),           f, g, k affine, m a mask of zeros and ones
    z' = m z + (1 - m) (gate z + (1 - gate) shift),      log |det dz'/dz| = sum_i (1 - m_i) log gate_i

What the mask keeps decides what becomes of the rest, so the Jacobian is triangular and the inverse is known.

S: samples, D: entries of z, J: weights for each entry of z.
"""

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from activebdl.randomness import normal_like


class Coupling(nn.Module):
    """One masked, gated step; at the start it draws every entry that it may change a little towards ``centre``.

    Args:
        mask: ``[D]``, 1 for an entry that stays, 0 for one that changes.
        hidden: Units of its one hidden layer.
        centre: Where the shift starts. A vector that holds only this value comes out as it went in, at first.
    """

    mask: Tensor

    def __init__(self, mask: Tensor, hidden: int, centre: float) -> None:
        super().__init__()
        self.register_buffer("mask", mask)
        self.inner = nn.Linear(len(mask), hidden)
        self.shift = nn.Linear(hidden, len(mask))
        self.gate = nn.Linear(hidden, len(mask))
        for layer, bias in ((self.shift, centre), (self.gate, 2.0)):
            nn.init.zeros_(layer.weight)
            nn.init.constant_(layer.bias, bias)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """``z [S, D] -> z' [S, D]`` and ``log |det dz'/dz|``, ``[S]``."""
        shift, logit = self._rule(z)
        gate = logit.sigmoid()
        changed = gate * z + (1 - gate) * shift
        return torch.where(self.mask, z, changed), F.logsigmoid(logit).masked_fill(self.mask, 0.0).sum(-1)

    def inverse(self, z: Tensor) -> Tensor:
        """``z' [S, D] -> z [S, D]``."""
        shift, logit = self._rule(z)  # what decides was kept, so that it is still there
        gate = logit.sigmoid()
        return torch.where(self.mask, z, (z - (1 - gate) * shift) / gate)

    def _rule(self, z: Tensor) -> tuple[Tensor, Tensor]:
        h = self.inner(z * self.mask).tanh()
        return self.shift(h), self.gate(h)


class Flow(nn.Module):
    """Couplings one after the other.

    The masks are random and fixed from here on (from torch's global generator, as the weights are). Every second mask
    is the complement of the one before it: with an even number of couplings every entry is changed equally often.

    Args:
        size: D.
        couplings: How many; none is the identity.
        hidden: Units of the hidden layer of each.
        centre: Of each, see `Coupling`.
    """

    def __init__(self, size: int, couplings: int, hidden: int, centre: float = 0.0) -> None:
        super().__init__()
        masks: list[Tensor] = []
        for i in range(couplings):
            masks.append(~masks[-1] if i % 2 else torch.randperm(size) < (size + 1) // 2)
        self.couplings = nn.ModuleList([Coupling(mask, hidden, centre) for mask in masks])

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """``z [S, D] -> z' [S, D]`` and ``log |det dz'/dz|``, ``[S]``."""
        total = z.new_zeros(z.shape[:-1])
        for coupling in self._chain():
            z, log_det = coupling(z)
            total = total + log_det
        return z, total

    def inverse(self, z: Tensor) -> Tensor:
        """``z' [S, D] -> z [S, D]``."""
        for coupling in reversed(self._chain()):
            z = coupling.inverse(z)
        return z

    def _chain(self) -> list[Coupling]:
        return cast(list[Coupling], list(self.couplings))


class FlowedGaussian(nn.Module):
    """A Gaussian with a diagonal covariance, sent through a flow: ``z = flow(mean + sd noise)``.

    Args:
        size: D.
        mean: Of every entry, at the start; also the flow's centre.
        sd: Of every entry, at the start, before the flow.
        couplings: Of the flow.
        hidden: Units of the hidden layer of each coupling.
    """

    def __init__(self, size: int, mean: float, sd: float, couplings: int, hidden: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.full((size,), mean))
        self.log_sd = nn.Parameter(torch.full((size,), math.log(sd)))
        self.flow = Flow(size, couplings, hidden, centre=mean)

    def forward(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Standard normal noise ``[S, D]`` -> ``z [S, D]`` and its log-density ``[S]``, in nats."""
        z, log_det = self.flow(self.mean + self.log_sd.exp() * noise)
        log_base = -(0.5 * noise.square() + self.log_sd + 0.5 * math.log(2 * math.pi)).sum(-1)
        return z, log_base - log_det


class AuxiliaryPosterior(nn.Module):
    """r(z | W) of `activebdl.posteriors.mnf`, the guess of z from the weights; the better, the tighter the bound.

    Args:
        size: D.
        noise: Standard deviation of z at the start.
        couplings: Of its flow.
        hidden: Units of the hidden layer of each coupling.
    """

    def __init__(self, size: int, noise: float, couplings: int, hidden: int) -> None:
        super().__init__()
        self.contrast = nn.Parameter(torch.randn(size))  # c
        self.mean_offset, self.mean_slope = nn.Parameter(torch.ones(size)), nn.Parameter(torch.zeros(size))  # a, b
        sd = min(noise, 0.99)
        self.sd_offset = nn.Parameter(torch.full((size,), math.log(sd / (1 - sd))))  # d
        self.sd_slope = nn.Parameter(torch.zeros(size))  # e
        self.flow = Flow(size, couplings, hidden, centre=1.0)

    def forward(self, z: Tensor, mu: Tensor, variance: Tensor) -> Tensor:
        """``log r(z | W)``, ``[S]``, for one W from q(W | z) per z; W is met only in c W, which is Gaussian given z.

        Args:
            z: ``[S, D]``.
            mu: ``[D, J]``.
            variance: ``[D, J]``, sigma squared.
        """
        mean, sd = (self.contrast * z) @ mu, (self.contrast.square() @ variance).sqrt()  # [S, J], [J]
        t = (mean + sd * normal_like(mean)).tanh().mean(-1, keepdim=True)  # [S, 1]
        logit = self.sd_offset + self.sd_slope * t
        z_b, log_det = self.flow(z)
        error = (z_b - self.mean_offset - self.mean_slope * t) / logit.sigmoid()
        return log_det - (0.5 * error.square() + F.logsigmoid(logit) + 0.5 * math.log(2 * math.pi)).sum(-1)
