"""L-BFGS: microseconds of an evaluation in `fit`, beside scipy's L-BFGS-B on the same loss and gradient, and the loss
that each reaches with as many evaluations. One pinned core.

    python benchmarks/bench_lbfgs.py                # needs scipy

"gradient" is `loss_and_gradient` alone, the arithmetic that both need; "beside it" is fit / gradient. Rounds have other
seeds and are interleaved, figures are medians.
"""

import argparse
import statistics
import time

import numpy as np
from processes import pin
from scipy.optimize import minimize

import fastgd

# Name: units of the hidden layers, features, rows.
CELLS = {
    "tiny, 2-8-1, 64 rows": ([8], 2, 64),
    "curve, 1-20-20-1, 200 rows": ([20, 20], 1, 200),
    "small, 10-64-64-1, 1,000 rows": ([64, 64], 10, 1000),
    "medium, 50-256-256-1, 2,000 rows": ([256, 256], 50, 2000),
}


def rows_of(features, rows):
    x = np.random.default_rng(0).uniform(-3, 3, (rows, features))
    return x, np.sin(3 * x[:, :1]) + 0.3 * x[:, :1] * x[:, -1:]


def network_of(name, dtype, seed):
    hidden, features, _ = CELLS[name]
    layers = [*(fastgd.Dense(units, "tanh") for units in hidden), fastgd.Dense(1)]
    return fastgd.Network(features, layers, loss="mse", dtype=dtype, seed=seed, num_threads=1)


def fastgd_run(network, x, y, evaluations):
    """Seconds per evaluation, and the loss at the end."""
    start = time.perf_counter()
    history = network.fit(x, y, optimizer="lbfgs", epochs=evaluations)
    return (time.perf_counter() - start) / len(history.loss), network.loss(x, y)


def scipy_run(network, x, y, evaluations):
    seen = []

    def value(p):
        network.parameters[:] = p
        seen.append(network.loss_and_gradient(x, y)[0])
        return seen[-1], network.gradient.astype(float)

    options = {"maxfun": evaluations, "maxiter": evaluations, "ftol": 0, "gtol": 1e-9}
    start = time.perf_counter()
    result = minimize(value, network.parameters.astype(float), jac=True, method="L-BFGS-B", options=options)
    return (time.perf_counter() - start) / len(seen), result.fun


def gradient_run(network, x, y, evaluations):
    start = time.perf_counter()
    for _ in range(evaluations):
        network.loss_and_gradient(x, y)
    return (time.perf_counter() - start) / evaluations, np.nan


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--evaluations", type=int, default=500)
    options = parser.parse_args()
    pin(1)
    print("us per evaluation                          fit   scipy  gradient  beside it   loss: fit     scipy")
    runs = fastgd_run, scipy_run, gradient_run
    for name in CELLS:
        for dtype in ("float32", "float64"):
            x, y = (a.astype(dtype) for a in rows_of(*CELLS[name][1:]))
            found = [[run(network_of(name, dtype, seed), x, y, options.evaluations) for run in runs]
                     for seed in range(options.rounds)]  # fmt: skip
            times, losses = np.moveaxis(np.array(found), 2, 0)
            fit, scipy, gradient = np.median(times, axis=0) * 1e6
            ratio = statistics.median(times[:, 0] / times[:, 2])
            (ours, theirs, _) = np.median(losses, axis=0)
            print(
                f"{name:<33}{dtype:<8}{fit:>6.0f}{scipy:>8.0f}{gradient:>9.0f}{ratio:>11.2f}{ours:>13.2g}{theirs:>10.2g}"
            )


if __name__ == "__main__":
    main()
