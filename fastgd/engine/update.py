"""Adds an optimizer's update to a program: accumulation, norm, and a chain of clipping, rule and moving average."""

import numpy as np

from .gradient import NORM_BLOCK, accumulate_gradient, average_parameters, clip_factor, clip_gradient, sum_squares
from .program import SCRATCH, PerStep


def write_update(program, optimizer, parts):
    """Adds the update to the phases UPDATE_PHASES. parts: (name of the parameters, name of their gradient, UpdateGroup)
    of each part of the parameters; the names are those of flat buffers of the program."""
    if optimizer.training_pass is not None:
        optimizer.write_update(program, parts)
        return
    conditional = optimizer.accumulate > 1
    gradients = []
    for i, (_, g, _) in enumerate(parts):
        for name, arrays in optimizer.state.items():
            program.buffers[f"{name}.{i}"] = arrays[i]
        if conditional:
            weight = 1 / optimizer.accumulate
            program.add("accumulate", accumulate_gradient, f"accumulated.{i}", g, PerStep("keep"), weight)
            g = f"accumulated.{i}"
        gradients.append(g)
    program.buffers |= {"norm": optimizer.norm, "factor": np.ones(1), "scale": np.ones(1)}
    if optimizer.clip_norm is not None and parts:
        blocks = [-(-program.buffers[g].size // NORM_BLOCK) for g in gradients]
        sums = {"squares": np.zeros(sum(blocks)), "scales": np.ones(sum(blocks))}
        program.buffers |= sums
        for g, end, count in zip(gradients, np.cumsum(blocks), blocks, strict=True):
            _write_norm(program, g, {name: array[end - count : end] for name, array in sums.items()}, conditional)
        outputs = "norm", "factor", "scale"
        program.add("factor", clip_factor, *outputs, *sums, optimizer.clip_norm, conditional=conditional)
    for i, ((p, _, group), g) in enumerate(zip(parts, gradients, strict=True)):
        program.add_chain("update", _links(program, optimizer, i, p, g, group), conditional)


def _write_norm(program, g, sums, conditional):
    """Adds the sums of squares of a flat gradient: complete rows of NORM_BLOCK elements, then the rest."""
    flat = program.buffers[g]
    whole = flat.size // NORM_BLOCK
    for part, cut, width, rows in (
        ("rows", slice(0, whole * NORM_BLOCK), NORM_BLOCK, slice(0, whole)),
        ("rest", slice(whole * NORM_BLOCK, None), flat.size % NORM_BLOCK, slice(whole, None)),
    ):
        if flat[cut].size:
            program.buffers[f"{g}.{part}"] = flat[cut].reshape(-1, width)
            outputs = [f"{name}.{g}.{part}" for name in sums]
            program.buffers |= zip(outputs, (array[rows] for array in sums.values()), strict=True)
            program.add("norms", sum_squares, *outputs, f"{g}.{part}", conditional=conditional)


def _links(program, optimizer, i, p, g, group):
    """The operations that update the i-th part."""
    links, names = [], {"p": p, "g": g}
    if optimizer.clip_value is not None or optimizer.clip_norm is not None:
        names["g"] = f"{SCRATCH}.{i}"
        # Only numpy bodies use this memory; a chain of compiled bodies has a scratch buffer per thread.
        program.buffers[names["g"]] = np.empty_like(program.buffers[p])
        limit = np.inf if optimizer.clip_value is None else optimizer.clip_value
        links.append(program.operation(clip_gradient, names["g"], g, "factor", "scale", limit))
    rule = optimizer.update_kernel
    arrays = [names.get(name, f"{name}.{i}") for name in rule.arrays]
    scalars = [PerStep("seed" if name == "seed" else (group, name)) for name in rule.scalars]
    links.append(program.operation(rule, *arrays, *scalars))
    if optimizer.ema_decay is not None:
        links.append(program.operation(average_parameters, f"average.{i}", p, optimizer.ema_decay))
    return links
