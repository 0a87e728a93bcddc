"""Kernels of `BatchNorm` on blocks of 16 images (see engine/rows.py): each channel is normalized over all pixels of all
images. Sums over the pixels of each image are made block by block, with the layers in front; then few numbers are left
to be summed over the images. `row` has a number for each image, and so says how many the last block holds.

relu is computed within: `least` is 0 for relu, or -infinity, and y <- max(y, least). The backward pass computes y once
more, instead of reading it."""

import numpy as np

from .._plan import IMAGES
from ..core.kernel import In, Out, kernel


def _normalized(x, mean, inverse, gamma, beta):
    """(x - mean, y before relu)."""
    apart = x - mean[:, None]
    return apart, apart * (gamma * inverse)[:, None] + beta[:, None]


@kernel
def image_moments(
    means: Out("blocks", "n", "images"),
    rests: Out("blocks", "n", "images"),
    variances: Out("blocks", "n", "images"),
    x: In("blocks", "pixels", "n", "images"),
):
    """means, variances <- mean and variance of each channel of each image over its pixels; rests <- what rounding took
    from the means, which counts where they are far from 0."""
    exact = x.mean(axis=1, dtype=np.float64)
    means[...] = exact
    rests[...] = exact - means
    variances[...] = x.var(axis=1, dtype=np.float64)


@image_moments.loop
def image_moments(means, rests, variances, x):
    pixels = x.shape[1]
    for b in range(x.shape[0]):
        for j in range(x.shape[2]):
            for i in range(x.shape[3]):
                total, squares = 0.0, 0.0
                for p in range(pixels):
                    total += x[b, p, j, i]
                mean = total / pixels
                for p in range(pixels):
                    squares += (x[b, p, j, i] - mean) * (x[b, p, j, i] - mean)
                means[b, j, i] = mean
                rests[b, j, i] = mean - means[b, j, i]
                variances[b, j, i] = squares / pixels


@kernel
def image_statistics(
    mean: Out("n"),
    inverse: Out("n"),
    unbiased: Out("n"),
    means: In("blocks", "n", "images"),
    rests: In("blocks", "n", "images"),
    variances: In("blocks", "n", "images", domain="nonnegative"),
    row: In("rows", dtype="int64", domain="count"),
    running: In("n"),
    eps: float,
    pixels: float,
):
    """mean <- mean of each channel over the pixels of all images, given `image_moments`; inverse <- 1 / sqrt(variance +
    eps), NaN if the variance overflows; unbiased <- values / (values - 1) variance, or `running`
    for a single value."""
    in_images, within = (
        a.swapaxes(1, 2).reshape(-1, a.shape[1])[: len(row)]
        for a in (np.add(means, rests, dtype=np.float64), variances)
    )
    exact = in_images.mean(axis=0)
    variance = (within + np.square(in_images - exact)).mean(axis=0)
    number = len(in_images) * pixels
    mean[...] = exact
    unbiased[...] = running if number == 1 else variance * (number / (number - 1))
    inverse[...] = np.where(np.isfinite(unbiased), 1 / np.sqrt(variance + eps), np.nan)


