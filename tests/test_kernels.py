"""Every compiled body of every kernel against the numpy body: values, side effects, checks of arguments."""

import inspect
import itertools
import pickle
from fractions import Fraction

import numpy as np
import pytest
from cases import KERNELS, awkward_sizes

import fastgd
from fastgd._plan import call_kernel
from fastgd.cli.self_check import TOLERANCES, body_error, example
from fastgd.core.kernel import DTYPES, In, InOut, Kernel, Out

COMPILED_BODIES = list(itertools.product(KERNELS, ("numba", "cython"), DTYPES))


def copied(arguments):
    return [a.copy() if isinstance(a, np.ndarray) else a for a in arguments]


@pytest.mark.parametrize(("name", "body", "dtype"), COMPILED_BODIES)
def test_body_matches_reference(name, body, dtype, rng):
    kernel = KERNELS[name]
    for sizes in awkward_sizes(kernel):
        error = body_error(kernel, body, sizes, dtype, rng)
        assert error <= TOLERANCES[dtype], f"{name}, {body}, {sizes}: {error:.2e}"


@pytest.mark.parametrize(
    "sizes", [(9, 532, 585), (131, 784, 512), (300, 70, 530), (37, 100, 1), (300, 16, 1), (7, 999, 1)]
)
@pytest.mark.parametrize("name", ["dense_forward", "dense_backward_input", "dense_backward_weights"])
def test_large_products(name, sizes, dtype, rng):
    """Every operand in turn is packed, with rows and columns left over."""
    sizes = dict(zip(("rows", "n_in", "n_out"), sizes, strict=True))
    assert body_error(KERNELS[name], "cython", sizes, dtype, rng) <= TOLERANCES[dtype]


@pytest.mark.parametrize("name", KERNELS)
def test_reference_keeps_the_precision(name, rng):
    """The numpy body in float32 is the float64 one rounded: no scalar lifts or lowers the precision."""
    kernel = KERNELS[name]
    assert body_error(kernel, "numpy", {d: 1 if d == "one" else 9 for d in kernel.dims}, "float32", rng) <= 3e-6


@pytest.mark.parametrize("name", KERNELS)
def test_kernel_has_every_body_and_a_formula(name):
    kernel = KERNELS[name]
    assert kernel.bodies() == ("numpy", "numba", "cython")
    assert kernel.reference.__doc__
    for word in (*kernel.arrays, *kernel.scalars, "Raises TypeError or ValueError"):
        assert word in kernel.__doc__
    assert list(inspect.signature(kernel.reference).parameters) == [*kernel.arrays, *kernel.scalars]


@pytest.mark.parametrize("body", ["numpy", "numba", "cython"])
@pytest.mark.parametrize("name", KERNELS)
def test_outputs_do_not_depend_on_what_they_held(name, body, rng):
    kernel = KERNELS[name]
    first = example(kernel, {d: 1 if d == "one" else 9 for d in kernel.dims}, "float32", rng)
    second = copied(first)
    for spec, a in zip(kernel.arrays.values(), second, strict=False):
        if spec.direction == "out":
            a[...] = np.nan if a.dtype.kind == "f" else 77
    kernel.body(body)(*first)
    kernel.body(body)(*second)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("name", "body", "dtype"), COMPILED_BODIES)
def test_shares_of_the_work_add_up(name, body, dtype, rng):
    """Three shares give the bits of one call, and a share writes nothing outside itself."""
    kernel = KERNELS[name]
    grain = kernel.grain
    sizes = {d: 1 if d == "one" else 22 * grain + 1 for d in kernel.dims}
    cuts = [0, 1, 1, 1] if kernel.range_dim == "one" else [0, 5 * grain, 6 * grain, 22 * grain + 1]
    check_shares(kernel, body, sizes, cuts, dtype, rng)


@pytest.mark.parametrize("name", ["dense_forward", "dense_backward_input", "dense_backward_weights"])
def test_shares_of_a_layer_of_one_unit(name, dtype, rng):
    sizes = {"rows": 37, "n_in": 37, "n_out": 1}
    check_shares(KERNELS[name], "cython", sizes, [0, 5, 6, 7, 31, 37], dtype, rng)


