"""The generalised Gauss-Newton matrix (GGN) of a linear last layer, whole or factorised, in its eigenbasis.

    H = sum_n  F_n (x) phi_n phi_n^T,    F_n = E[(d log p / d outputs)(d log p / d outputs)^T]

The outputs are linear in the layer's weights, so with a softmax or a Gaussian of known noise H is the exact Hessian of
the negative log-likelihood. In the eigenbasis of H a prior precision is added to every eigenvalue, so that trying
another one costs a sum, and a sample two rotations.

B: items of a chunk, O: outputs of the network for one item, E: inputs of the layer, and 1 more for its bias,
P = O E: weights of the layer, K: draws. Everything here is float64.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

Items = Iterable[tuple[Tensor, Tensor]]
"""Chunks of labelled items: what the layer reads, ``phi [B, E]``, and the Fisher information ``F [B, O, O]``."""


@dataclass(frozen=True)
class Curvature:
    """``H = Q diag(eigenvalues) Q^T``.

    Args:
        eigenvalues: ``[O, E]``, none below 0.
        rotate: What Q does, ``[K, O, E] -> [K, O, E]``.
        back: What Q^T does.
    """

    eigenvalues: Tensor
    rotate: Callable[[Tensor], Tensor]
    back: Callable[[Tensor], Tensor]

    def scale(self, noise: Tensor, precision: float) -> Tensor:
        """``(H + precision I)^(-1/2)`` times white noise, ``[K, O, E] -> [K, O, E]``.

        The symmetric root needs one rotation more than another would, and does not depend on the signs and the order
        of the eigenvectors, which no two machines need agree on.
        """
        return self.rotate(self.back(noise) / (self.eigenvalues + precision).sqrt())


def full(items: Items, weights: Tensor) -> Curvature:
    """H itself, ``[P, P]``.

    Args:
        items: The labelled items.
        weights: ``[O, E]``, for their shape and device.
    """
    hessian = weights.new_zeros(*weights.shape, *weights.shape)  # [O, E, O, E]
    for phi, fisher in items:
        for row, of_row in zip(hessian, fisher.unbind(1), strict=True):
            weighted = of_row[:, :, None] * phi[:, None, :]  # [B, O, E]
            row += torch.einsum("be,bof->eof", phi, weighted)
    values, vectors = torch.linalg.eigh(hessian.view(weights.numel(), -1))

    def turn(z: Tensor, by: Tensor) -> Tensor:
        return (z.flatten(1) @ by).view_as(z)

    eigenvalues = values.clamp_min(0).view_as(weights)
    return Curvature(eigenvalues, rotate=partial(turn, by=vectors.T), back=partial(turn, by=vectors))


def kron(items: Items, weights: Tensor) -> Curvature:
    """``n mean(F) (x) mean(phi phi^T)``, the Kronecker factorisation of Ritter et al. 2018; arguments as in `full`.

    Exact when all items have the same F, or the same phi.
    """
    outputs, inputs = weights.shape
    outer, inner, n = weights.new_zeros(outputs, outputs), weights.new_zeros(inputs, inputs), 0
    for phi, fisher in items:
        outer += fisher.sum(0)
        inner += phi.T @ phi
        n += len(phi)
    outer_values, outer_vectors = torch.linalg.eigh(outer / n)
    inner_values, inner_vectors = torch.linalg.eigh(inner)

    def turn(z: Tensor, outer: Tensor, inner: Tensor) -> Tensor:
        return outer.T @ z @ inner

    return Curvature(
        torch.outer(outer_values.clamp_min(0), inner_values.clamp_min(0)),
        rotate=partial(turn, outer=outer_vectors.T, inner=inner_vectors.T),
        back=partial(turn, outer=outer_vectors, inner=inner_vectors),
    )


def diag(items: Items, weights: Tensor) -> Curvature:
    """The diagonal of H; arguments as in `full`."""
    values = torch.zeros_like(weights)
    for phi, fisher in items:
        values += fisher.diagonal(dim1=1, dim2=2).T @ phi.square()
    return Curvature(values, rotate=lambda z: z, back=lambda z: z)


STRUCTURES: dict[str, Callable[[Items, Tensor], Curvature]] = {"full": full, "kron": kron, "diag": diag}


def best_precision(eigenvalues: Tensor, weights: Tensor, lowest: float = 1e-6, highest: float = 1e6) -> float:
    """The prior precision that maximises the Laplace evidence of weights that stay where they are.

    Its derivative by ``log precision`` is ``(gamma - precision ||weights||^2) / 2``, where
    ``gamma = sum_j h_j / (h_j + precision)`` counts the directions that the data determine (MacKay 1992). It falls as
    the precision grows, so there is one maximum, and bisection finds it.

    Args:
        eigenvalues: ``h [O, E]`` of the Hessian.
        weights: ``[O, E]``.
        lowest: Nothing below is searched: data that determine nothing ask for 0.
        highest: Nothing above is searched: weights that are 0 ask for infinity.
    """
    h, square = eigenvalues.flatten().cpu(), float(weights.square().sum())
    low, high = math.log(lowest), math.log(highest)
    for _ in range(60):  # halves the interval until nothing is left of it in float64
        middle = (low + high) / 2
        precision = math.exp(middle)
        rises = float((h / (h + precision)).sum()) > precision * square
        low, high = (middle, high) if rises else (low, middle)
    return math.exp((low + high) / 2)
