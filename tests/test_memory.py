"""Compiled kernels touch nothing beyond their arrays: each array ends, or begins, at a page that may not be touched."""

import os
import subprocess
import sys

import pytest

from fastgd import _cpu

GUARDED = """
import ctypes, mmap, sys
import numpy as np
import fastgd
from fastgd.selfcheck import example

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
    place = PAGE + (pages * PAGE - array.nbytes if at_end else 0)
    copy = np.frombuffer(memory, array.dtype, array.size, place).reshape(array.shape)
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
    for dtype in ("float32", "float64"):
        for sizes in shapes:
            arguments = example(kernel, {"one": 1} | sizes, dtype, rng)
            n = len(kernel.arrays)
            for at_end in (True, False):
                kernel.body("cython")(*(guarded(a, at_end) for a in arguments[:n]), *arguments[n:])
                release()
                calls += 1
print(fastgd.kernel.variant(), calls > 5000)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="protects pages as Linux does")
@pytest.mark.parametrize("variant", _cpu.variants())
def test_no_kernel_reaches_beyond_its_arrays(variant, tmp_path):
    done = subprocess.run([sys.executable, "-c", GUARDED], capture_output=True, text=True, check=False, timeout=200,
                          env=os.environ | {"FASTGD_ISA": variant}, cwd=tmp_path)  # fmt: skip
    assert done.stdout.strip() == f"{variant} True", f"code {done.returncode}: {done.stderr[-2000:]}"
