"""Kernels of `BatchNorm` on blocks of 16 images (see engine/rows.py): each channel is normalized over all pixels of all
images. `row` has a number for each image, and so says how many the last block holds."""

import numpy as np

from .._plan import IMAGES
from ..core.kernel import In, Out, kernel


def _values_of(x, row):
    """The values of each channel in the images that exist: (n, pixels, images), in float64."""
    apart = np.moveaxis(x, 0, 2).astype(np.float64)  # (pixels, n, blocks, 16)
    return apart.reshape(*apart.shape[:2], -1)[:, :, : len(row)].swapaxes(0, 1)


@kernel
def image_statistics(
    mean: Out("n"),
    inverse: Out("n"),
    unbiased: Out("n"),
    x: In("blocks", "pixels", "n", "images"),
    row: In("rows", dtype="int64", domain="count"),
    running: In("n"),
    eps: float,
):
    """mean <- mean of each channel of x over its values, the pixels of all images; inverse <- 1 / sqrt(variance + eps),
    NaN if the variance overflows; unbiased <- values / (values - 1) variance, or `running` for a single value."""
    values = _values_of(x, row)
    number = values[0].size
    variance = values.var(axis=(1, 2))
    mean[...] = values.mean(axis=(1, 2))
    unbiased[...] = running if number == 1 else variance * (number / (number - 1))
    inverse[...] = np.where(np.isfinite(unbiased), 1 / np.sqrt(variance + eps), np.nan)


@image_statistics.loop
def image_statistics(mean, inverse, unbiased, x, row, running, eps):
    blocks, pixels, n, _ = x.shape
    rows = min(row.size, blocks * IMAGES)
    number = rows * pixels
    for j in range(n):
        total, squares = 0.0, 0.0
        for i in range(rows):
            for p in range(pixels):
                total += x[i // IMAGES, p, j, i % IMAGES]
        exact = total / number
        for i in range(rows):
            for p in range(pixels):
                squares += (x[i // IMAGES, p, j, i % IMAGES] - exact) * (x[i // IMAGES, p, j, i % IMAGES] - exact)
        mean[j] = exact
        unbiased[j] = running[j] if number == 1 else squares / (number - 1)
        inverse[j] = 1 / np.sqrt(squares / number + eps) if unbiased[j] < np.inf else np.nan


@kernel
def image_norm_forward(
    y: Out("blocks", "pixels", "n", "images"),
    normal: Out("blocks", "pixels", "n", "images"),
    x: In("blocks", "pixels", "n", "images"),
    mean: In("n"),
    inverse: In("n"),
    gamma: In("n"),
    beta: In("n"),
):
    """normal <- (x - mean) inverse, y <- gamma normal + beta, with mean and inverse of each channel. Ioffe & Szegedy
    2015, arXiv:1502.03167."""
    np.subtract(x, mean[:, None], out=normal)
    normal *= inverse[:, None]
    np.multiply(normal, gamma[:, None], out=y)
    y += beta[:, None]


@image_norm_forward.loop
def image_norm_forward(y, normal, x, mean, inverse, gamma, beta):
    for b in range(x.shape[0]):
        for p in range(x.shape[1]):
            for j in range(x.shape[2]):
                for i in range(x.shape[3]):
                    normal[b, p, j, i] = (x[b, p, j, i] - mean[j]) * inverse[j]
                    y[b, p, j, i] = normal[b, p, j, i] * gamma[j] + beta[j]


@kernel
def image_norm_backward_gamma(
    dgamma: Out("n"), dy: In("blocks", "pixels", "n", "images"), normal: In("blocks", "pixels", "n", "images")
):
    """dgamma <- sum of dy normal over the pixels of all images."""
    dgamma[...] = np.sum(dy * normal, axis=(0, 1, 3), dtype=np.float64)


@image_norm_backward_gamma.loop
def image_norm_backward_gamma(dgamma, dy, normal):
    total = np.zeros(dgamma.size)
    for b in range(dy.shape[0]):
        for p in range(dy.shape[1]):
            for j in range(dgamma.size):
                for i in range(dy.shape[3]):
                    total[j] += dy[b, p, j, i] * normal[b, p, j, i]
    for j in range(dgamma.size):
        dgamma[j] = total[j]


@kernel
def image_norm_means(
    mean: Out("n"),
    part: Out("n"),
    dy: In("blocks", "pixels", "n", "images"),
    normal: In("blocks", "pixels", "n", "images"),
    row: In("rows", dtype="int64", domain="count"),
):
    """mean <- mean of dy in each channel over the pixels of all images; part <- mean of dy normal."""
    for out, values in ((mean, dy), (part, dy * normal)):
        out[...] = _values_of(values, row).mean(axis=(1, 2))


@image_norm_means.loop
def image_norm_means(mean, part, dy, normal, row):
    blocks, pixels, n, _ = dy.shape
    rows = min(row.size, blocks * IMAGES)
    for j in range(n):
        total, products = 0.0, 0.0
        for i in range(rows):
            for p in range(pixels):
                total += dy[i // IMAGES, p, j, i % IMAGES]
                products += dy[i // IMAGES, p, j, i % IMAGES] * normal[i // IMAGES, p, j, i % IMAGES]
        mean[j] = total / (rows * pixels)
        part[j] = products / (rows * pixels)


@kernel
def image_norm_backward(
    dx: Out("blocks", "pixels", "n", "images"),
    dy: In("blocks", "pixels", "n", "images"),
    normal: In("blocks", "pixels", "n", "images"),
    inverse: In("n"),
    gamma: In("n"),
    mean: In("n"),
    part: In("n"),
    row: In("rows", dtype="int64", domain="count"),
):
    """dx <- gamma inverse (dy - mean - normal part), 0 for images beyond the last. With the means of `image_norm_means`
    this is the gradient for statistics of the minibatch; with zeros, for constant statistics."""
    np.multiply(normal, part[:, None], out=dx)
    np.subtract(dy - mean[:, None], dx, out=dx)
    dx *= (gamma * inverse)[:, None]
    missing = np.arange(len(dx) * IMAGES).reshape(-1, 1, 1, IMAGES) >= len(row)
    dx[np.broadcast_to(missing, dx.shape)] = 0


@image_norm_backward.loop
def image_norm_backward(dx, dy, normal, inverse, gamma, mean, part, row, begin, end):
    for b in range(begin, end):
        for p in range(dx.shape[1]):
            for j in range(dx.shape[2]):
                for i in range(dx.shape[3]):
                    value = gamma[j] * inverse[j] * (dy[b, p, j, i] - mean[j] - normal[b, p, j, i] * part[j])
                    dx[b, p, j, i] = value if b * IMAGES + i < row.size else 0
