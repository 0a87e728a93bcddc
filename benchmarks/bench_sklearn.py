"""The estimators of fastgd.sklearn against scikit-learn's: time per epoch of a fit, and scores of the models; and time
of short calls.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/bench_sklearn.py      the tables, one thread
    python benchmarks/bench_sklearn.py                                     the tables, all threads
    python benchmarks/bench_sklearn.py --calls                             the table of short calls alone
    pytest benchmarks/bench_sklearn.py                                     the same fits under pytest-benchmark

Default arguments: 100 relu units, Adam, batches of 200 rows. Digits (1,347 x 64), breast cancer (426 x 30), and a
random regression of the size of the Californian houses (15,480 x 8); a quarter of the rows is held out. Both fit in
turn, with the same seeds; a ratio is the median over the turns. Scores (accuracy, R^2) on the held-out rows are means
and standard deviations over the seeds.

Short calls: a 64-64-10 network, classifier or regressor, predicts a row, or takes 32 rows in partial_fit. Both call in
turn; times are medians over the turns, the ratio is that of the medians."""

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


def short_calls(package, dtype):
    """Functions that make a short call, by name."""
    rng = np.random.default_rng(0)
    X, labels = rng.normal(size=(32, 64)).astype(dtype), rng.integers(0, 10, 32)
    row, targets, module = X[:1].copy(), rng.normal(size=(32, 10)), PACKAGES[package]
    options = {"hidden_layer_sizes": (64, 64), "random_state": 0}
    fitted, trained = (module.MLPClassifier(**options).partial_fit(X, labels, classes=range(10)) for _ in range(2))
    regressor, learner = (module.MLPRegressor(**options).partial_fit(X, targets) for _ in range(2))
    return {
        "predict, 1 row": lambda: fitted.predict(row),
        "predict_proba, 1 row": lambda: fitted.predict_proba(row),
        "partial_fit, 32 rows": lambda: trained.partial_fit(X, labels),
        "regressor: predict, 1 row": lambda: regressor.predict(row),
        "regressor: partial_fit, 32 rows": lambda: learner.partial_fit(X, targets),
    }


def time_short_calls(repeats):
    print(f"{'us a call':<42}{'scikit-learn':>14}{'fastgd':>10}{'ratio':>8}")
    for dtype in ("float64", "float32"):
        calls = [short_calls(package, dtype) for package in PACKAGES]
        for name in calls[0]:
            times = np.zeros((repeats, 2))
            for taken in times:
                for i, functions in enumerate(calls):
                    start = time.perf_counter()
                    functions[name]()
                    taken[i] = (time.perf_counter() - start) * 1e6
            theirs, ours = np.median(times, axis=0)
            print(f"{name + ', ' + dtype:<42}{theirs:>14.1f}{ours:>10.1f}{theirs / ours:>8.1f}", flush=True)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--repeats", type=int, default=500, help="of a short call")
    options.add_argument("--calls", action="store_true", help="only the short calls")
    arguments = options.parse_args()
    time_short_calls(arguments.repeats)
    if arguments.calls:
        return
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
