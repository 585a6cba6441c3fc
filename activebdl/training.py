"""The fit of one plain network to the labels there are: a fixed number of optimiser steps, and nothing is held out.

No early stopping: a validation set would need labels of its own, and on small ones it stops too early
(see Kirsch et al. 2019, who paid 1,000 labels for theirs).
"""

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from activebdl.data.augment import Augmentation
from activebdl.data.dataset import Labelled
from activebdl.devices import Precision, check_precision, multiplying_in
from activebdl.errors import UserError, words
from activebdl.heap import keep_freed_memory
from activebdl.likelihoods import Categorical, Likelihood
from activebdl.pseudo_labels import PseudoLabels
from activebdl.randomness import global_rng_from, global_rng_kept

Optimizer = Literal["adamw", "adam", "sgd"]
Schedule = Literal["onecycle", "constant"]
Step = Callable[[], object]
Objective = Callable[[nn.Module, Tensor, Tensor, int], Tensor]
"""``f(module, x [B, ...], targets [B], step) -> loss []``, of a batch that is normalised; steps count from 0."""


@dataclass(frozen=True)
class Training:
    """How a network is trained, the same in every round.

    Args:
        steps: Optimiser steps of a fit with no labels.
        steps_per_label: Further steps for each labelled item, so that later rounds are trained longer.
        batch_size: Items a step. When there are fewer labels, a batch holds several copies, each augmented anew.
        optimizer: adamw decouples the weight decay from the gradient, adam adds it to the gradient (L2), as sgd does.
        learning_rate: The highest rate of the schedule.
        schedule: onecycle rises over a third of the steps and falls to nothing (Smith 2018); constant stays.
        weight_decay: As the optimiser takes it.
        prior_precision: Of a Gaussian prior on the weights: adds ``prior_precision / n`` to the weight decay, so that
            it weighs less the more labels there are (Gal 2016). Zero leaves it out.
        prior_on: Names of the modules or parameters that have this prior, e.g. ``("dense.weight",)``; None for all.
        augmentation: Random transformations of the training images; None for none.
        precision: Of the numbers that layers multiply. bfloat16 is up to twice as fast on processors that have it, and
            slow on others; the weights, their updates and the loss of the outputs stay in float32 (Kalamkar et al.
            2019, "A Study of BFLOAT16 for Deep Learning Training").
        pseudo_labels: Semi-supervised training: the pool takes part, by what the network guesses of it; None leaves it
            out. A step then costs two to three times as much.

    Raises:
        UserError: A setting that cannot be.
    """

    steps: int = 800
    steps_per_label: float = 0.0
    batch_size: int = 64
    optimizer: Optimizer = "adamw"
    learning_rate: float = 3e-3
    schedule: Schedule = "onecycle"
    weight_decay: float = 1e-2
    prior_precision: float = 0.0
    prior_on: tuple[str, ...] | None = None
    augmentation: Augmentation | None = None
    precision: Precision = "float32"
    pseudo_labels: PseudoLabels | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise UserError(f"{name} is a whole number from 1 on, not {getattr(self, name)!r}.")
        for name, known in (("optimizer", get_args(Optimizer)), ("schedule", get_args(Schedule))):
            if getattr(self, name) not in known:
                raise UserError(f"{name} is one of {', '.join(known)}, not {getattr(self, name)!r}.")
        check_precision(self.precision, of="training")
        if not 0 < self.learning_rate < math.inf:
            raise UserError(f"The learning rate is a number above 0, not {self.learning_rate}.")
        for name in ("steps_per_label", "weight_decay", "prior_precision"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"{name} is a number that is not negative, and not {getattr(self, name)}.")
        if self.augmentation is not None and not callable(self.augmentation):
            raise UserError(f"augmentation is one such as Handwriting(), and not {self.augmentation!r}.")
        if self.pseudo_labels is not None and not isinstance(self.pseudo_labels, PseudoLabels):
            raise UserError(f"pseudo_labels are PseudoLabels() or None, and not {self.pseudo_labels!r}.")
        if isinstance(self.prior_on, str):
            raise UserError(f'prior_on is a tuple of names: ("{self.prior_on}",).')

    def total_steps(self, n: int) -> int:
        """Optimiser steps of a fit to ``n`` labels."""
        return self.steps + round(self.steps_per_label * n)

    def check(self, module: nn.Module, likelihood: Likelihood) -> None:
        """Refuses what it cannot train.

        Raises:
            UserError: Pseudo-labels where labels are numbers, for guesses are of classes; or single items to a network
                whose batch norm needs several.
        """
        if self.batch_size == 1 and any(
            isinstance(child, nn.modules.batchnorm._BatchNorm) for child in module.modules()
        ):
            raise UserError("The network's batch norm needs several items a step: batch_size is at least 2, not 1.")
        if self.pseudo_labels is not None and not isinstance(likelihood, Categorical):
            raise UserError("pseudo_labels are guesses of classes, and these labels are numbers: leave them out.")

    def has_prior(self, module: nn.Module) -> dict[str, bool]:
        """Whether ``prior_on`` names it, for every parameter of the module, by name.

        Raises:
            UserError: ``prior_on`` names something that the module does not have.
        """
        parameters = [name for name, _ in module.named_parameters()]
        if self.prior_on is None:
            return dict.fromkeys(parameters, True)
        for wanted in self.prior_on:
            if not any(_names(wanted, parameter) for parameter in parameters):
                raise UserError(f"prior_on names '{wanted}', and the network has: {', '.join(parameters)}.")
        return {parameter: any(_names(wanted, parameter) for wanted in self.prior_on) for parameter in parameters}


