"""Updates of other libraries' arrays: torch notices them, and memory that must not change is refused."""

import subprocess
import sys

import numpy as np
import pytest

import fastgd
from fastgd import SGD, Adam


def test_autograd_knows_of_updates():
    """As after torch.optim, backward raises if the graph saved a parameter before an update."""
    torch = pytest.importorskip("torch")
    w = torch.nn.Parameter(torch.ones(3))
    flat = torch.ones(6)
    views = [flat[:3].requires_grad_(), torch.tensor(2.0, requires_grad=True)]
    for backend in ("cython", "numpy"):
        for params in ([w], views):
            optimizer = SGD(0.1)
            for _ in range(3):
                loss = sum((p * p * p).sum() for p in params)
                gradients = torch.autograd.grad(loss, params, retain_graph=True)
                versions, of_gradients = [p._version for p in params], [g._version for g in gradients]
                optimizer.step(params, gradients, backend=backend)
                assert all(p._version > version for p, version in zip(params, versions, strict=True))
                assert [g._version for g in gradients] == of_gradients
                with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                    torch.autograd.grad(loss, params)
    assert flat._version > 0
    loss = (w * w).sum()
    with pytest.raises(ValueError, match=r"'grads\[0\]'"):  # neither values nor versions change
        optimizer.step([w], [torch.ones(4)])
    torch.autograd.grad(loss, w)


def test_tensors_without_versions():
    torch = pytest.importorskip("torch")
    with torch.inference_mode():
        p, optimizer = torch.ones(3), SGD(0.5)
        optimizer.step(p, torch.ones(3))
    optimizer.step(p, torch.ones(3))
    assert p.tolist() == [0.0] * 3
    q = torch.ones(3, requires_grad=True)
    with torch.no_grad():
        SGD(0.5).step(q, torch.ones(3))
    assert q._version == 1


def test_steps_of_tensors_are_those_of_arrays():
    torch = pytest.importorskip("torch")
    p, q, optimizers = torch.ones(5, dtype=torch.float32), np.ones(5, np.float32), [Adam(), Adam()]
    for i in range(4):
        g = np.linspace(-1, i, 5, dtype=np.float32)
        optimizers[0].step(p, torch.from_numpy(g))
        optimizers[1].step(q, g)
    np.testing.assert_array_equal(p.numpy(), q)


def test_torch_is_not_imported():
    code = (
        "import sys, numpy as np, fastgd; p = np.ones(3); fastgd.SGD(0.5).step(p, p.copy());"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def refused(p, error=(TypeError, ValueError)):
    before = np.array(p, copy=True)
    with pytest.raises(error, match="'params'"):
        SGD(0.5).step(p, np.ones(before.shape, before.dtype))
    with pytest.raises(error, match=r"'params\[0\]'"):
        SGD(0.5).step([p], [np.ones(before.shape, before.dtype)])
    np.testing.assert_array_equal(np.array(p), before)


def test_jax_arrays_are_immutable():
    jax = pytest.importorskip("jax")
    refused(jax.numpy.ones(3))
    refused(jax.numpy.ones(3, np.float32) * 2)
    p = np.ones(3, np.float32)
    SGD(0.5).step(p, jax.numpy.ones(3, np.float32))  # gradients are only read
    np.testing.assert_array_equal(p, np.full(3, 0.5))


def test_libraries_of_immutable_arrays_hand_out_writable_ones():
    class Array:
        def __init__(self, held):
            self.held = held

        def __array__(self, dtype=None, copy=None):
            return self.held

        def __dlpack__(self, **options):
            return self.held.__dlpack__(**options)

        def __dlpack_device__(self):
            return self.held.__dlpack_device__()

    refused_kinds = [type("Array", (Array,), {"__module__": name}) for name in ("jaxlib._jax", "tensorflow.python")]
    for kind in refused_kinds:
        refused(kind(np.ones(3, np.float32)), ValueError)
    held = np.ones(3, np.float32)
    SGD(0.5).step(Array(held), np.ones(3, np.float32))
    np.testing.assert_array_equal(held, np.full(3, 0.5))


def test_read_only_arrays_and_buffers():
    held = np.ones((2, 3))
    view = held[:]
    view.flags.writeable = False
    whole = np.ones(6)
    for p in (
        view, np.broadcast_to(1.0, 3), np.frombuffer(whole.tobytes()), memoryview(whole).toreadonly(),
        memoryview(whole.tobytes()).cast("d"), np.lib.stride_tricks.as_strided(whole, (3,), (8,), writeable=False),
    ):  # fmt: skip
        refused(p, ValueError)
    refused(view.T, ValueError)
    np.testing.assert_array_equal(held, 1.0)


def test_columns_of_tables_are_refused():
    pandas, pyarrow = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    refused(pandas.Series([1.0, 2.0]))
    refused(pandas.DataFrame({"a": [1.0, 2.0]}))
    refused(pandas.Series([1.0, 2.0]).to_numpy())
    refused(pyarrow.array([1.0, 2.0]))
    refused(pyarrow.array([1.0, 2.0]).to_numpy())
    refused(pyarrow.chunked_array([[1.0, 2.0]]))


def test_an_array_that_becomes_read_only_between_two_steps():
    p, g, optimizer = np.ones(3), np.ones(3), fastgd.SGD(0.5)
    for _ in range(3):
        optimizer.step(p, g)
    p.flags.writeable = False
    with pytest.raises(ValueError, match="'params': expected a writable array"):
        optimizer.step(p, g)
    np.testing.assert_array_equal(p, -0.5)
