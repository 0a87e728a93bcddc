"""Planes in the space of the parameters, and the loss over them, for `plots.loss_surface`."""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ..callbacks import trajectory
from ..data.samples import as_array
from ..errors import check_integer, choose, shown, type_error, value_error
from ..network import Network

Path: TypeAlias = "trajectory | npt.ArrayLike"
Paths: TypeAlias = "Path | Mapping[str, Path]"

# How far a plane reaches beyond a path, as a fraction of its extent, and how far if there is no path.
MARGIN, REACH = 0.25, 1.0
# A path whose width is less than this fraction of its length is straight, up to rounding in float32.
STRAIGHT = 1e-6


@dataclasses.dataclass(frozen=True)
class Plane:
    """The points centre + a first + b second of the space of parameters.

    centre, first, second   (n_parameters,) each
    names                   names of the axes
    path                    (points, 2) coordinates (a, b) of the points of all paths, or of the parameters, projected
                            on the plane
    paths                   those of each path, by label; "path" if there is one without a label; none without a path
    reach                   ranges of the coordinates, ((a from, a to), (b from, b to))"""

    centre: npt.NDArray[np.float64]
    first: npt.NDArray[np.float64]
    second: npt.NDArray[np.float64]
    names: tuple[str, str]
    path: npt.NDArray[np.float64]
    paths: dict[str, npt.NDArray[np.float64]]
    reach: tuple[tuple[float, float], tuple[float, float]]

    def point(self, a: float, b: float) -> "npt.NDArray[np.float64]":
        return self.centre + a * self.first + b * self.second


@np.errstate(all="ignore")
def plane_of(
    network: Network,
    path: "Paths | None" = None,
    directions: "str | Sequence[npt.ArrayLike] | None" = None,
    seed: int = 0,
) -> Plane:
    """The plane for a network and its paths; for the arguments, see `plots.loss_surface`."""
    if not isinstance(network, Network):
        raise type_error("network", "a Network", shown(network))
    seed, given = check_integer("seed", seed, 0), _points_of_paths(network, path)
    points = np.concatenate(list(given.values())) if given else None
    if directions is None:
        flat = points is None or _extents(points)[1] <= STRAIGHT * _extents(points)[0]
        directions = "parameters" if network.n_parameters == 2 else "random" if flat else "pca"
    ends = [one[-1] for one in given.values()] or [network.parameters]
    end = np.array(ends, np.float64).mean(axis=0)
    if isinstance(directions, str):
        make = choose("directions", directions, {"parameters": _axes, "pca": _principal, "random": _random})
        centre, first, second, names = make(network, points, end, np.random.default_rng(seed))
    else:
        centre, names = end, ("direction 1", "direction 2")
        first, second = _given(network, directions)
    basis, points = np.stack([first, second], axis=1), end[None] if points is None else points
    coordinates = np.linalg.lstsq(basis, (points - centre).T, rcond=None)[0].T
    least = REACH if isinstance(directions, str) and directions == "random" else 0.0
    cuts = np.cumsum([len(one) for one in given.values()])[:-1]
    paths = dict(zip(given, np.split(coordinates, cuts), strict=True)) if given else {}
    return Plane(centre, first, second, names, coordinates, paths, _reach(coordinates, least))


@np.errstate(all="ignore")
def losses_over(
    network: Network, X: "npt.ArrayLike", y: "npt.ArrayLike", plane: Plane, resolution: int
) -> tuple["npt.NDArray[np.float64]", ...]:
    """Returns (a, b, losses): coordinates (resolution,) along both directions, and losses[i, j] at a[j], b[i]. A copy
    computes them, so the network does not change. BatchNorm normalizes by the mean and variance of X, since the running
    statistics suit only the present parameters; Dropout is off."""
    resolution, twin = check_integer("resolution", resolution, 2), copy.deepcopy(network)
    if network.statistics:
        twin = network.like(layers=[layer.without_noise() for layer in network.layers])
    X, y = as_array("X", X), as_array("y", y)  # converted once, not for each point
    a, b = (np.linspace(*reach, resolution) for reach in plane.reach)
    losses = np.empty((resolution, resolution))
    for i, j in np.ndindex(losses.shape):
        with np.errstate(all="ignore"):
            twin.parameters[:] = plane.point(float(a[j]), float(b[i]))
        losses[i, j] = twin.loss_and_gradient(X, y, training=True)[0] if twin.statistics else twin.loss(X, y)
    return a, b, losses


