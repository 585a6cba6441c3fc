"""Multiplicative normalising flows (Louizos and Welling 2017): Gaussian weights whose means share a flexible noise z.

    q(W) = integral q(W | z) q(z) dz,     q(W | z) = prod_ij N(w_ij; z_i mu_ij, sigma_ij^2)
    z = flow(z_0),  z_0 ~ N(m, diag s^2)      i: an input of a linear layer, a filter (output channel) of a convolution

A mixture of infinitely many Gaussians: weights that share a z_i are dependent, and neither Gaussian nor of one mode.
Its KL divergence from the prior p(W) = N(0, prior_scale^2 2/fan_in) has no closed form, but a guess r of z bounds it:

    KL(q(W) || p(W))  <=  E_q [ KL(q(W | z) || p(W)) + log q(z) - log r(z | W) ]
    r(z | W) = N(z_b; a + b t, diag sigmoid(d + e t)^2) |det dz_b/dz|,   z_b = flow_r(z)
    t = mean_j tanh(sum_i c_i w_ij)

(the paper's r has no offsets a and d; with them r starts where q(z) does). What is minimised, per labelled item, is

    - E_q log p(y | x, W)  +  weight(step) KL bound / n,      weight: from 0 to kl_weight over the warm-up

after a MAP start: the plain network is trained for the first part of the steps, and mu starts there, z near 1, sigma
small. From then on the module is in eval mode: no dropout, for the weights have their own noise, and BatchNorm as the
MAP start left it. In training each item has a z of its own and, given z, noise on a layer's outputs in place of its
weights (local reparameterisation, Kingma et al. 2015), for gradients of low variance. As in the paper, that treats
the outputs of a convolution as independent between positions, where explicit weights make them dependent.
A draw is ONE function: one z and one W of every layer, for every input.

The MAP start is what makes it learn from few labels. Parameters without a q are points, after it without a prior.

S: samples, B: items of a batch, K: draws, I: entries of z, J: weights for each of them, O: outputs.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from activebdl.data.dataset import Labelled
from activebdl.errors import UserError
from activebdl.posteriors import posterior
from activebdl.posteriors._flows import AuxiliaryPosterior, FlowedGaussian
from activebdl.posteriors._last_layer import HeadDraws, LastLayer
from activebdl.posteriors._layers import called_layers, last_layer, replace_layers
from activebdl.posteriors._shared import WeightDraws
from activebdl.randomness import global_rng_from, normal_like
from activebdl.training import Objective, Training, negative_log_likelihood, optimise

REPORTED_STEPS = 50  # diagnostics are means over that many steps, for one batch tells little


@posterior("mnf")
@dataclass(frozen=True)
class MNF:
    """Multiplicative normalising flows, for any module with linear or convolutional layers.

    Args:
        training: Of both phases; the steps are those of both together. Weight decay and prior_precision are those of
            the MAP start alone; after it the prior on the weights takes their place.
        layers: Which layers become Bayesian: only the last, or all that are linear or convolutional. With few labels
            and many weights the divergence of all outweighs the data, and the network learns nothing unless
            kl_weight is small: by Bayes' rule, but of little use.
        map_start: The share of the steps that trains the plain network first.
        warm_up: The share of the remaining steps over which the weight of the KL divergence rises from nothing.
        kl_weight: Where it ends; 1 for Bayes' rule, less for a colder posterior.
        prior_scale: The prior's standard deviation, in units of ``sqrt(2 / fan_in)`` (He et al. 2015).
        initial_scale: The standard deviations of the weights at the start, in units of the prior's.
        initial_noise: The standard deviation of z at the start.
        couplings: Steps of each of the two flows; 0 leaves z Gaussian.
        hidden: Units of the hidden layer of each coupling.
        kl_samples: Of z, for the KL bound at each step.
    """

    training: Training = field(default_factory=Training)
    layers: Literal["all", "last"] = "last"
    map_start: float = 0.5
    warm_up: float = 0.5
    kl_weight: float = 1.0
    prior_scale: float = 1.0
    initial_scale: float = 0.1
    initial_noise: float = 0.1
    couplings: int = 2
    hidden: int = 50
    kl_samples: int = 8

    def __post_init__(self) -> None:
        if self.layers not in ("all", "last"):
            raise UserError(f"layers must be 'all' or 'last', not {self.layers!r}.")
        for name in ("prior_scale", "initial_scale", "initial_noise"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"{name} must be above 0, and is {getattr(self, name)}.")
        if not (0 <= self.map_start < 1 and 0 <= self.warm_up <= 1):
            raise UserError(
                "map_start must be at least 0 and below 1, and warm_up from 0 to 1: they are shares of steps."
            )
        if not 0 <= self.kl_weight < math.inf:
            raise UserError(f"kl_weight must not be negative, and is {self.kl_weight}.")
        if self.couplings < 0 or self.hidden < 1 or self.kl_samples < 1:
            raise UserError("couplings must not be negative; hidden and kl_samples must be at least 1.")

    def fit(
        self,
        network: Callable[[], nn.Module],
        labelled: Labelled,
        *,
        generator: torch.Generator,
        on_step: Callable[[], object] | None = None,
    ) -> "MNFPosterior":
        """Trains the plain network, then the distribution; see `activebdl.posteriors.InferenceMethod.fit`.

        Raises:
            UserError: The network has no layer that could be treated, or its output does not fit the labels, or the
                loss is not finite.
        """
        total = self.steps(len(labelled))
        start = min(round(self.map_start * total), total - 1)
        with global_rng_from(generator, labelled.device):
            module = network().to(labelled.device)
            example = labelled.example.float()
            names = self._names(module, example)
            if start > 0:
                first = replace(self.training, steps=start, steps_per_label=0.0)
                optimise(module, labelled, first, generator=generator, on_step=on_step)
            module = replace_layers(module, names, lambda layer: MultiplicativeLayer(layer, self))
            layers = {name: cast(MultiplicativeLayer, module.get_submodule(name)) for name in names}
            second = replace(
                self.training, steps=total - start, steps_per_label=0.0, weight_decay=0.0, prior_precision=0.0,
                prior_on=None,
            )  # fmt: skip
            objective, trace = self._objective(layers, labelled, total - start)
            optimise(module, labelled, second, generator=generator, objective=objective, done=start, on_step=on_step)
        plain = replace_layers(module, names, lambda layer: cast(MultiplicativeLayer, layer).plain)
        for part in (plain, *layers.values()):
            part.eval().requires_grad_(False)
        nll, kl, loss = trace[-REPORTED_STEPS:].mean(0).tolist()
        head = LastLayer.find(plain, example) if self.layers == "last" else None
        return MNFPosterior(plain, layers, {"nll": nll, "kl": kl, "loss": loss}, head)

    def check(self, module: nn.Module, example: Tensor) -> None:
        """Refuses a network that `fit` would refuse, before any label is paid for.

        Args:
            module: A fresh network.
            example: A normalised batch that it can read, two items, on its device.

        Raises:
            UserError: It has no layer that could be treated, or one that shares its weight with another, or not the
                parameters that the prior of the MAP start is on.
        """
        self._names(module, example)
        self.training.has_prior(module)

    def steps(self, n: int) -> int:
        """Optimiser steps that a fit to ``n`` labels takes, those of the MAP start among them."""
        return self.training.total_steps(n)

    def _names(self, module: nn.Module, example: Tensor) -> list[str]:
        names = called_layers(module, example) if self.layers == "all" else [last_layer(module, example)]
        for name in names:
            weight = module.get_submodule(name).weight
            if sum(any(own is weight for own in child.parameters(recurse=False)) for child in module.modules()) > 1:
                raise UserError(
                    f"The layer '{name}' shares its weight with another module, and mnf would give each a weight of "
                    "its own: call one layer twice instead."
                )
        return names

    def _objective(
        self, layers: Mapping[str, "MultiplicativeLayer"], labelled: Labelled, steps: int
    ) -> tuple[Objective, Tensor]:
        """What is minimised, and the trace ``[steps, 3]`` that it leaves: NLL, KL bound / n and their weighted sum."""
        likelihood, trace = negative_log_likelihood(labelled), torch.zeros(steps, 3, device=labelled.device)
        warm_up = self.warm_up * steps

        def objective(module: nn.Module, x: Tensor, targets: Tensor, step: int) -> Tensor:
            module.eval()  # no dropout, and BatchNorm stays as it is: no item's output depends on the others
            for layer in layers.values():
                layer.training = True  # it draws
            nll = likelihood(module, x, targets, step)
            with torch.autocast(x.device.type, enabled=False):  # sums of thousands of nats need float32
                bounds = [layer.kl_bound(self.kl_samples).mean() for layer in layers.values()]
            kl = torch.stack(bounds).sum() / len(labelled)
            loss = nll + self.kl_weight * min(1.0, (step + 1) / max(warm_up, 1.0)) * kl
            trace[step] = torch.stack([nll, kl, loss]).detach()
            return loss

        return objective, trace


class MultiplicativeLayer(nn.Module):
    """q(W) of one layer, and the layer's output under it.

    Args:
        plain: The layer, an ``nn.Linear`` or ``nn.Conv``. Its weight is mu, its bias the mean of the bias (which has
            no z), and it stays the module that they are parameters of.
        method: Where everything starts.
    """

    def __init__(self, plain: nn.Module, method: MNF) -> None:
        super().__init__()
        self.plain = plain
        self.over_inputs = isinstance(plain, nn.Linear)
        weight, bias = self.mu, self.bias
        self.prior_sd = method.prior_scale * math.sqrt(2 / weight[0].numel())
        start = math.log(method.initial_scale * self.prior_sd)
        self.log_sigma = nn.Parameter(torch.full_like(weight, start))
        self.bias_log_sigma = None if bias is None else nn.Parameter(torch.full_like(bias, start))
        size = weight.shape[1] if self.over_inputs else weight.shape[0]
        self.q = FlowedGaussian(size, 1.0, method.initial_noise, method.couplings, method.hidden).to(weight)
        self.r = AuxiliaryPosterior(size, method.initial_noise, method.couplings, method.hidden).to(weight)

    @property
    def mu(self) -> Tensor:
        """The weight's mean given z = 1, as the layer holds it."""
        return cast(Tensor, self.plain.weight)

    @property
    def bias(self) -> Tensor | None:
        """The mean of the bias."""
        return cast(Tensor | None, self.plain.bias)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, ...] -> [B, ...]``; in train mode drawn, with a z of its own for each item, else without any noise."""
        if self.training:
            return self.given(self.sample_z(len(x)), x)
        z = self.q(torch.zeros_like(self.q.mean).expand(1, -1))[0]
        return self._mean_given(z.expand(len(x), -1), x)

    def sample_z(self, count: int) -> Tensor:
        """``[count, I]``, from torch's global generator."""
        return self.q(self._noise(count))[0]

    def given(self, z: Tensor, x: Tensor) -> Tensor:
        """The output for ``x [B, ...]`` given ``z [B, I]``, noise on the outputs in place of the weights."""
        mean = self._mean_given(z, x)
        bias_variance = None if self.bias_log_sigma is None else (2 * self.bias_log_sigma).exp()
        variance = self._plain(x.square(), (2 * self.log_sigma).exp(), bias_variance)
        # the clamp: a root has no gradient at 0, and a fast convolution of positive numbers may end below it
        return mean + variance.clamp(min=1e-12).sqrt() * normal_like(mean)

    def _mean_given(self, z: Tensor, x: Tensor) -> Tensor:
        if self.over_inputs:
            return self._plain(x * z.view(len(x), *[1] * (x.dim() - 2), -1), self.mu, self.bias)
        mean = self._plain(x, self.mu, None) * z.view(*z.shape, *[1] * (x.dim() - 2))
        return mean if self.bias is None else mean + self.bias.view(-1, *[1] * (x.dim() - 2))

    def kl_bound(self, samples: int) -> Tensor:
        """``[S]`` estimates, one per z, whose expectation is no less than KL(q(W, bias) || p), in nats."""
        z, log_q = self.q(self._noise(samples))
        return self.kl_given(z) + log_q - self.r(z, self._rows(self.mu), self._rows(2 * self.log_sigma).exp())

    def kl_given(self, z: Tensor) -> Tensor:
        """``KL(q(W, bias | z) || p)``, ``[S, I] -> [S]``."""
        ratio = self.log_sigma - math.log(self.prior_sd)  # of the standard deviations
        kl = (0.5 * (2 * ratio).exp() - ratio - 0.5).sum()
        if self.bias is not None and self.bias_log_sigma is not None:
            ratio = self.bias_log_sigma - math.log(self.prior_sd)
            kl = kl + (0.5 * (2 * ratio).exp() - ratio - 0.5 + 0.5 * (self.bias / self.prior_sd).square()).sum()
        return kl + 0.5 * z.square() @ self._rows(self.mu / self.prior_sd).square().sum(1)

    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        """One weight, and one bias where there is one: z first, then what is left given z."""
        z = self.q(self._noise(1, generator))[0][0]
        z = z if self.over_inputs else z.view(-1, *[1] * (self.mu.dim() - 1))
        drawn = {"weight": z * self.mu + self.log_sigma.exp() * normal_like(self.mu, generator)}
        if self.bias is not None and self.bias_log_sigma is not None:
            drawn["bias"] = self.bias + self.bias_log_sigma.exp() * normal_like(self.bias, generator)
        return drawn

    def _noise(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        return normal_like(self.q.mean.expand(count, -1), generator)

    def _rows(self, weight: Tensor) -> Tensor:
        """``[I, J]``: the weights that share an entry of z in one row."""
        return weight.T if self.over_inputs else weight.flatten(1)

    def _plain(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """What the layer does, strides, padding and all, with other parameters."""
        own = {"weight": weight}
        if self.bias is not None:
            own["bias"] = torch.zeros_like(self.bias) if bias is None else bias
        return functional_call(self.plain, own, (x,))


@dataclass(frozen=True)
class MNFPosterior:
    """A network, and distributions over the weights of some of its layers.

    Args:
        module: The plain network, the means as its weights; it is never changed, nor is its mode.
        layers: The distributions, by the name of the layer.
        diagnostics: In nats per labelled item, means over the last steps of the fit: "nll", "kl" (the bound on the KL
            divergence of all layers / n) and "loss", the first and the weighted second together.
        head: The last layer, when the one distribution is that of its weights.
    """

    module: nn.Module
    layers: Mapping[str, MultiplicativeLayer]
    diagnostics: dict[str, float]
    head: LastLayer | None = None

    def draw(self, k: int, *, generator: torch.Generator) -> WeightDraws | HeadDraws:
        """K networks; the first ones are the same however many are asked for."""
        with torch.no_grad():
            weights = [self._weights(generator) for _ in range(k)]
        return WeightDraws(self.module, weights) if self.head is None else HeadDraws.of(self.head, weights)

    def _weights(self, generator: torch.Generator) -> dict[str, Tensor]:
        return {
            f"{name}.{part}".lstrip("."): value
            for name, layer in self.layers.items()
            for part, value in layer.draw(generator).items()
        }
