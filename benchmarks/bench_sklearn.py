"""The estimators of fastgd.sklearn against scikit-learn's: time per epoch of a fit, and scores of the models.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/bench_sklearn.py      the table, one thread
    python benchmarks/bench_sklearn.py                                     the table, all threads
    pytest benchmarks/bench_sklearn.py                                     the same fits under pytest-benchmark

Default arguments: 100 relu units, Adam, batches of 200 rows. Digits (1,347 x 64), breast cancer (426 x 30), and a
random regression of the size of the Californian houses (15,480 x 8); a quarter of the rows is held out. Both fit in
turn, with the same seeds; a ratio is the median over the turns. Scores (accuracy, R^2) on the held-out rows are means
and standard deviations over the seeds."""

import argparse
import time
import warnings

import numpy as np
import pytest
import sklearn.neural_network
from sklearn.datasets import load_breast_cancer, load_digits, make_regression
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

import fastgd.sklearn

PACKAGES = {"scikit-learn": sklearn.neural_network, "fastgd": fastgd.sklearn}


def regression():
    X, y = make_regression(20640, 8, noise=10.0, random_state=0)
    return X, y / y.std()


# Name of the estimator, data, epochs of a timed fit.
TASKS = {
    "digits": ("MLPClassifier", lambda: load_digits(return_X_y=True), 200),
    "breast cancer": ("MLPClassifier", lambda: load_breast_cancer(return_X_y=True), 200),
    "regression": ("MLPRegressor", regression, 40),
}


def data(task, dtype):
    """Standardised rows and their targets: those to train on, then those held out."""
    X, y = TASKS[task][1]()
    X, held_out, y, answers = train_test_split(X, y, random_state=0)
    scaler = StandardScaler().fit(X)
    return scaler.transform(X).astype(dtype), y, scaler.transform(held_out).astype(dtype), answers


def fitted(package, task, X, y, seed):
    """The fitted estimator, and milliseconds per epoch."""
    name, _, epochs = TASKS[task]
    estimator = getattr(PACKAGES[package], name)(max_iter=epochs, n_iter_no_change=epochs, random_state=seed)
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        estimator.fit(X, y)
    return estimator, (time.perf_counter() - start) / epochs * 1e3


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("task", TASKS)
def bench_fit(benchmark, task, package):
    X, y, _, _ = data(task, "float64")
    benchmark(fitted, package, task, X, y, 0)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=9)
    arguments = options.parse_args()
    print(
        f"{'ms an epoch':<24}{'scikit-learn':>14}{'fastgd':>10}{'ratio':>8}{'score of scikit-learn':>24}{'fastgd':>18}"
    )
    for task in TASKS:
        for dtype in ("float64", "float32"):
            X, y, held_out, answers = data(task, dtype)
            times, scores = ({package: [] for package in PACKAGES} for _ in range(2))
            for seed in range(arguments.rounds):
                for package in PACKAGES:
                    estimator, taken = fitted(package, task, X, y, seed)
                    times[package].append(taken)
                    scores[package].append(estimator.score(held_out, answers))
            theirs, ours = (np.array(taken) for taken in times.values())
            texts = [f"{np.mean(found):.4f} +- {np.std(found):.4f}" for found in scores.values()]
            figures = f"{np.median(theirs):>14.3f}{np.median(ours):>10.3f}{np.median(theirs / ours):>8.1f}"
            print(f"{task + ', ' + dtype:<24}{figures}{texts[0]:>24}{texts[1]:>18}", flush=True)


if __name__ == "__main__":
    main()
