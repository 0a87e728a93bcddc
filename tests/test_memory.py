"""Compiled kernels touch nothing beyond their arrays: each array ends, or begins, at a protected page. When memory is
short, they raise MemoryError or give the right result, and never kill the process."""

import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

import fastgd
from fastgd import _cpu
from fastgd.optimizers import low_memory

GUARDED = """
import ctypes, mmap, sys
import numpy as np
import fastgd
from fastgd.cli.self_check import example

PAGE = mmap.PAGESIZE
protect = ctypes.CDLL(None, use_errno=True).mprotect
protect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
kept = []


def guarded(array, at_end):
    pages = -(-array.nbytes // PAGE)
    memory = mmap.mmap(-1, (pages + 2) * PAGE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert protect(start, PAGE, 0) == 0 and protect(start + (pages + 1) * PAGE, PAGE, 0) == 0
    kept.append((memory, start, pages))
    offset = PAGE + (pages * PAGE - array.nbytes if at_end else 0)
    copy = np.frombuffer(memory, array.dtype, array.size, offset).reshape(array.shape)
    copy[...] = array
    return copy


def release():
    while kept:
        memory, start, pages = kept.pop()
        protect(start, (pages + 2) * PAGE, mmap.PROT_READ | mmap.PROT_WRITE)


rng, calls = np.random.default_rng(0), 0
for name, kernel in vars(fastgd.kernels).items():
    dims = [dim for dim in kernel.dims if dim != "one"]
    shapes = [dict.fromkeys(dims, n) for n in (1, 2, 7, 10, 17, 33)]
    shapes += [dict.fromkeys(dims, 5) | {dim: n} for dim in dims for n in (1, 3, 8, 15, 16, 31, 47, 100, 300)]
    shapes += [dict.fromkeys(dims, 70) | {dim: n} for dim in dims for n in (1, 6, 13, 130)]
    if "images" in dims or len(dims) > 3:  # whose sizes multiply
        shapes = [dict.fromkeys(dims, n) for n in (1, 2, 3, 5)]
        shapes += [dict.fromkeys(dims, 3) | {dim: n} for dim in dims for n in (1, 7, 8, 9, 16, 17, 31, 33, 70)]
    shapes = [(sizes, {}) for sizes in shapes]
    if {"down", "channels"} <= set(kernel.scalars):  # convolutions: windows 3 x 3, also by Winograd's transform
        options = {"width": 3.0, "down": 1.0, "across": 1.0, "top": 1.0, "left": 1.0}
        for c, o in ((8, 8), (9, 17), (17, 9), (70, 33)):
            for h, w in ((1, 1), (3, 6), (4, 5)):
                sizes = {"blocks": 2, "h": h, "w": w, "oh": h, "ow": w, "c": c, "o": o}
                # Whole windows, incomplete ones, and those of some of the channels.
                for channels, k in ((c, 9 * c), (c, 9 * c - 2), (c, 9 * c + 2), (c - 1, 9 * c - 9)):
                    shapes.append((sizes | {"k": k}, options | {"channels": float(channels)}))
    for dtype in ("float32", "float64"):
        for sizes, options in shapes:
            arguments = example(kernel, {"one": 1} | sizes, dtype, rng)
            n = len(kernel.arrays)
            arguments[n:] = [options.get(name, value) for name, value in zip(kernel.scalars, arguments[n:])]
            for at_end in (True, False):
                kernel.body("cython")(*(guarded(a, at_end) for a in arguments[:n]), *arguments[n:])
                release()
                calls += 1
print(fastgd.core.kernel.variant(), calls > 5000)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="protects pages as Linux does")
@pytest.mark.parametrize("variant", _cpu.variants())
def test_no_kernel_reaches_beyond_its_arrays(variant, tmp_path):
    done = subprocess.run([sys.executable, "-c", GUARDED], capture_output=True, text=True, check=False, timeout=200,
                          env=os.environ | {"FASTGD_ISA": variant}, cwd=tmp_path)  # fmt: skip
    assert done.stdout.strip() == f"{variant} True", f"code {done.returncode}: {done.stderr[-2000:]}"


SHORT = """
import resource, sys, threading
import numpy as np
import fastgd

rng = np.random.default_rng(0)
X, y = rng.normal(size=(512, 64)).astype("f"), rng.integers(0, 5, 512)


