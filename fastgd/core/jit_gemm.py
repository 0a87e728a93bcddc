"""`add_product` and `product_over_rows` for loops that Numba compiles: register tiles, as in src_cython/core/gemm.pxi.

A panel of B is packed, and TILE_ROWS rows of A at a time are multiplied by it, with one vector of sums per row. Numba
does not vectorize a loop that sums into several variables, so the innermost loop is written as LLVM instructions.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload, register_jitable

from .matrix_product import FLOAT32_ROWS, SUM_TERMS, add_product, product_over_rows

TILE_ROWS = 6
VECTOR_BYTES = 64  # LLVM splits it into vectors that the processor supports
PANEL_ROWS = FLOAT32_ROWS
FLAGS = ("contract",)


def _make_tile(rows, *, apart):
    """The intrinsic c (rows, lanes) <- c + a (rows, k) b (k, lanes), k > 0. Its arguments are addresses, and strides in
    bytes. The rows of c are contiguous, and so is b. `zero` has the type of an element. apart: whether the product is
    summed before it is added to c."""

    @intrinsic
    def tile(typing_context, zero, c, c_row, a, a_row, a_k, b, k):
        def codegen(context, builder, signature, arguments):
            _, c, c_row, a, a_row, a_k, b, k = arguments
            element, word = context.get_value_type(zero), context.get_value_type(types.int64)
            lanes = VECTOR_BYTES // (zero.bitwidth // 8)
            vector, lane_numbers = ir.VectorType(element, lanes), ir.VectorType(ir.IntType(32), lanes)

            def pointer(address, of):
                return builder.inttoptr(address, of.as_pointer())

            def load(address, of):
                return builder.load(pointer(address, of), align=zero.bitwidth // 8)

            def broadcast(value):
                undefined = ir.Constant(vector, ir.Undefined)
                first = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
                return builder.shuffle_vector(first, undefined, ir.Constant(lane_numbers, None))

            at_c = [builder.add(c, builder.mul(c_row, word(i))) for i in range(rows)]
            first_a = [builder.add(a, builder.mul(a_row, word(i))) for i in range(rows)]
            held = [load(address, vector) for address in at_c]
            first_sums = [ir.Constant(vector, None)] * rows if apart else held
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
            for s, c_row, address in zip(next_sums, held, at_c, strict=True):
                s = builder.fadd(c_row, s, flags=FLAGS) if apart else s
                builder.store(s, pointer(address, vector), align=zero.bitwidth // 8)
            return context.get_dummy_value()

        return types.void(zero, *[types.int64] * 7), codegen

    return tile


def _make_any_tile(*, apart):
    """A tile of 1 to TILE_ROWS rows. Fewer than TILE_ROWS are done in twos and ones, since more tiles take longer to
    compile."""
    tile, tile2, tile1 = (_make_tile(rows, apart=apart) for rows in (TILE_ROWS, 2, 1))

    @register_jitable
    def any_tile(rows, zero, c, c_row, a, a_row, a_k, b, k):
        if rows == TILE_ROWS:
            tile(zero, c, c_row, a, a_row, a_k, b, k)
            return
        for i in range(0, rows - 1, 2):
            tile2(zero, c + i * c_row, c_row, a + i * a_row, a_row, a_k, b, k)
        if rows % 2:
            i = rows - 1
            tile1(zero, c + i * c_row, c_row, a + i * a_row, a_row, a_k, b, k)

    return any_tile


@register_jitable
def _copy(to, source):
    for i in range(to.shape[0]):
        for j in range(to.shape[1]):
            to[i, j] = source[i, j]


@register_jitable
def _address(x):
    return np.int64(x.ctypes.data)


def _make_add_panels(lanes, *, apart):
    """The function c <- c + a b. apart: whether SUM_TERMS terms at a time are summed before they are added to c."""
    any_tile = _make_any_tile(apart=apart)

    @register_jitable
    def add_panels(c, a, b):
        m, n, k = c.shape[0], c.shape[1], b.shape[0]
        zero = c.dtype.type(0)
        panel = np.empty((PANEL_ROWS, lanes), c.dtype)
        part = np.zeros((TILE_ROWS, lanes), c.dtype)  # for the last columns of c, if they do not fill a vector
        for p in range(0, k, PANEL_ROWS):
            terms = min(PANEL_ROWS, k - p)
            step = SUM_TERMS if apart else terms
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
                    for q in range(0, terms, step):
                        at_b, some = _address(panel) + q * VECTOR_BYTES, min(step, terms - q)
                        any_tile(
                            rows, zero, at_c, c_row, at_a + q * a.strides[1], a.strides[0], a.strides[1], at_b, some
                        )
                    if columns < lanes:
                        _copy(c[i : i + rows, j : j + columns], part[:rows, :columns])
                    at_c += TILE_ROWS * c_row
                    at_a += TILE_ROWS * a.strides[0]

    return add_panels


@overload(add_product, strict=False)
def _add_product(c, a, b):
    add_panels = _make_add_panels(VECTOR_BYTES // (c.dtype.bitwidth // 8), apart=False)

    def product(c, a, b):
        m, n, k = c.shape[0], c.shape[1], b.shape[0]
        if m == 1 or k == 1:
            for i in range(m):
                for p in range(k):
                    for j in range(n):
                        c[i, j] += a[i, p] * b[p, j]
            return
        add_panels(c, a, b)

    return product


@overload(product_over_rows, strict=False)
def _product_over_rows(c, a, b):
    add_panels = _make_add_panels(VECTOR_BYTES // (c.dtype.bitwidth // 8), apart=True)

    def product(c, a, b):
        m, n, k = c.shape[0], c.shape[1], b.shape[0]
        for i in range(m):
            for j in range(n):
                c[i, j] = 0
        if k <= PANEL_ROWS:
            add_panels(c, a, b)
            return
        total = np.zeros((m, n), np.float64)
        for p in range(0, k, PANEL_ROWS):
            end = min(p + PANEL_ROWS, k)
            add_panels(c, a[:, p:end], b[p:end])
            for i in range(m):
                for j in range(n):
                    total[i, j] += c[i, j]
                    c[i, j] = 0
        for i in range(m):
            for j in range(n):
                c[i, j] = total[i, j]

    return product