def train(
    network: Callable[[], nn.Module],
    labelled: Labelled,
    training: Training,
    *,
    generator: torch.Generator,
    objective: Objective | None = None,
    on_step: Step | None = None,
) -> nn.Module:
    """Makes a fresh network and trains it; the result is in eval mode, with gradients off.

    Args:
        network: Makes a fresh ``nn.Module`` that maps ``[B, ...]`` to outputs ``[B, O]``, as the likelihood wants them.
        labelled: What it is fitted to.
        training: How.
        generator: Weights, order of batches, augmentation and dropout all come from it.
        objective: As for `optimise`.
        on_step: Called after every step, for a progress bar.

    Raises:
        UserError: The network's output does not fit the likelihood, or the loss is not finite.
    """
    with global_rng_from(generator, labelled.device):
        module = network().to(labelled.device)
        optimise(module, labelled, training, generator=generator, objective=objective, on_step=on_step)
    return module.eval().requires_grad_(False)


def optimise(
    module: nn.Module,
    labelled: Labelled,
    training: Training,
    *,
    generator: torch.Generator,
    objective: Objective | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    done: int = 0,
    on_step: Step | None = None,
) -> Tensor:
    """Trains a module where it stands; for use within `global_rng_from`, for dropout obeys the global generators alone.

    Args:
        module: On the device of the labelled items; it is left in train mode.
        labelled: What it is fitted to.
        training: How.
        generator: Of the order of batches, and of augmentation.
        objective: What is minimised; the mean negative log-likelihood when not given.
        optimizer: In place of the one that ``training`` names.
        done: Steps of the fit before these: the sentence that names a step counts them, and pseudo-labels need no
            further steps without them.
        on_step: Called after every step.

    Returns:
        The loss of each step, on the device.

    Raises:
        UserError: The network's output does not fit the likelihood, or the loss is not finite.
    """
    if len(labelled) == 0:
        raise UserError("There is nothing to fit to: not one item is labelled.")
    training.check(module, labelled.likelihood)
    keep_freed_memory()
    steps = training.total_steps(len(labelled))
    layout = lay_out(module, labelled.normalise(labelled.inputs[:1].float()))
    module.train()
    objective = objective or negative_log_likelihood(labelled)
    optimizer = optimizer or make_optimizer(module, training, len(labelled))
    scheduler = make_scheduler(optimizer, training, steps)
    guessing = training.pseudo_labels
    alone = 0 if guessing is None or done > 0 else math.ceil(guessing.after * steps)
    pool = None if guessing is None else guessing.over(labelled, steps - alone, layout, generator)
    losses = torch.zeros(steps, device=labelled.device)  # no step waits for a transfer of its loss
    for step, batch in enumerate(_batches(len(labelled), training.batch_size, steps, generator)):
        batch = batch.to(labelled.device)
        x = labelled.inputs[batch].float()
        if training.augmentation is not None:
            x = training.augmentation(x, generator)
        x = labelled.normalise(x).contiguous(memory_format=layout)
        with multiplying_in(training.precision, labelled.device):
            loss = objective(module, x, labelled.labels[batch], step)
            if pool is not None and step >= alone:
                loss = loss + pool.loss(module)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        losses[step] = loss.detach()
        if on_step is not None:
            on_step()
    _refuse_unfinite(losses, done)
    return losses


def negative_log_likelihood(labelled: Labelled) -> Objective:
    """The mean over the batch of ``-log p(target | network's outputs)``."""

    def objective(module: nn.Module, x: Tensor, targets: Tensor, step: int) -> Tensor:
        return loss_of(labelled, module(x), targets, step)

    return objective