def trained():
    net = fastgd.Network(64, [fastgd.Dense(256, "relu"), fastgd.Dense(5)], loss="softmax_cross_entropy", num_threads=4)
    net.fit(X, y, optimizer=fastgd.Adam(clip_norm=1.0), batch_size=128, epochs=2)
    return net.parameters.copy()


def in_short_memory(headroom):
    try:
        pages = int(open("/proc/self/statm").read().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + headroom, resource.RLIM_INFINITY))
        result.append(trained())
    except MemoryError as error:
        result.append(error)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


fastgd.Network(64, [fastgd.Dense(5)], loss="mse").predict(X[:1])  # loads the kernels and starts no thread
ends = []
for headroom in [1000 * int(1.3**i) for i in range(14, 41)]:  # 39 KB to 36 MB
    result = []
    caller = threading.Thread(target=in_short_memory, args=(headroom,))  # a new thread needs new memory
    caller.start()
    caller.join()
    ends += result
right = trained()
arrays = [end for end in ends if not isinstance(end, MemoryError)]
assert all((end == right).all() for end in arrays)
print(len(ends), 0 < len(arrays) < len(ends))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory as Linux does")
def test_short_memory_is_a_memory_error(tmp_path):
    # One malloc arena: others reserve their memory beforehand, where the limit has no effect.
    done = subprocess.run([sys.executable, "-c", SHORT], capture_output=True, text=True, check=False, timeout=200,
                          env=os.environ | {"MALLOC_ARENA_MAX": "1"}, cwd=tmp_path)  # fmt: skip
    assert done.stdout.strip() == "27 True", f"code {done.returncode}: {done.stderr[-2000:]}"


SHORT_FOR_NUMBA = """
import resource
import numpy as np
import fastgd

rng = np.random.default_rng(0)
network = fastgd.Network(2100, [fastgd.Dense(2100)], loss="mse", backend="numba", num_threads=1)
x, y = (rng.normal(size=(600, 2100)).astype(np.float32) for _ in range(2))
optimizer = fastgd.SGD(0.1)
network.train_step(x, y, optimizer)
gradient = np.empty((2100, 2100), np.float32)
(virtual,) = [int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize")]
resource.setrlimit(resource.RLIMIT_AS, (1024 * virtual + 12_000_000, resource.RLIM_INFINITY))
raised, taken = [], []
try:
    while True:
        taken.append(np.empty(8_000_000, np.uint8))
except MemoryError:
    pass
for step in (
    lambda: network.train_step(x, y, optimizer),
    lambda: fastgd.kernels.dense_backward_weights.body("numba")(gradient, x, y),
):
    try:
        step()
    except MemoryError as error:
        raised.append(str(error))
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(["memory" in text for text in raised], optimizer.steps)
network.train_step(x, y, optimizer)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory as Linux does")
def test_loops_of_numba_without_memory_raise(tmp_path):
    """By default Numba prints an exception in a C callback and continues."""
    done = subprocess.run([sys.executable, "-c", SHORT_FOR_NUMBA], capture_output=True, text=True, check=False,
                          timeout=200, cwd=tmp_path)  # fmt: skip
    assert done.stdout == "[True, True] 1\n", done.stdout + done.stderr


@pytest.mark.parametrize("state_dtype", ["bfloat16", "8bit"])
def test_new_low_memory_state_is_packed_in_pieces(state_dtype, monkeypatch):
    """The state is that of one piece, and takes little more memory than itself."""
    p, rule = np.zeros(4 * low_memory.PIECE + 100, np.float32), fastgd.kernels.adam_step
    initial = [0.0 for _ in low_memory.slots_of(rule)]
    tracemalloc.start()
    made = low_memory.new_state(rule, p, state_dtype, initial)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < kept + 50 * low_memory.PIECE
    small = p[: 5 * low_memory.STATE_BLOCK + 7]
    whole = low_memory.new_state(rule, small, state_dtype, [0.3, 1.7])
    monkeypatch.setattr(low_memory, "PIECE", 2 * low_memory.STATE_BLOCK)
    for name, array in low_memory.new_state(rule, small, state_dtype, [0.3, 1.7]).items():
        np.testing.assert_array_equal(array, whole[name])
        assert array.any(), name
    assert not any(made[name].any() for name in low_memory.slots_of(rule))
