"""Bayes by Backprop (Blundell et al. 2015): stochastic variational inference with a Gaussian on every weight.

    q(w) = prod_i N(w_i | mean_i, sd_i^2)
    loss = E_q[ 1/n sum_n - log p(y_n | x_n, w) ] + kl_weight KL(q || prior) / n

With ``kl_weight = 1`` it is minus the ELBO, over n: the KL is summed over all weights and divided by the number of
labels, which grows from round to round. A batch's mean stands for the first term, so that batches may have any size.

A network has far more weights than there are labels, and each costs some KL, so at few labels the exact ELBO is highest
at the prior: the data are not worth their price. What makes it learn from 20 labels, all of it to be set: a start at
the point that plain training finds, standard deviations below the prior's there, a KL that comes in slowly, and a
``kl_weight`` below 1, a tempered ("cold") posterior (Wenzel et al. 2020). For the last layer alone, the ELBO itself
will do. On MNIST with 20 labels (batchbald_cnn) all layers with ``kl_weight`` 0.1 and 0.01 have 24 and 66 % of
the test images right, and with 1 no more than chance gives; the last layer with 1 has 67 %.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from activebdl.data.dataset import Labelled
from activebdl.errors import UserError
from activebdl.posteriors import posterior
from activebdl.posteriors._bayesian_layers import ESTIMATORS, GaussianPrior, MeanField, MixturePrior, Prior
from activebdl.posteriors._last_layer import HeadDraws, LastLayer
from activebdl.posteriors._layers import called_layers, last_layer, replace_layers
from activebdl.posteriors._masks import is_dropout
from activebdl.posteriors._shared import WeightDraws
from activebdl.randomness import global_rng_from, normal_like
from activebdl.training import Training, make_optimizer, negative_log_likelihood, optimise


@posterior("bayes_by_backprop")
@dataclass(frozen=True)
class BayesByBackprop:
    """Bayes by Backprop, for any module with nn.Linear or nn.Conv layers.

    Scales are multiples of ``sqrt(2 / fan_in)`` of their layer, biases included. Dropout layers are on in the MAP start
    and off afterwards: their noise is no part of q.

    Args:
        training: How the network is trained; its steps are those of the MAP start and of the variational phase
            together. Its weight decay and prior are on what is not Bayesian alone, for the KL is the prior of the rest.
        layers: Which linear and convolutional layers are Bayesian: all, or only the last.
        prior: gaussian, with an exact KL, or the scale mixture of Blundell 2015. That one's KL needs weights that are
            drawn, whatever the estimator; they are drawn apart from the outputs' noise, so that both terms of the loss
            stay unbiased.
        prior_scale: Standard deviation of the Gaussian prior.
        pi: Weight of the wide part of the mixture.
        sigma1: Standard deviation of its wide part.
        sigma2: Standard deviation of its narrow part.
        estimator: How outputs are drawn while training: local reparametrisation, or Flipout. Draws of the posterior
            are draws of weights, with either.
        kl_weight: Of KL / n in the loss, at the end. 1 is the ELBO; below, the posterior is colder, see above.
        map_start: Share of the steps in which the means alone are trained, without KL.
        kl_warmup: Share of the remaining steps in which the weight of the KL rises from 0.
        initial_scale: Standard deviation of the weights when the variational phase starts.
    """

    training: Training = field(default_factory=Training)
    layers: Literal["all", "last"] = "all"
    prior: Literal["gaussian", "mixture"] = "gaussian"
    prior_scale: float = 1.0
    pi: float = 0.5
    sigma1: float = 1.0
    sigma2: float = 0.1
    estimator: Literal["local", "flipout"] = "local"
    kl_weight: float = 0.003
    map_start: float = 0.3
    kl_warmup: float = 0.5
    initial_scale: float = 0.2

    def __post_init__(self) -> None:
        for name, known in (("layers", _LAYERS), ("prior", _PRIORS), ("estimator", ESTIMATORS)):
            if getattr(self, name) not in known:
                raise UserError(f"{name} is one of {', '.join(known)}, not '{getattr(self, name)}'.")
        for name in ("prior_scale", "sigma1", "sigma2", "initial_scale"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UserError(f"{name} is a standard deviation and must be above 0, and is {getattr(self, name)}.")
        if not 0 < self.pi < 1:
            raise UserError(f"pi is a share of the mixture, above 0 and below 1, and is {self.pi}.")
        if not 0 <= self.kl_weight < float("inf"):
            raise UserError(f"kl_weight must not be negative, and is {self.kl_weight}.")
        if not 0 <= self.map_start < 1 or not 0 <= self.kl_warmup <= 1:
            raise UserError("map_start is a share of the steps, from 0 to below 1; kl_warmup one from 0 to 1.")

    def fit(
        self,
        network: Callable[[], nn.Module],
        labelled: Labelled,
        *,
        generator: torch.Generator,
        on_step: Callable[[], object] | None = None,
    ) -> "MeanFieldPosterior":
        """Fits means and standard deviations; see `activebdl.posteriors.InferenceMethod.fit`.

        Raises:
            UserError: As for `check`, and when the loss is not finite.
        """
        if len(labelled) == 0:
            raise UserError("There is nothing to fit to: not one item is labelled.")
        example = labelled.example.float()
        with global_rng_from(generator, labelled.device):
            module = network().to(labelled.device)
            names = self._bayesian(module, example)
            optimizer = make_optimizer(
                module, self.training, len(labelled)
            )  # while the parameters have the user's names
            module = replace_layers(module, names, self._mean_field)
            fields = {name: found for name in names if isinstance(found := module.get_submodule(name), MeanField)}
            _without_decay(optimizer, list(fields.values()))
            objective = _Objective(self, labelled, list(fields.values()))
            optimise(
                module, labelled, self.training,
                generator=generator, objective=objective, optimizer=optimizer, on_step=on_step,
            )  # fmt: skip
        sds = {_join(name, key): sd.detach() for name, found in fields.items() for key, sd in found.sds().items()}
        plain = replace_layers(module, names, lambda found: found.get_submodule("layer"))
        plain.eval().requires_grad_(False)
        head = LastLayer.find(plain, example) if self.layers == "last" else None
        return MeanFieldPosterior(plain, sds, objective.trace(), head)

    def check(self, module: nn.Module, example: Tensor) -> None:
        """Refuses a network that `fit` would refuse, before any label is asked for.

        Args:
            module: A fresh network.
            example: A normalised batch that it can read, two items, on its device.

        Raises:
            UserError: It has no layer to make Bayesian, or one that cannot be, or not the parameters of the prior.
        """
        self._bayesian(module, example)
        self.training.has_prior(module)

    def steps(self, n: int) -> int:
        """Optimiser steps that a fit to ``n`` labels takes, of both phases together."""
        return self.training.total_steps(n)

    def _bayesian(self, module: nn.Module, example: Tensor) -> list[str]:
        """The names of the layers to make Bayesian."""
        names = called_layers(module, example) if self.layers == "all" else [last_layer(module, example)]
        for name in names:
            _check_layer(module, name)
        return names

    def _mean_field(self, layer: nn.Module) -> MeanField:
        return MeanField(
            layer, _PRIORS[self.prior](self), initial_scale=self.initial_scale, estimator=ESTIMATORS[self.estimator]
        )


_LAYERS = ("all", "last")
_PRIORS: dict[str, Callable[[BayesByBackprop], Prior]] = {
    "gaussian": lambda method: GaussianPrior(method.prior_scale),
    "mixture": lambda method: MixturePrior(method.pi, method.sigma1, method.sigma2),
}


class _Objective:
    """The loss of a step, see the top of this file; it knows what phase a step belongs to, and keeps the trace.

    Args:
        method: The schedule.
        labelled: n and the likelihood.
        fields: All Bayesian layers.
    """

    def __init__(self, method: BayesByBackprop, labelled: Labelled, fields: Sequence[MeanField]) -> None:
        self.n, self.fields, self.kl_weight = len(labelled), fields, method.kl_weight
        self.likelihood = negative_log_likelihood(labelled)
        steps = method.steps(self.n)
        self.start = min(round(method.map_start * steps), steps - 1)  # one variational step there always is
        self.warmup = method.kl_warmup * (steps - self.start)
        self.nll, self.kl, self.loss = torch.full((3, steps), float("nan"), device=labelled.device)

    def __call__(self, module: nn.Module, x: Tensor, targets: Tensor, step: int) -> Tensor:
        if step == 0 or step == self.start:
            self._enter(module, variational=step >= self.start)
        nll = loss = self.likelihood(module, x, targets, step)
        if step >= self.start:
            kl = torch.stack([found.kl() for found in self.fields]).sum() / self.n
            loss = nll + self.weight(step) * kl
            self.kl[step] = kl.detach()
        self.nll[step], self.loss[step] = nll.detach(), loss.detach()
        return loss

    def weight(self, step: int) -> float:
        """Of KL / n at a step of the variational phase."""
        done = step - self.start + 1
        return self.kl_weight * min(1.0, done / self.warmup if self.warmup > 0 else 1.0)

    def trace(self) -> dict[str, Tensor]:
        """``nll``, ``kl`` (KL / n, NaN in the MAP start) and ``loss`` of every step."""
        return {"nll": self.nll, "kl": self.kl, "loss": self.loss}

    def _enter(self, module: nn.Module, *, variational: bool) -> None:
        for found in self.fields:
            found.sampling = variational
        for child in module.modules():
            if is_dropout(child):
                child.train(not variational)


class MeanFieldPosterior:
    """A Gaussian on each weight of a module's Bayesian layers, all independent.

    Args:
        module: A trained network; the weights in it are the means. It is never changed, nor is its mode.
        sds: Standard deviations, by the parameter's name. Parameters without one are points.
        trace: ``nll``, ``kl`` (KL / n) and ``loss`` of each step of the fit.
        head: The one Bayesian layer, when that is the last, so that what comes before it can be computed once.

    Attributes:
        diagnostics: The trace's means over the last tenth of the variational phase.
    """

    def __init__(
        self,
        module: nn.Module,
        sds: Mapping[str, Tensor],
        trace: Mapping[str, Tensor],
        head: LastLayer | None = None,
    ) -> None:
        self.module, self.sds, self.trace = module, sds, trace
        self.head = head
        phase = {name: values[~trace["kl"].isnan()] for name, values in trace.items()}
        self.diagnostics = {name: float(values[-max(1, len(values) // 10) :].mean()) for name, values in phase.items()}

    def draw(self, k: int, *, generator: torch.Generator) -> "WeightDraws | HeadDraws":
        """K sets of weights; the first ones are the same however many are asked for."""
        with torch.no_grad():
            weights = [{name: self._draw(name, sd, generator) for name, sd in self.sds.items()} for _ in range(k)]
        return WeightDraws(self.module, weights) if self.head is None else HeadDraws.of(self.head, weights)

    def _draw(self, name: str, sd: Tensor, generator: torch.Generator) -> Tensor:
        return torch.addcmul(self.module.get_parameter(name), sd, normal_like(sd, generator))


def _check_layer(module: nn.Module, name: str) -> None:
    """Refuses a layer whose replacement would compute something else.

    Raises:
        UserError: It has hooks, or parameters that another module has too.
    """
    layer = module.get_submodule(name)
    where = f"The layer '{name}'" if name else "The network"
    if layer._forward_hooks or layer._forward_pre_hooks:
        raise UserError(f"{where} has forward hooks, which a Bayesian layer in its place would not call; remove them.")
    own = {id(parameter) for parameter in layer.parameters()}
    for other in module.modules():
        if other is not layer and any(id(found) in own for found in other.parameters(recurse=False)):
            raise UserError(f"{where} shares a parameter with another layer, so it cannot be made Bayesian alone.")


def _without_decay(optimizer: torch.optim.Optimizer, fields: Sequence[MeanField]) -> None:
    """Takes weight decay off the means, and has the standard deviations trained with them."""
    bayesian = [parameter for found in fields for parameter in found.parameters()]
    ids = {id(parameter) for parameter in bayesian}
    for group in optimizer.param_groups:
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in ids]
    optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
    optimizer.add_param_group({"params": bayesian, "weight_decay": 0.0})


def _join(name: str, parameter: str) -> str:
    return f"{name}.{parameter}" if name else parameter