@pytest.mark.parametrize(("rows", "n_in", "n_out"), [(801, 530, 100), (130, 2100, 256), (40, 3400, 9)])
def test_shares_of_gradients_of_many_rows_of_weights_with_few_columns(rows, n_in, n_out, dtype, rng):
    """These are computed as their transposes, small shares of them are not."""
    sizes = {"rows": rows, "n_in": n_in, "n_out": n_out}
    check_shares(KERNELS["dense_backward_weights"], "cython", sizes, [0, 8, 40, 300, n_in], dtype, rng)


def check_shares(kernel, body, sizes, cuts, dtype, rng):
    whole = example(kernel, sizes, dtype, rng)
    shared = copied(whole)
    kernel.body(body)(*whole)
    record = kernel.record(shared, kernel.check(shared)[1])
    address = kernel.address(body, np.dtype(dtype))
    for begin, end in sorted(itertools.pairwise(cuts), reverse=True):
        if begin < end:
            call_kernel(address, record.ctypes.data, begin, end)
    for a, b in zip(whole, shared, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("zeros", [0.1, 0.5, 1.0])
def test_rows_of_zeros_are_left_out_exactly(zeros, dtype, rng):
    """With a batch of one, forward and the update of plain SGD skip inputs that are 0."""
    n_in, n_out = 700, 70
    w, b = rng.normal(size=(n_in, n_out)).astype(dtype), rng.normal(size=n_out).astype(dtype)
    x, dy = rng.normal(size=(1, n_in)).astype(dtype), rng.normal(size=(1, n_out)).astype(dtype)
    x[rng.random(x.shape) < zeros] = 0
    tolerance = TOLERANCES[dtype] * 30
    y = np.empty((1, n_out), dtype)
    fastgd.kernels.dense_forward(y, x, w, b)
    np.testing.assert_allclose(y, x.astype("f8") @ w.astype("f8") + b, rtol=0, atol=tolerance)
    expected = w - 0.1 * (x.astype("f8").T @ dy.astype("f8"))
    fastgd.kernels.sgd_rank_one_update(b, w, x, dy, 0.1)
    np.testing.assert_allclose(w, expected, rtol=0, atol=tolerance)


def mutant_factor(p, g, lr, weight_decay, shrink):
    p -= shrink * p + lr * (g + weight_decay * p) * (1 + 1e-6)


def mutant_term(p, g, lr, weight_decay, shrink):
    p -= shrink * p + lr * g


def mutant_last(p, g, lr, weight_decay, shrink):
    p[:-1] -= shrink * p[:-1] + lr * (g[:-1] + weight_decay * p[:-1])


def mutant_writes_input(p, g, lr, weight_decay, shrink):
    p -= shrink * p + lr * (g + weight_decay * p)
    g[0] = 0


@pytest.mark.parametrize("mutant", [mutant_factor, mutant_term, mutant_last, mutant_writes_input])
def test_comparison_catches_mutants(mutant, rng):
    kernel = KERNELS["sgd_step"]
    wrong = Kernel(kernel.reference)
    wrong.body = lambda name: mutant
    assert body_error(kernel, "cython", {"n": 1000}, "float64", rng) <= TOLERANCES["float64"]
    assert body_error(wrong, "cython", {"n": 1000}, "float64", rng) > TOLERANCES["float64"]


@pytest.mark.parametrize("body", ["numpy", "numba", "cython"])
def test_relu_lets_nan_through(body):
    x = np.array([[np.nan, -1.0, 2.0]], np.float32)
    y = np.zeros_like(x)
    KERNELS["relu_forward"].body(body)(y, x)
    np.testing.assert_array_equal(y, [[np.nan, 0.0, 2.0]])


@pytest.mark.parametrize("body", ["numpy", "numba", "cython"])
@pytest.mark.parametrize("label", [-1, 3, 2**40])
def test_label_out_of_range_gives_nan_and_touches_nothing_else(label, body):
    z, weight = np.zeros((2, 3), np.float32), np.ones(2, np.float32)
    loss, dz = np.zeros(2, np.float32), np.zeros((2, 3), np.float32)
    KERNELS["softmax_cross_entropy_labels_loss"].body(body)(loss, dz, z, np.array([label, 1]), weight, 0.0)
    assert np.isnan(loss[0])
    assert loss[1] == pytest.approx(np.log(3))


STRANGE = {
    "softmax_cross_entropy_loss": [(-1e-3, 1.0, 1e-3), (0.5, 0.5, 0.01), (0.0, 0.0, 0.0), (np.nan, 0.5, 0.5)],
    "binary_cross_entropy_loss": [(-1e-3, 0.5, 1.0), (0.5, 0.5, 1.001), (np.nan, 0.5, 0.5)],
    "poisson_loss": [(-1e-3, 0.5, 7.0), (np.nan, 0.5, 0.5)],
}


@pytest.mark.parametrize("body", ["numpy", "numba", "cython"])
@pytest.mark.parametrize("name", STRANGE)
def test_targets_out_of_their_range_give_nan(name, body, dtype):
    rows = [(0.0, 1.0, 0.0), *STRANGE[name], (0.25, 0.25, 0.5)]
    y, weight = np.array(rows, dtype), np.ones(len(rows), dtype)
    loss, dz, z = np.zeros(len(rows), dtype), np.zeros_like(y), np.zeros_like(y)
    KERNELS[name].body(body)(loss, dz, z, y, weight, *[0.0] * len(KERNELS[name].scalars))
    assert np.isnan(loss).tolist() == [False] + [True] * len(STRANGE[name]) + [False]


@pytest.mark.parametrize("body", ["numpy", "numba", "cython"])
@pytest.mark.parametrize("name", ["softmax_cross_entropy_labels_loss", "softmax_cross_entropy_loss"])
def test_logits_whose_differences_overflow(name, body, dtype):
    z = np.array([[1.0, -1.0, -1.0]], dtype) * np.finfo(dtype).max / 2
    loss, dz, weight = np.zeros(1, dtype), np.zeros_like(z), np.ones(1, dtype)
    y = np.array([0]) if "labels" in name else np.array([[1.0, 0.0, 0.0]], dtype)
    KERNELS[name].body(body)(loss, dz, z, y, weight, 0.0)
    assert (loss[0], dz.tolist()) == (0.0, [[0.0, 0.0, 0.0]])


@pytest.mark.parametrize("body", ["numpy", "numba", "cython"])
def test_layer_norm_forward_far_from_zero(body, dtype):
    """The variance is the mean square of the deviations: a difference of squares would lose every digit."""
    x = np.array([[0, 0, 1]], dtype) + np.array({"float32": 1e3, "float64": 1e8}[dtype], dtype)
    y, normal, inverse, one = np.empty_like(x), np.empty_like(x), np.empty(1, dtype), np.ones(3, dtype)
    KERNELS["layer_norm_forward"].body(body)(y, normal, inverse, x, one, one, 0.0)
    np.testing.assert_allclose(inverse, np.sqrt(9 / 2), rtol=1e-6)


@pytest.mark.parametrize("body", ["numba", "cython"])
@pytest.mark.parametrize("name", ["momentum_step_bfloat16", "momentum_step_8bit"])
def test_every_body_rounds_a_state_alike(name, body, rng):
    """Without momentum nothing is rounded beforehand, and all bodies draw the same random numbers."""
    kernel, ends = KERNELS[name], []
    g = rng.normal(size=600).astype(np.float32)
    g[::7] = 0
    for one in ("numpy", body):
        state = [np.zeros(3 if a.per else 600, a.dtype) for a in kernel.arrays.values() if a.dtype]
        scalars = {"lr": 0.5, "momentum": 0.0, "weight_decay": 0.0, "shrink": 0.0, "seed": 12345.0}
        kernel.body(one)(np.zeros(600, np.float32), *state, g, *(scalars[name] for name in kernel.scalars))
        ends.append(state)
    for one, other in zip(*ends, strict=True):
        np.testing.assert_array_equal(one, other)
    assert ends[0][0].any()


@pytest.mark.parametrize("body", ["numba", "cython"])
@pytest.mark.parametrize("name", ["momentum_step_8bit", "adagrad_step_8bit"])
def test_every_body_updates_codes_alike(name, body, rng):
    """Signed and unsigned slots, every code, incomplete vectors and blocks. With momentum 1 and eighths as gradients, a
    slot is one rounded sum."""
    kernel = KERNELS[name]
    options = dict.fromkeys(kernel.scalars, 0.0) | {"momentum": 1.0, "lr": 0.5, "eps": 1.0}
    for n in (1, 31, 257, 300, 831):
        blocks = -(-n // 256)
        q = (np.arange(n) % 256).astype(np.uint8)
        base = rng.integers(1016 - 192, 1016 - 64, blocks).astype(np.int32)
        g = rng.integers(-9, 10, n).astype(np.float32) / 8
        if n > 300:
            g[[300, 301]] = np.inf, np.nan  # spoil the second block
        ends = []
        for one in ("numpy", body):
            p, state = np.zeros(n, np.float32), [q.copy(), base.copy()]
            for seed in range(3):
                scalars = options | {"seed": float(seed)}
                kernel.body(one)(p, *state, g, *(scalars[name] for name in kernel.scalars))
            ends.append(state)
        for one, other in zip(*ends, strict=True):
            np.testing.assert_array_equal(one, other)
        assert (ends[0][0] != q).any()


def test_elements_beyond_the_last_do_not_enter_the_base():
    """In AdaDelta with eps = 0 they would be 0 / 0."""
    kernel, g = KERNELS["adadelta_step_8bit"], np.ones(31, np.float32)
    s, s_base, u, u_base = np.zeros(31, np.uint8), np.zeros(1, np.int32), np.zeros(31, np.uint8), np.zeros(1, np.int32)
    options = dict.fromkeys(kernel.scalars, 0.0) | {"lr": 1.0, "rho": 0.5}
    kernel.body("cython")(
        np.zeros(31, np.float32), s, s_base, u, u_base, g, *(options[name] for name in kernel.scalars)
    )
    assert (s_base[0], u_base[0]) == ((126 << 3) + 1 - 255, 0)


@pytest.mark.parametrize("body", ["numpy", "numba", "cython"])
def test_extreme_logits_are_finite(body, dtype):
    z = np.array([[1e4, -1e4, 0.0]], dtype)
    loss, dz, weight = np.zeros(1, dtype), np.zeros_like(z), np.ones(1, dtype)
    KERNELS["softmax_cross_entropy_labels_loss"].body(body)(loss, dz, z, np.array([1]), weight, 0.0)
    assert loss[0] == pytest.approx(2e4)
    np.testing.assert_allclose(dz, [[1, -1, 0]], atol=1e-6)
    KERNELS["binary_cross_entropy_loss"].body(body)(loss, dz, z, np.zeros_like(z), weight)
    assert np.isfinite(loss).all()
    assert np.isfinite(dz).all()


def arguments(dtype="float32"):
    return [np.zeros(4, dtype), np.ones(4, dtype), 0.1, 0.0, 0.0]


BAD_CALLS = {
    "count": (lambda a: a[:3], TypeError, "got 3 arguments"),
    "not an array": (lambda a: [[0.0], *a[1:]], TypeError, "'p'.*numpy array.*list"),
    "dtype": (lambda a: [a[0], a[1].astype(np.float64), *a[2:]], TypeError, "'g'.*float32.*float64"),
    "integers": (lambda a: [a[0].astype(int), *a[1:]], TypeError, "'p'.*float32 or float64"),
    "shape": (
        lambda a: [a[0], np.ones(5, np.float32), *a[2:]],
        ValueError,
        r"'g'.*shape \(4,\), nothing empty, since 'p' has shape \(4,\), got float32 array of shape \(5,\)",
    ),
    "rank": (lambda a: [a[0], np.ones((4, 1), np.float32), *a[2:]], ValueError, r"'g'.*'p' has shape \(4,\).*\(4, 1\)"),
    "strides": (lambda a: [a[0], np.ones(8, np.float32)[::2], *a[2:]], ValueError, "'g'.*C-contiguous"),
    "byte order": (lambda a: [a[0], a[1].astype(">f4"), *a[2:]], TypeError, "'g'"),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_call_is_refused(case):
    change, error, match = BAD_CALLS[case]
    call = change(arguments())
    with pytest.raises(error, match=match):
        fastgd.kernels.sgd_step(*call)
    np.testing.assert_array_equal(call[0], np.zeros_like(call[0]))


def test_read_only_output_is_refused():
    p, g, *rest = arguments()
    p.flags.writeable = False
    with pytest.raises(ValueError, match="'p'.*writable.*read-only"):
        fastgd.kernels.sgd_step(p, g, *rest)


def test_unknown_body_is_refused():
    with pytest.raises(ValueError, match="'cyton'; did you mean 'cython'"):
        fastgd.kernels.sgd_step.body("cyton")


def test_compiled_modules_have_no_body_without_a_contract():
    for dtype in DTYPES:
        assert set(fastgd.core.kernel._cython_bodies(dtype)) == set(KERNELS)


def test_a_loop_must_have_the_arguments_of_its_kernel():
    def doubled(y: Out("n"), x: In("n"), a: float):
        """y <- a x."""

    kernel = Kernel(doubled)
    with pytest.raises(TypeError, match="doubled: its loop takes"):
        kernel.loop(lambda y, a, x: None)

    def late(y: Out("n"), a: float, x: InOut("n")):
        """Scalars must come last."""

    with pytest.raises(TypeError, match="arrays first"):
        Kernel(late)


@pytest.mark.parametrize("body", ["numpy", "numba", "cython"])
@pytest.mark.parametrize(("lr", "error"), [(None, TypeError), ("0.5", TypeError), (1j, TypeError), (True, TypeError)])
def test_a_scalar_must_be_a_real_number(body, lr, error):
    p = np.zeros(3)
    with pytest.raises(error, match="'lr'.*real number"):
        fastgd.kernels.sgd_step.body(body)(p, np.ones(3), lr, 0.0, 0.0)
    assert not p.any()


def test_empty_arrays_are_refused():
    with pytest.raises(ValueError, match="'y'.*nothing empty"):
        fastgd.kernels.relu_forward(np.zeros((3, 0)), np.zeros((3, 0)))


def test_the_error_of_a_wrong_shape_names_the_arrays_that_differ():
    """Which of both is wrong the kernel cannot know: the first one may be."""
    y, x, w, b = (np.ones(shape) for shape in ((2, 4), (2, 3), (3, 5), 5))
    with pytest.raises(ValueError, match=r"'w': expected shape \(3, 4\).*'y' has shape \(2, 4\), got.*\(3, 5\)"):
        fastgd.kernels.dense_forward(y, x, w, b)
    wrong = r"'w': expected shape \(3, 4\).*'x' has shape \(2, 3\) and 'y' has shape \(2, 4\), got .*\(4, 3\)"
    with pytest.raises(ValueError, match=wrong):
        fastgd.kernels.dense_forward(y, x, np.ones((4, 3)), b)
    with pytest.raises(ValueError, match=r"'y': expected 2 .*, one for every 16 of the 17 of 'x'"):
        fastgd.kernels.to_blocks(np.ones((17, 3)), np.empty((1, 3, 16)), 1.0)


def test_bodies_written_in_python_show_their_source():
    kernel = fastgd.kernels.tanh_backward
    assert inspect.getsource(kernel.body("numpy")) == inspect.getsource(kernel.reference)
    assert inspect.getsource(kernel.body("numba")) == inspect.getsource(kernel.loop_function)
    with pytest.raises(TypeError):
        inspect.getsource(kernel.body("cython"))


@pytest.mark.parametrize("name", ["numpy", "numba", "cython"])
def test_a_body_is_a_function(name):
    kernel = fastgd.kernels.tanh_backward
    body = pickle.loads(pickle.dumps(kernel.body(name)))
    dz, y = np.ones((1, 2), np.float32), np.full((1, 2), 0.5, np.float32)
    body(dz, y)
    assert dz.tolist() == [[0.75, 0.75]]
    assert inspect.signature(body) == inspect.signature(kernel)
    assert body.__doc__ == kernel.__doc__
    assert repr(body).startswith(f"<{name} body of kernel tanh_backward(")


@pytest.mark.parametrize("body", ["numpy", "numba", "cython"])
@pytest.mark.parametrize("name", ["gelu_forward", "gelu_tanh_forward", "silu_forward"])
def test_slopes_far_out_are_finite(name, body, dtype):
    x = np.array([[-1e30, -1e4, 1e4, 1e30]], dtype)
    y, far = np.empty_like(x), x.copy()
    KERNELS[name].body(body)(y, x)
    np.testing.assert_allclose(y, np.maximum(far, 0), atol=1e-6)
    np.testing.assert_allclose(x, [[0, 0, 1, 1]], atol=1e-6)


@pytest.mark.parametrize("body", ["numpy", "numba", "cython"])
def test_binary_cross_entropy_keeps_small_losses(body):
    """At z = 15, y = 1 the loss is log(1 + exp(-15)): z must cancel before it is added."""
    loss, dz = np.zeros(1, np.float32), np.zeros((1, 1), np.float32)
    z, one = np.full((1, 1), 15, np.float32), np.ones((1, 1), np.float32)
    fastgd.kernels.binary_cross_entropy_loss.body(body)(loss, dz, z, one, np.ones(1, np.float32))
    assert loss[0] == pytest.approx(np.log1p(np.exp(-15.0)), rel=1e-5)


@pytest.mark.parametrize("body", ["numba", "cython"])
def test_subnormal_numbers_are_0_in_compiled_bodies_and_nowhere_else(body, dtype):
    tiny = np.finfo(dtype).smallest_subnormal
    p, g = np.zeros(40, dtype), np.full(40, tiny)
    fastgd.kernels.sgd_step.body(body)(p, g, 1.0, 0.0, 0.0)
    assert not p.any()
    net = fastgd.Network(3, [fastgd.Dense(2)], loss="mse", dtype=dtype, backend=body, num_threads=2)
    net.fit(np.ones((8, 3), dtype), np.ones((8, 2), dtype), epochs=2)
    assert (g * g.dtype.type(1) == tiny).all()


# ---- calls by name, which are checked in C


@pytest.mark.parametrize("name", KERNELS)
def test_a_call_by_name_gives_the_bits_of_its_body(name, dtype, rng):
    """With scalars of any kind of real number, and arrays that are subclasses or read-only where they are read."""
    kernel = KERNELS[name]
    for size in (1, 9):
        sizes = {d: 1 if d == "one" else size for d in kernel.dims}
        for array in kernel.arrays.values():
            if array.per:
                sizes[array.dims[0]] = -(-sizes[kernel.range_dim] // array.per)
        given = example(kernel, sizes, dtype, rng)
        n = len(kernel.arrays)
        for kind in (float, np.float64, np.longdouble, Fraction, *([int, np.int32] if size == 1 else [])):
            scalars = [kind(v) if kind is not Fraction else Fraction(float(v)) for v in given[n:]]
            arrays = [copied(given[:n]) for _ in range(2)]
            for spec, array in zip(kernel.arrays.values(), arrays[1], strict=True):
                array.flags.writeable = spec.direction != "in"
            kernel.body("cython")(*arrays[0], *[float(v) for v in scalars])
            kernel(*[a.view(Own) for a in arrays[1]], *scalars)
            for a, b in zip(*arrays, strict=True):
                np.testing.assert_array_equal(a, b)


class Own(np.ndarray):
    """A subclass."""


def unaligned(a):
    raw = np.zeros(a.nbytes + 1, np.uint8)
    raw[1:].view(a.dtype)[:] = a.reshape(-1)
    return raw[1:].view(a.dtype).reshape(a.shape)


def or_list(a):
    """The array if it is not C-contiguous, else another bad argument."""
    return a.tolist() if a.flags.c_contiguous else a


BAD_ARRAYS = {
    "list": lambda a: a.tolist(),
    "None": lambda a: None,
    "other dtype": lambda a: a.astype({"f": np.float16, "i": np.int16}.get(a.dtype.kind, np.int16)),
    "byte order": lambda a: a.astype(a.dtype.newbyteorder(">")) if a.dtype.itemsize > 1 else a.astype("f2"),
    "strided": lambda a: or_list(np.repeat(a, 2, axis=-1)[..., ::2]),
    "reversed": lambda a: or_list(a[::-1]),
    "unaligned": lambda a: unaligned(a) if a.dtype.itemsize > 1 else a.tolist(),
    "another axis": lambda a: a[None],
    "longer": lambda a: np.concatenate([a, a]),
    "empty": lambda a: a[:0],
    "Fortran order": lambda a: or_list(np.asfortranarray(a)),
}
BAD_SCALARS = (True, np.True_, None, "1", 1j, np.array(1.0), 10**400)


@pytest.mark.parametrize("name", KERNELS)
def test_calls_by_name_that_break_the_contract(name, rng):
    """Each argument in turn. The error names it, unless another argument can be the odd one out; no array changes."""
    kernel = KERNELS[name]
    sizes = {d: 1 if d == "one" else 3 for d in kernel.dims}
    for array in kernel.arrays.values():
        if array.per:
            sizes[array.dims[0]] = 1
    given = example(kernel, sizes, "float32", rng)
    names = [*kernel.arrays, *kernel.scalars]
    kernel(*copied(given))
    for i, argument in enumerate(names):
        is_array = i < len(kernel.arrays)
        for case, make in BAD_ARRAYS.items() if is_array else [(repr(v), lambda _, v=v: v) for v in BAD_SCALARS]:
            if case == "longer" and kernel.arrays[argument].dims[0] not in shared_dims(kernel):
                continue
            arguments = copied(given)
            arguments[i] = make(arguments[i])
            refuse(kernel, arguments, "'" if case in ("longer", "other dtype", "byte order") else f"'{argument}'")
        if is_array and kernel.arrays[argument].direction != "in":
            arguments = copied(given)
            arguments[i].flags.writeable = False
            refuse(kernel, arguments, f"'{argument}'.*writable")
    for arguments in (given[:-1], [*given, 0.0], []):
        refuse(kernel, copied(arguments), f"got {len(arguments)} arguments")


def shared_dims(kernel):
    """Dimensions of several arrays, and those whose size follows from another."""
    dims = [dim for array in kernel.arrays.values() for dim in array.dims]
    per = {array.dims[0] for array in kernel.arrays.values() if array.per}
    return {dim for dim in dims if dims.count(dim) > 1} | per


def refuse(kernel, arguments, match):
    before = copied(arguments)
    with pytest.raises((TypeError, ValueError), match=match):
        kernel(*arguments)
    for a, b in zip(arguments, before, strict=True):
        if isinstance(a, np.ndarray):
            np.testing.assert_array_equal(a, b)


def test_arguments_by_name_are_refused():
    p, g, *rest = arguments()
    with pytest.raises(TypeError, match="keyword"):
        fastgd.kernels.sgd_step(p=p, g=g, lr=0.1, weight_decay=0.0, shrink=0.0)
    with pytest.raises(TypeError, match="keyword"):
        fastgd.kernels.sgd_step(p, g, *rest, shrink=0.0)
    assert not p.any()