def _points_of_paths(network, path):
    """The points of each path as an array, by label."""
    if path is None:
        return {}
    if not isinstance(path, Mapping):
        return {"path": _points(network, path, "path")}
    if not path:
        raise value_error("path", "a path, or a dict of paths, {'batch': path, ...}", "{}")
    return {str(label): _points(network, one, f"path[{label!r}]") for label, one in path.items()}


def _points(network, path, name):
    """The points of a path as an array."""
    points = path.parameters if isinstance(path, trajectory) else np.asarray(path)
    shape_fits = points.ndim == 2 and len(points) and points.shape[1] == network.n_parameters
    if not shape_fits or points.dtype.kind != "f" or not np.isfinite(points).all():
        expected = f"a fastgd.callbacks.trajectory of this network, or a finite array (points, {network.n_parameters})"
        raise value_error(name, expected, shown(points))
    return points.astype(np.float64)


def _extents(points):
    """The extents of a path in its two principal directions."""
    lengths = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
    return (*lengths, 0.0, 0.0)[:2]


def _reach(coordinates, least):
    """The ranges of the coordinates: the path with a margin, one range at least half as long as the other, and REACH
    around a single point."""
    low, high = coordinates.min(axis=0), coordinates.max(axis=0)
    half = (0.5 + MARGIN) * (high - low)
    half = np.maximum(half, max(least, half.max() / 2) or REACH)
    return tuple(zip((low + high) / 2 - half, (low + high) / 2 + half, strict=True))


def _axes(network, points, end, rng):
    """The plane of the parameters of a network that has two."""
    if network.n_parameters != 2:
        expected = "'pca', 'random' or two arrays for a network of more than two parameters"
        raise value_error("directions", expected, "'parameters'")
    names = []
    for name, view in network.views().items():
        names += [name] if view.size == 1 else [f"{name}[{i}]" for i in range(view.size)]
    return np.zeros(2), np.array([1.0, 0.0]), np.array([0.0, 1.0]), tuple(names)


def _principal(network, points, end, rng):
    """The plane through the end and the path's two principal directions, of length 1."""
    if points is None or len(points) < 3:
        got = None if points is None else f"{len(points)} points"
        raise value_error("path", "a path of at least 3 points for directions='pca'", got)
    _, lengths, directions = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)
    if lengths[1] <= STRAIGHT * lengths[0]:
        raise value_error("path", "one that is not a straight line, for directions='pca'", "a straight line")
    share = lengths**2 / (lengths**2).sum()
    names = tuple(f"principal direction {i + 1} ({share[i]:.0%} of the variance along the path)" for i in range(2))
    return end, directions[0], directions[1], names


def _random(network, points, end, rng):
    """The plane of two random directions through the end. In each direction, the incoming weights of a unit, those with
    its index on the last axis, are scaled to their norm at the end; arrays of one axis, such as biases, are 0 (Li et
    al. 2018, arXiv:1712.09913)."""
    directions = []
    for _ in range(2):
        direction = np.zeros(network.n_parameters)
        parts, weights = network.views(direction), network.views(end)
        for name, part in parts.items():
            if part.ndim >= 2:
                part[...] = rng.normal(size=part.shape)
                lengths = [np.linalg.norm(a.reshape(-1, a.shape[-1]), axis=0) for a in (weights[name], part)]
                part *= lengths[0] / lengths[1]
        directions.append(direction)
    return end, *directions, tuple(f"random direction {i} (1: as long as the weights)" for i in (1, 2))


def _given(network, directions):
    expected = f"'parameters', 'pca', 'random', or two arrays of {network.n_parameters} numbers, not along one line"
    if not isinstance(directions, (tuple, list)) or len(directions) != 2:
        raise type_error("directions", expected, shown(directions))
    given = [np.asarray(direction) for direction in directions]
    for direction in given:
        if direction.shape != (network.n_parameters,) or direction.dtype.kind not in "iuf":
            raise value_error("directions", expected, shown(direction))
    if not np.isfinite(given).all() or np.linalg.matrix_rank(np.stack(given)) < 2:
        raise value_error("directions", expected, "directions that are not finite, or along one line")
    return [direction.astype(np.float64) for direction in given]
