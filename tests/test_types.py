"""The types of the public face: all of it is annotated, and mypy accepts programs that use it well, and no others."""

import importlib
import inspect
import subprocess
import sys
import textwrap

import pytest

import fastgd

SCRIPT = """
import numpy as np
import numpy.typing as npt

import fastgd
import fastgd.sklearn


@fastgd.custom.optimizer(state=["m"])
def lion(p: float, g: float, m: float, lr: float, beta1: float = 0.9, beta2: float = 0.99) -> tuple[float, float]:
    return p - lr * np.sign(beta1 * m + (1 - beta1) * g), beta2 * m + (1 - beta2) * g


@fastgd.custom.activation(derivative=lambda x, slope: 1.0 if x > 0 else slope)
def leaky(x: float, slope: float = 0.1) -> float:
    return x if x > 0 else slope * x


def share_right(y: npt.NDArray[np.int64], prediction: npt.NDArray[np.float32]) -> float:
    return float((prediction.argmax(1) == y).mean())


class Stop:
    def __call__(self, run: fastgd.Run) -> bool:
        return run.loss < 1e-3 or run.history.loss[-1] > 100


rng = np.random.default_rng(0)
X, labels = rng.normal(size=(60, 8)), rng.integers(0, 3, 60)
block = fastgd.Residual([fastgd.Dense(16, leaky(slope=0.2)), fastgd.LayerNorm()])
net = fastgd.Network((8,), [fastgd.Dense(16), block, fastgd.Dense(3)], loss="softmax_cross_entropy", l2=1e-4)
schedule = fastgd.schedules.warmup(fastgd.schedules.cosine(1e-2, 100), 10)
rates: list[float] = [schedule(step) for step in range(3)]
adam = fastgd.AdamW(schedule, weight_decay=0.01, clip_norm=1.0, learning_rate_factors={"w1": 0.5})
history: fastgd.History = net.fit(
    X, labels, optimizer=adam, epochs=2, validation_data=(X, labels), metrics=["accuracy", share_right],
    callbacks=[Stop(), fastgd.callbacks.every(2, lambda run: print(run.step, run.network.n_parameters))],
)
best: float = min(history.validation_loss)
net.fit(((X[i : i + 20], labels[i : i + 20]) for i in (0, 20, 40)), optimizer=lion(1e-4, beta2=0.98), epochs=1)
for x, y in fastgd.minibatches(X, labels, 20, seed=1):
    loss: float = net.train_step(x, y, adam)
value, gradient = net.loss_and_gradient(X, labels)
fastgd.SGD(adam.schedule).step([net.parameters], [gradient])
figures: dict[str, float] = net.evaluate(X, labels, metrics="accuracy")
net.save("net.safetensors", optimizer=adam)
network, optimizer = fastgd.load("net.safetensors")
classes = network.predict(X).argmax(axis=1) + len(network.layers)
classifier = fastgd.sklearn.MLPClassifier((16,), max_iter=3).fit(X, labels)
score = classifier.predict_proba(X)[0, 0] + value
found = fastgd.sweep(net, X, labels, {"learning_rate": [1e-3, 1e-2]}, epochs=1)
print(best, loss, figures["loss"], score, classes.shape, rates, found.best(), fastgd.find_learning_rate(net, X, labels))
"""
# Each line is wrong, for the reason that mypy gives in brackets.
MISTAKES = {
    'fastgd.Network(8, fastgd.Dense(3), loss="mse")': "arg-type",
    "fastgd.Network(8, [fastgd.Dense(3)])": "call-arg",
    "fastgd.Dense(units='3')": "arg-type",
    "fastgd.Adam(1e-3, clip_nrom=1.0)": "call-arg",
    "fastgd.Adam(1e-3, accumulate='2')": "arg-type",
    "fastgd.schedules.cosine(0.1, '100')": "arg-type",
    "fastgd.schedules.constant(0.1)(3) + 'a'": "operator",
    "net.predict(X).argmx()": "attr-defined",
    "net.fit(X, X, callbacks=[3])": "list-item",
    "net.loss(X) + 1": "call-arg",
    "net.forget()": "attr-defined",
    "fastgd.nothing": "attr-defined",
}


def mypy(folder, *arguments):
    """Runs mypy on a script in a folder; the package is imported as a user does."""
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", folder / "cache", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.mark.slow
def test_mypy_accepts_a_program_that_runs(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    checked = mypy(tmp_path, "script.py")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    subprocess.run([sys.executable, "script.py"], cwd=tmp_path, check=True, capture_output=True)
    lines = ["import numpy as np", "import fastgd", "X = np.zeros((4, 8))"]
    lines.append('net = fastgd.Network(8, [fastgd.Dense(3)], loss="mse")')
    (tmp_path / "mistakes.py").write_text("\n".join([*lines, *MISTAKES]))
    found = mypy(tmp_path, "mistakes.py").stdout.splitlines()
    errors = {int(line.split(":")[1]): line for line in found if ": error: " in line}
    for number, (line, code) in enumerate(MISTAKES.items(), len(lines) + 1):
        assert f"[{code}]" in errors.pop(number, ""), (line, found)
    assert not errors


@pytest.mark.slow
def test_stubs_of_the_compiled_modules_are_true(tmp_path):
    (tmp_path / "allowed").write_text(
        textwrap.dedent(r"""
            .*\.__(reduce|setstate)_cython__
            .*\.__test__
            fastgd\._plan\.InputSlots\.__init__
        """)
    )
    options = ["--ignore-disjoint-bases", "--allowlist", "allowed", "--ignore-unused-allowlist"]
    command = [sys.executable, "-m", "mypy.stubtest", *options, "fastgd._plan", "fastgd._cpu"]
    checked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def public():
    """Yields (path, object) of all functions and classes of the package that are for users."""
    modules = [fastgd, importlib.import_module("fastgd.sklearn"), importlib.import_module("fastgd.onnx")]
    modules += [made for name in fastgd.__all__ if inspect.ismodule(made := getattr(fastgd, name))]
    for module in modules:
        for name, made in vars(module).items():
            home = getattr(made, "__module__", None) or ""
            is_public = name in module.__all__ if hasattr(module, "__all__") else home == module.__name__
            if is_public and not name.startswith("_") and home.startswith("fastgd."):
                yield f"{module.__name__}.{name}", made


def untyped(path, function):
    """Yields what lacks a type in the signature of a function."""
    signature = inspect.signature(function)
    for parameter in signature.parameters.values():
        if parameter.annotation is parameter.empty and parameter.name not in ("self", "cls"):
            yield f"{path}({parameter.name})"
    if signature.return_annotation is signature.empty:
        yield f"{path} -> ?"


def lacking():
    for path, made in public():
        if inspect.isfunction(made):
            yield from untyped(path, made)
        elif inspect.isclass(made):
            for base in made.__mro__:
                if not base.__module__.startswith("fastgd.") or base.__module__ == "fastgd._plan":
                    continue
                for name, member in vars(base).items():
                    member = getattr(member, "__func__", member)
                    member = member.fget if isinstance(member, property) else inspect.unwrap(member)
                    is_public = not name.startswith("_") or name in ("__init__", "__call__", "__enter__")
                    if is_public and inspect.isfunction(member):
                        yield from untyped(f"{base.__module__}.{base.__qualname__}.{name}", member)


def test_every_public_signature_has_types():
    assert len(dict(public())) > 100
    assert not sorted(set(lacking()))
    assert list(untyped("f", lambda x: x)) == ["f(x)", "f -> ?"]
