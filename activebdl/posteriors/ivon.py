"""IVON (Shen et al. 2024): a Gaussian over all weights, learned at about the cost of Adam.

    q(theta) = N(m, diag(sigma^2)),   sigma^2 = 1 / (ess (h + delta))
    minimises  ess E_q[1/n sum_n - log p(y_n | x_n, theta)] + KL(q || N(0, 1 / (ess delta)))

The improved variational online Newton method, successor of VOGN (Khan et al. 2018, Osawa et al. 2019); the steps are
those of `_ivon_optimizer`. ess, the effective sample size, says how many items the mean loss speaks for. With ess = n
this is the evidence lower bound, right where the model is, as in linear regression. A network has many more weights
than there are first labels, and there the bound is highest where the weights are noise; so ess has a floor, which is
the posterior at the temperature n / ess (a cold one, Wenzel et al. 2020), and the fit learns from 20 labels too.

Dropout modules are inactive in the fit and in the draws: the noise on the weights regularises in their place, and is
the whole posterior. The running statistics of batch normalisation are those met under the noise of the fit, and every
draw uses them.

P: parameters, K: draws, B: items of a batch.
"""

import contextlib
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from activebdl.data.dataset import Labelled
from activebdl.errors import UserError
from activebdl.posteriors import posterior
from activebdl.posteriors._ivon_optimizer import IvonOptimizer
from activebdl.posteriors._masks import DROPOUT
from activebdl.posteriors._shared import WeightDraws
from activebdl.randomness import global_rng_from, normal_like
from activebdl.training import Training, optimise


@posterior("ivon")
@dataclass(frozen=True)
class IVON:
    """IVON, the improved variational online Newton method: a diagonal Gaussian over the weights of any module.

    Args:
        training: Steps, batches, schedule, augmentation and ``prior_precision``, which adds ``prior_precision / n`` to
            the weight decay here too. The optimiser, its learning rate and its weight decay are those below instead.
        learning_rate: The highest of the schedule, on the scale of gradient descent with momentum.
        ess_per_label: The effective sample size is this many times the number of labels,
        ess_min: or this, when it is more.
        hess_init: The Hessian's diagonal at the start; the noise at the start is ``1 / sqrt(ess hess_init)``.
        beta1: Of the running mean of gradients.
        beta2: Of the running mean of the Hessian's diagonal; its memory is ``1 / (1 - beta2)`` steps.
        weight_decay: delta: the prior's precision divided by the effective sample size.
    """

    training: Training = field(default_factory=Training)
    learning_rate: float = 0.2
    ess_per_label: float = 1.0
    ess_min: float = 10_000.0
    hess_init: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.9995
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        if not (self.learning_rate > 0 and self.hess_init > 0 and self.weight_decay > 0):
            raise UserError(
                "IVON's learning rate, hess_init and weight_decay must be above 0; "
                f"they are {self.learning_rate}, {self.hess_init} and {self.weight_decay}."
            )
        if not (self.ess_per_label >= 0 and self.ess_min >= 0 and self.ess_per_label + self.ess_min > 0):
            raise UserError(
                "IVON's ess_per_label and ess_min must not be negative, nor both 0; "
                f"they are {self.ess_per_label} and {self.ess_min}."
            )
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise UserError(
                f"IVON's beta1 and beta2 must be at least 0 and below 1; they are {self.beta1} and {self.beta2}."
            )

    def fit(
        self,
        network: Callable[[], nn.Module],
        labelled: Labelled,
        *,
        generator: torch.Generator,
        on_step: Callable[[], object] | None = None,
    ) -> "IvonPosterior":
        """Learns the mean and the variances; see `activebdl.posteriors.InferenceMethod.fit`."""
        n, device = len(labelled), labelled.device
        # The noise of every step is made where the weights lie, for which a generator on the CPU would be slow.
        noise = torch.Generator(device).manual_seed(int(torch.randint(2**62, (), generator=generator)))
        with global_rng_from(generator, device):
            module = network().to(device)
            optimizer = IvonOptimizer(
                self._groups(module, n),
                self.learning_rate,
                ess=self.ess(n),
                generator=noise,
                hess_init=self.hess_init,
                beta1=self.beta1,
                beta2=self.beta2,
            )
            settings = replace(self.training, learning_rate=self.learning_rate)
            with optimizer.perturbed(), _without_dropout(module):
                optimise(module, labelled, settings, generator=generator, optimizer=optimizer, on_step=on_step)
        deviations = {
            name: optimizer.variance(parameter).sqrt()
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }
        return IvonPosterior(module.eval().requires_grad_(False), deviations)

    def check(self, module: nn.Module, example: Tensor) -> None:
        """Refuses a network without the parameters that the prior is on."""
        del example
        self.training.has_prior(module)

    def steps(self, n: int) -> int:
        """Optimiser steps that a fit to ``n`` labels takes."""
        return self.training.total_steps(n)

    def ess(self, n: int) -> float:
        """The effective sample size of ``n`` labels."""
        return max(self.ess_per_label * n, self.ess_min)

    def _groups(self, module: nn.Module, n: int) -> list[dict[str, Any]]:
        """The parameters that are trained, by their weight decay."""
        groups: dict[float, list[Tensor]] = {}
        has_prior = self.training.has_prior(module)
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                decay = self.weight_decay + has_prior[name] * self.training.prior_precision / max(n, 1)
                groups.setdefault(decay, []).append(parameter)
        return [{"params": parameters, "weight_decay": decay} for decay, parameters in groups.items()]


@contextlib.contextmanager
def _without_dropout(module: nn.Module) -> Generator[None]:
    """Inside, dropout modules drop nothing; each has its probability back afterwards."""
    dropouts = [(child, child.p) for child in module.modules() if isinstance(child, DROPOUT)]
    try:
        for child, _ in dropouts:
            child.p = 0.0
        yield
    finally:
        for child, p in dropouts:
            child.p = p


@dataclass(frozen=True)
class IvonPosterior:
    """A network that holds the mean, and standard deviations around it.

    Args:
        module: It is never changed, nor is its mode.
        deviations: sigma by parameter name; parameters that are not named do not vary.
    """

    module: nn.Module
    deviations: Mapping[str, Tensor]

    def draw(self, k: int, *, generator: torch.Generator) -> WeightDraws:
        """K sets of weights; the first ones are the same however many are asked for."""
        with torch.no_grad():
            return WeightDraws(self.module, [self._sample(generator) for _ in range(k)])

    def _sample(self, generator: torch.Generator) -> dict[str, Tensor]:
        drawn: dict[str, Tensor] = {}
        for name, deviation in self.deviations.items():
            mean = self.module.get_parameter(name)
            drawn[name] = torch.addcmul(mean, deviation, normal_like(mean, generator))
        return drawn
