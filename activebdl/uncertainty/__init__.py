"""Uncertainty one can look at: what a posterior says where there is data, and where there is none. One file each.

moons: a plane around two half circles of points; digits: images that no network has seen; line: ten points on a line.
"""

from collections.abc import Sequence

from activebdl.build import make_method, plain
from activebdl.posteriors import InferenceMethod, posteriors
from activebdl.spec import Named
from activebdl.training import Training


def methods(names: Sequence[str] | None, training: Training) -> dict[str, InferenceMethod]:
    """Posteriors by name, with their own defaults but for the training; all, the plain network first, without names.

    Raises:
        UserError: A name that is unknown.
    """
    settings = plain(training)
    chosen = names or sorted(posteriors.names(), key=lambda name: name != "map")
    return {name: make_method(Named.model_validate({"name": name, "training": settings})) for name in chosen}
