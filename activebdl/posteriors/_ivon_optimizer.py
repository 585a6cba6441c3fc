"""The optimiser of IVON: natural-gradient steps for the mean and the diagonal precision of a Gaussian over weights.

    theta = m + sigma eps,   sigma^2 = 1 / (ess (h + delta)),   eps ~ N(0, I)
    g^ = gradient of the mean loss of a batch at theta,   h^ = g^ (theta - m) / sigma^2
    g <- beta1 g + (1 - beta1) g^
    h <- beta2 h + (1 - beta2) h^ + (1 - beta2)^2 (h - h^)^2 / (2 (h + delta))
    m <- m - lr (h0 + delta) (g / (1 - beta1^t) + delta m) / (h + delta)

(Shen et al. 2024, algorithm 1.) ``E h^`` is the diagonal of the Hessian of the loss, averaged over the posterior, at no
second backward pass. The last term of the update of h is what a step along the geodesic adds to a plain average. With
``a = (1 - beta2) (h^ - h) / (h + delta)`` it makes

    h + delta <- (h + delta) (1 + a + a^2 / 2) = (h + delta) ((1 + a)^2 + 1) / 2

which stays positive whatever the gradients, and is how h is kept here. The factor ``h0 + delta`` of the learning rate
makes the first steps those of plain gradient descent with momentum.
"""

import contextlib
from collections.abc import Callable, Generator, Iterable
from typing import Any

import torch
from torch import Tensor

from activebdl.randomness import normal_like


class IvonOptimizer(torch.optim.Optimizer):
    """IVON for one sample of the weights a step; inside `perturbed` the parameters hold that sample, outside the mean.

        with optimizer.perturbed():
            for x, y in batches:
                optimizer.zero_grad()
                loss(module(x), y).backward()
                optimizer.step()

    Args:
        params: Parameters, or groups of them; lr and weight_decay may differ from group to group.
        lr: As of gradient descent with momentum, while h is near hess_init.
        ess: Effective sample size: the number of items that the loss, a mean, speaks for.
        generator: Of the noise, on the parameters' device.
        hess_init: h0, above 0.
        beta1: Of the running mean of gradients.
        beta2: Of the running mean of the Hessian's diagonal.
        weight_decay: delta, the prior's precision divided by ess.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        *,
        ess: float,
        generator: torch.Generator,
        hess_init: float = 0.1,
        beta1: float = 0.9,
        beta2: float = 0.9995,
        weight_decay: float = 1e-4,
    ) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay}
        super().__init__(params, defaults)
        self._ess, self._hess_init, self._beta1, self._beta2 = ess, hess_init, beta1, beta2
        self._generator = generator
        self._perturbed = False
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter] = {
                    "step": 0,
                    "mean": parameter.detach().clone(),
                    "momentum": torch.zeros_like(parameter),  # g
                    "precision": torch.full_like(parameter, hess_init + group["weight_decay"]),  # h + delta
                }

    def variance(self, parameter: Tensor) -> Tensor:
        """sigma^2 of a parameter, in its shape."""
        return 1 / (self._ess * self.state[parameter]["precision"])

    @contextlib.contextmanager
    def perturbed(self) -> Generator[None]:
        """Inside, the parameters hold the mean plus noise; afterwards the mean alone, also after an exception."""
        self._perturb()
        try:
            yield
        finally:
            self._restore()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Updates mean and precision by the gradients at the sample, and puts the next sample in its place."""
        if not self._perturbed:
            raise RuntimeError("IVON's gradients are those at a sample of the weights: step within perturbed().")
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group["lr"], group["weight_decay"])
        self._restore()
        self._perturb()
        return loss

    def _update(self, parameter: Tensor, lr: float, decay: float) -> None:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        mean, precision = state["mean"], state["precision"]
        state["step"] += 1
        state["momentum"].lerp_(gradient, 1 - self._beta1)
        # (h^ - h) / (h + delta), where h^ = gradient noise ess (h + delta)
        change = self._ess * gradient * (parameter - mean) - 1 + decay / precision
        change.mul_(1 - self._beta2)
        precision.mul_(change.add_(1).square_().add_(1).div_(2))
        descent = (state["momentum"] / (1 - self._beta1 ** state["step"])).add_(mean, alpha=decay)
        mean.addcdiv_(descent, precision, value=-lr * (self._hess_init + decay))

    @torch.no_grad()
    def _perturb(self) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                noise = normal_like(parameter, self._generator)
                parameter.copy_(self.state[parameter]["mean"]).addcmul_(noise, self.variance(parameter).sqrt())
        self._perturbed = True

    @torch.no_grad()
    def _restore(self) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.copy_(self.state[parameter]["mean"])
        self._perturbed = False
