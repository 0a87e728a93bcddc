"""`add_product` for loops that Numba compiles: register tiles, as in src_cython/gemm.pxi.

A panel of B is packed, and for TILE_ROWS rows at a time one vector of sums each goes through it. Numba makes no vectors
of what a loop adds up in more than one variable, so the innermost loop is written as LLVM's instructions.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload, register_jitable

from .layers import add_product

TILE_ROWS = 6
VECTOR_BYTES = 64  # LLVM cuts it into vectors that the processor has
PANEL_ROWS = 256
FLAGS = ("contract",)


def _make_tile(rows):
    """The intrinsic c (rows, lanes) <- c + a (rows, k) b (k, lanes), k > 0, of addresses and strides in bytes; the
    rows of c and b are contiguous, those of b follow one another. `zero` has the type of an element."""

    @intrinsic
    def tile(typing_context, zero, c, c_row, a, a_row, a_k, b, k):
        def codegen(context, builder, signature, arguments):
            _, c, c_row, a, a_row, a_k, b, k = arguments
            element, word = context.get_value_type(zero), context.get_value_type(types.int64)
            lanes = VECTOR_BYTES // (zero.bitwidth // 8)
            vector, lane_numbers = ir.VectorType(element, lanes), ir.VectorType(ir.IntType(32), lanes)

            def place(address, kind):
                return builder.inttoptr(address, kind.as_pointer())

            def load(address, kind):
                return builder.load(place(address, kind), align=zero.bitwidth // 8)

            def broadcast(value):
                undefined = ir.Constant(vector, ir.Undefined)
                first = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
                return builder.shuffle_vector(first, undefined, ir.Constant(lane_numbers, None))

            at_c = [builder.add(c, builder.mul(c_row, word(i))) for i in range(rows)]
            first_a = [builder.add(a, builder.mul(a_row, word(i))) for i in range(rows)]
            first_sums = [load(address, vector) for address in at_c]
            before, body = builder.block, builder.append_basic_block("terms")
            after = builder.append_basic_block("end")
            builder.branch(body)
            builder.position_at_end(body)
            count, at_b = builder.phi(word), builder.phi(word)
            at_a, sums = [builder.phi(word) for _ in range(rows)], [builder.phi(vector) for _ in range(rows)]
            row_of_b = load(at_b, vector)
            next_sums = [
                builder.fadd(s, builder.fmul(broadcast(load(x, element)), row_of_b, flags=FLAGS), flags=FLAGS)
                for s, x in zip(sums, at_a, strict=True)
            ]
            next_a = [builder.add(x, a_k) for x in at_a]
            rest, next_b = builder.sub(count, word(1)), builder.add(at_b, word(VECTOR_BYTES))
            starts, nexts = [k, b, *first_a, *first_sums], [rest, next_b, *next_a, *next_sums]
            for phi, start, following in zip([count, at_b, *at_a, *sums], starts, nexts, strict=True):
                phi.add_incoming(start, before)
                phi.add_incoming(following, body)
            builder.cbranch(builder.icmp_signed("!=", rest, word(0)), body, after)
            builder.position_at_end(after)
            for s, address in zip(next_sums, at_c, strict=True):
                builder.store(s, place(address, vector), align=zero.bitwidth // 8)
            return context.get_dummy_value()

        return types.void(zero, *[types.int64] * 7), codegen

    return tile


_tile, _tile2, _tile1 = _make_tile(TILE_ROWS), _make_tile(2), _make_tile(1)  # more would take longer to compile


@register_jitable
def _any_tile(rows, zero, c, c_row, a, a_row, a_k, b, k):
    if rows == TILE_ROWS:
        _tile(zero, c, c_row, a, a_row, a_k, b, k)
        return
    for i in range(0, rows - 1, 2):
        _tile2(zero, c + i * c_row, c_row, a + i * a_row, a_row, a_k, b, k)
    if rows % 2:
        i = rows - 1
        _tile1(zero, c + i * c_row, c_row, a + i * a_row, a_row, a_k, b, k)


@register_jitable
def _copy(to, source):
    for i in range(to.shape[0]):
        for j in range(to.shape[1]):
            to[i, j] = source[i, j]


@register_jitable
def _address(x):
    return np.int64(x.ctypes.data)


@overload(add_product, strict=False)
def _add_product(c, a, b):
    lanes = VECTOR_BYTES // (c.dtype.bitwidth // 8)

    def product(c, a, b):
        m, n, k = c.shape[0], c.shape[1], b.shape[0]
        if m == 1 or k == 1:
            for i in range(m):
                for p in range(k):
                    for j in range(n):
                        c[i, j] += a[i, p] * b[p, j]
            return
        zero = c.dtype.type(0)
        panel = np.empty((PANEL_ROWS, lanes), c.dtype)
        part = np.zeros((TILE_ROWS, lanes), c.dtype)  # of c, where the columns that are left fill no vector
        for p in range(0, k, PANEL_ROWS):
            terms = min(PANEL_ROWS, k - p)
            for j in range(0, n, lanes):
                columns = min(lanes, n - j)
                if columns == lanes:
                    _copy(panel[:terms], b[p : p + terms, j : j + lanes])
                else:
                    _copy(panel[:terms, :columns], b[p : p + terms, j : j + columns])
                at_c, c_row = _address(c) + j * c.itemsize, c.strides[0]
                at_a = _address(a) + p * a.strides[1]
                for i in range(0, m, TILE_ROWS):
                    rows = min(TILE_ROWS, m - i)
                    if columns < lanes:
                        at_c, c_row = _address(part), VECTOR_BYTES
                        _copy(part[:rows, :columns], c[i : i + rows, j : j + columns])
                    _any_tile(rows, zero, at_c, c_row, at_a, a.strides[0], a.strides[1], _address(panel), terms)
                    if columns < lanes:
                        _copy(c[i : i + rows, j : j + columns], part[:rows, :columns])
                    at_c += TILE_ROWS * c_row
                    at_a += TILE_ROWS * a.strides[0]

    return product