@image_statistics.loop
def image_statistics(mean, inverse, unbiased, means, rests, variances, row, running, eps, pixels):
    rows = min(row.size, means.shape[0] * IMAGES)
    number = rows * pixels
    for j in range(mean.size):
        total, squares = 0.0, 0.0
        for i in range(rows):
            total += np.float64(means[i // IMAGES, j, i % IMAGES]) + rests[i // IMAGES, j, i % IMAGES]
        exact = total / rows
        for i in range(rows):
            apart = means[i // IMAGES, j, i % IMAGES] - exact + rests[i // IMAGES, j, i % IMAGES]
            squares += variances[i // IMAGES, j, i % IMAGES] + apart * apart
        variance = squares / rows
        mean[j] = exact
        unbiased[j] = running[j] if number == 1 else variance * (number / (number - 1))
        inverse[j] = 1 / np.sqrt(variance + eps) if unbiased[j] < np.inf else np.nan


@kernel
def image_norm_forward(
    y: Out("blocks", "pixels", "n", "images"),
    x: In("blocks", "pixels", "n", "images"),
    mean: In("n"),
    inverse: In("n"),
    gamma: In("n"),
    beta: In("n"),
    least: float,
):
    """y <- max(gamma inverse (x - mean) + beta, least), with mean and inverse of each channel. Ioffe & Szegedy 2015,
    arXiv:1502.03167."""
    np.maximum(_normalized(x, mean, inverse, gamma, beta)[1], x.dtype.type(least), out=y)


@image_norm_forward.loop
def image_norm_forward(y, x, mean, inverse, gamma, beta, least):
    for b in range(x.shape[0]):
        for p in range(x.shape[1]):
            for j in range(x.shape[2]):
                for i in range(x.shape[3]):
                    value = (x[b, p, j, i] - mean[j]) * (gamma[j] * inverse[j]) + beta[j]
                    y[b, p, j, i] = least if value < least else value


@kernel
def image_norm_sums(
    sums: Out("blocks", "n", "images"),
    products: Out("blocks", "n", "images"),
    dy: In("blocks", "pixels", "n", "images"),
    x: In("blocks", "pixels", "n", "images"),
    mean: In("n"),
    inverse: In("n"),
    gamma: In("n"),
    beta: In("n"),
    least: float,
):
    """sums <- sum of d over the pixels of each image, products <- sum of d (x - mean) inverse, where d is dy where y >
    least, else 0. Their sums over the images are the gradients of beta and gamma."""
    apart, y = _normalized(x, mean, inverse, gamma, beta)
    d = np.where(y > least, dy, 0)
    sums[...] = d.sum(axis=1, dtype=np.float64)
    products[...] = np.sum(d * apart, axis=1, dtype=np.float64) * inverse[:, None]


@image_norm_sums.loop
def image_norm_sums(sums, products, dy, x, mean, inverse, gamma, beta, least):
    for b in range(x.shape[0]):
        for j in range(x.shape[2]):
            factor = gamma[j] * inverse[j]
            for i in range(x.shape[3]):
                total, with_x = 0.0, 0.0
                for p in range(x.shape[1]):
                    apart = x[b, p, j, i] - mean[j]
                    if apart * factor + beta[j] > least:
                        total += dy[b, p, j, i]
                        with_x += dy[b, p, j, i] * apart
                sums[b, j, i] = total
                products[b, j, i] = with_x * inverse[j]


@kernel
def image_norm_total(total: Out("n"), sums: In("blocks", "n", "images")):
    """total <- the sum over all images of sums over their pixels."""
    total[...] = np.sum(sums, axis=(0, 2), dtype=np.float64)


@image_norm_total.loop
def image_norm_total(total, sums):
    for j in range(total.size):
        whole = 0.0
        for b in range(sums.shape[0]):
            for i in range(sums.shape[2]):
                whole += sums[b, j, i]
        total[j] = whole


@kernel
def image_norm_backward(
    dx: Out("blocks", "pixels", "n", "images"),
    dy: In("blocks", "pixels", "n", "images"),
    x: In("blocks", "pixels", "n", "images"),
    mean: In("n"),
    inverse: In("n"),
    gamma: In("n"),
    beta: In("n"),
    total: In("n"),
    product: In("n"),
    row: In("rows", dtype="int64", domain="count"),
    least: float,
):
    """dx <- gamma inverse (d - (total + (x - mean) inverse product) / values), d as in `image_norm_sums`; 0 for images
    beyond the last. With the sums of d and of d (x - mean) inverse over all values of a channel this is the gradient
    for statistics of the minibatch; with zeros, for constant statistics."""
    apart, y = _normalized(x, mean, inverse, gamma, beta)
    number = len(row) * x.shape[1]
    off, slope = (total / number)[:, None], (inverse * (product / number))[:, None]
    np.multiply(np.where(y > least, dy, 0) - off - apart * slope, (gamma * inverse)[:, None], out=dx)
    missing = np.arange(len(dx) * IMAGES).reshape(-1, 1, 1, IMAGES) >= len(row)
    dx[np.broadcast_to(missing, dx.shape)] = 0


@image_norm_backward.loop
def image_norm_backward(dx, dy, x, mean, inverse, gamma, beta, total, product, row, least, begin, end):
    number = row.size * x.shape[1]
    for b in range(begin, end):
        for p in range(dx.shape[1]):
            for j in range(dx.shape[2]):
                factor = gamma[j] * inverse[j]
                off, slope = total[j] / number, inverse[j] * (product[j] / number)
                for i in range(dx.shape[3]):
                    apart = x[b, p, j, i] - mean[j]
                    d = dy[b, p, j, i] if apart * factor + beta[j] > least else 0
                    dx[b, p, j, i] = factor * (d - off - apart * slope) if b * IMAGES + i < row.size else 0