def loss_of(labelled: Labelled, outputs: Tensor, targets: Tensor, step: int) -> Tensor:
    """The likelihood's loss of a batch's outputs, which are looked at in the first step; in float32 or better.

    Raises:
        UserError: They do not fit the likelihood.
    """
    if step == 0:
        check_outputs(outputs, len(targets), labelled.likelihood.width)
    return labelled.likelihood.loss(outputs.to(torch.promote_types(outputs.dtype, torch.float32)), targets)


def make_optimizer(module: nn.Module, training: Training, n: int) -> torch.optim.Optimizer:
    """The optimiser that ``training`` names for a fit to ``n`` labels, with the weight decay of each parameter."""
    kinds = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}
    decays = {False: training.weight_decay, True: training.weight_decay + training.prior_precision / n}
    has_prior = training.has_prior(module)
    groups = [
        {"params": [p for name, p in module.named_parameters() if has_prior[name] is prior], "weight_decay": decay}
        for prior, decay in decays.items()
        if prior in has_prior.values()
    ]
    options: dict[str, Any] = {"momentum": 0.9} if training.optimizer == "sgd" else {}
    return kinds[training.optimizer](groups, lr=training.learning_rate, fused=True, **options)


def make_scheduler(
    optimizer: torch.optim.Optimizer, training: Training, steps: int
) -> torch.optim.lr_scheduler.LRScheduler | None:
    """The schedule that ``training`` names over so many steps; None where the rate stays."""
    if training.schedule == "constant":
        return None
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        training.learning_rate,
        total_steps=max(steps, 2) + 1,  # it cannot divide a single step into its two phases
        cycle_momentum="betas" in optimizer.defaults or "momentum" in optimizer.defaults,
    )


def _names(wanted: str, parameter: str) -> bool:
    """Whether ``wanted`` is that parameter, or a module that holds it."""
    return f"{parameter}.".startswith(f"{wanted}.")


def _batches(n: int, size: int, steps: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Index batches that walk through shuffled epochs end to end, so that every item is seen equally often."""
    epochs = -(-steps * size // n)
    order = torch.rand(epochs, n, generator=generator).argsort(dim=1).flatten()
    return cast(tuple[Tensor, ...], order[: steps * size].split(size))


def lay_out(module: nn.Module, x: Tensor) -> torch.memory_format:
    """Lays the weights out for images, and tells for which layout of ``x [1, ...]``.

    channels_last is much faster; a module that calls ``view`` on its images cannot take it.
    """
    if x.dim() == 4:
        module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        with contextlib.suppress(RuntimeError), torch.no_grad():
            module.eval()(x.repeat(2, 1, 1, 1).contiguous(memory_format=torch.channels_last))
            return torch.channels_last
        module.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
    return torch.contiguous_format


def check_network(network: Callable[[], nn.Module], x: Tensor, width: int) -> nn.Module:
    """Makes one network, and refuses it when it cannot turn ``x [B, ...]`` into outputs ``[B, width]``, item by item.

    Raises:
        UserError: It raises, its output has another shape, or depends on the other items of a batch; or the next
            network is not a fresh one.
    """
    with global_rng_kept(x.device), torch.no_grad():
        module, next_one = network(), network()
        own = {id(parameter) for parameter in module.parameters() if parameter.requires_grad}
        if any(id(parameter) in own for parameter in next_one.parameters()):
            raise UserError(
                "The network's factory must make a fresh module at each call, and two calls share weights that are "
                "trained: make them within it, or copy.deepcopy those it starts from."
            )
        if any(_looks_at_others(child) for child in module.modules()):
            raise UserError(
                "A batch norm of the network keeps no running statistics, so that what it says of an item would depend "
                "on the others that are looked at with it: leave track_running_stats on."
            )
        module = module.to(x.device).eval()
        try:
            outputs = module(x)
        except Exception as error:
            raise UserError(f"The network cannot read items of shape {list(x.shape[1:])}: {words(error)}.") from error
    check_outputs(outputs, len(x), width)
    return module


def _looks_at_others(child: nn.Module) -> bool:
    return isinstance(child, nn.modules.batchnorm._BatchNorm) and child.running_mean is None


def check_outputs(outputs: object, count: int, width: int) -> None:
    """Refuses a network whose output is not one row per item, as wide as the likelihood wants it.

    Raises:
        UserError: The output is not a tensor ``[count, width]``.
    """
    shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
    if shape != (count, width):
        raise UserError(
            f"The network must turn {count} items into outputs of shape ({count}, {width}): one column per class; "
            f"for numbers mean and log variance, or the mean alone where the noise is known. It gave {shape}."
        )


def _refuse_unfinite(losses: Tensor, done: int) -> None:
    bad = ~torch.isfinite(losses)
    if bool(bad.any()):
        raise UserError(
            f"The loss became {losses[bad][0].item()} at step {done + int(bad.nonzero()[0]) + 1}: "
            "lower the learning rate, or look for inputs that are not normalised."
        )
