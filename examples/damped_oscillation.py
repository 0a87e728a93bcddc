"""A curve with error bars from noisy measurements: python examples/damped_oscillation.py [PICTURE]

A pendulum in air swings as y(t) = A exp(-g t) cos(w t), and is measured with normal noise that grows with time. The
network knows neither the formula nor the noise. It maps t to the mean and the logarithm of the variance of a normal
distribution; the loss `gaussian_nll` is the negative log-likelihood (Nix & Weigend 1994, doi:10.1109/ICNN.1994.374138).

Since the answer is known here, the script compares: the curve with the true one, the error bars with the true noise,
and how many new measurements lie within one and two of them, for which normal noise has 68.3 % and 95.4 %. PICTURE is a
file that gets the measurements, the curve and its band of two sigma (extra `plots`)."""

import math
import sys

import numpy as np

from fastgd import Adam, Dense, Network, Standardize, initializers, schedules

AMPLITUDE, DAMPING, FREQUENCY, END = 1.0, 0.25, 3.0, 8.0  # t in [0, END]; about four swings
ROWS, BATCH, EPOCHS = 2000, 50, 300


def truth(t):
    """The curve, and the standard deviation of the noise."""
    return AMPLITUDE * np.exp(-DAMPING * t) * np.cos(FREQUENCY * t), 0.03 + 0.015 * t


def measured(rows, rng):
    """Times (rows, 1) and measurements (rows, 1)."""
    t = rng.uniform(0, END, (rows, 1))
    mean, sigma = truth(t)
    return t, mean + sigma * rng.normal(size=t.shape)


def fitted(t, y, epochs=EPOCHS):
    """A network with two outputs for t: mean and log variance."""
    # Wide first weights: kinks of tanh all over the interval, close enough together for the swings.
    wide = initializers.normal(std=4)
    layers = [Standardize.of(t), Dense(64, "tanh", weight_init=wide, bias_init=wide), Dense(64, "tanh"), Dense(2)]
    net = Network(1, layers, loss="gaussian_nll")
    falling = schedules.cosine(5e-3, total_steps=epochs * len(t) // BATCH)
    net.fit(t, y, optimizer=Adam(falling), batch_size=BATCH, epochs=epochs)
    return net


def curve(net, t):
    """Mean and sigma at the times (rows, 1), (rows, 1) each."""
    mean, log_variance = np.split(net.predict(t), 2, axis=1)
    return mean, np.exp(log_variance / 2)


def plot(path, net, t, y):
    from matplotlib.figure import Figure

    axis = Figure(figsize=(8, 4), layout="constrained").subplots()
    grid = np.linspace(0, END, 500)[:, np.newaxis]
    (mean, sigma), (true, _) = curve(net, grid), truth(grid)
    axis.plot(t, y, ".", color="0.7", markersize=3, label="measurements")
    lower, upper = ((mean + k * sigma)[:, 0] for k in (-2, 2))
    axis.fill_between(grid[:, 0], lower, upper, alpha=0.3, label="two sigma")
    axis.plot(grid, mean, label="fit")
    axis.plot(grid, true, "k--", linewidth=1, label="truth")
    axis.set(xlabel="t", ylabel="y")
    axis.legend()
    axis.figure.savefig(path)


def main(picture=None, epochs=EPOCHS):
    rng = np.random.default_rng(0)
    t, y = measured(ROWS, rng)
    net = fitted(t, y, epochs)
    grid = np.linspace(0, END, 801)[:, np.newaxis]
    (mean, sigma), (true, noise) = curve(net, grid), truth(grid)
    error = math.sqrt(np.mean((mean - true) ** 2))
    print(f"curve: rms error {error:.4f}, where the noise has {math.sqrt(np.mean(noise**2)):.4f}")
    for k, part in enumerate(np.split(np.arange(800), 4)):
        found, known = sigma[part].mean(), noise[part].mean()
        print(f"  t from {2 * k} to {2 * k + 2}: sigma {found:.3f}, true {known:.3f}")
    new_t, new_y = measured(10_000, rng)
    mean, sigma = curve(net, new_t)
    one, two = (np.mean(np.abs(new_y - mean) < k * sigma) for k in (1, 2))
    print(f"new measurements within one sigma {one:.1%} (68.3 %), within two {two:.1%} (95.4 %)")
    if picture:
        plot(picture, net, t, y)
    return error, one, two


if __name__ == "__main__":
    main(*sys.argv[1:2])
