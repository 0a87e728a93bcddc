"""Low-memory optimizer state: bfloat16, and 8-bit floating-point codes in blocks of 256 that share an exponent.

For each rule and format there is a derived kernel, which unpacks the state, applies the rule and packs the state in one
pass. Packing rounds stochastically: the probability of rounding up is the fraction that rounding down would drop, so
the mean over many steps is right. With rounding to nearest, an average that moves by less than half a unit in the last
place per step would never move (with beta2 = 0.999 every second moment is one). The random number, one for all slots of
a parameter, is a hash of the step and of the bits that are rounded, so the result depends neither on threads nor on the
position of the parameter.

bfloat16: the upper 16 bits of a float32: sign, 8 bits of exponent, 7 of mantissa.
8bit: exponent and 3 bits of mantissa, relative to the block's `base` >= 0. Code q is the float32 with the bits
(base + q) 2^20. Slots that may be negative have a sign and 7 bits, and code 0 is 0: magnitudes below 2^-16 of the
block's largest become 0. Other slots have 8 bits, and numbers below 2^-32 of the largest become the number of code 0,
so that no step is divided by 0 as long as the block has a number above 2^-95.

Both formats have the range of float32, also for float64 parameters. In 8 bits, a number that becomes infinite or NaN
spoils its block: training a network stops before such a gradient, but `Optimizer.step` on arrays does not check. A
maximum of rounded numbers, as in AMSGrad, accumulates rounding up: 5 % in bfloat16, and half as much again in 8 bits,
after 40,000 steps of noise. Block-wise 8-bit state is due to Dettmers et al. 2022, arXiv:2110.02861, with other codes.
"""

import inspect

import numpy as np

from ..core.buffers import aligned_zeros
from ..core.domains import DOMAINS, Domain
from ..core.kernel import InOut, Kernel, kernels
from ..core.random import GOLDEN, MIX

STATE_DTYPES = ("bfloat16", "8bit")
STATE_BLOCK = 256
PIECE = 2**10 * STATE_BLOCK  # of new state is packed at a time: the numbers before are much larger
MANTISSA = 20  # bits of a float32 below the 3 bits of mantissa that an 8-bit code keeps
LARGEST_SIGNED, LARGEST_UNSIGNED = 127, 255  # the largest codes


# ---- domains


def _bases(largest):
    """Bases whose largest code stands for a number between about 2^-8 and 2^8."""
    return lambda rng, shape, below: (rng.integers(127 - 8, 127 + 8, shape) << 3) - largest


def _upper_halves(rng, shape, below):
    return _bits(rng.normal(size=shape)) >> 16


DOMAINS |= {
    "code": Domain("8-bit codes", lambda rng, shape, below: rng.integers(0, 256, shape), is_whole=True, is_code=True),
    "base": Domain("bases of signed 8-bit codes", _bases(LARGEST_SIGNED), is_whole=True),
    "nonnegative base": Domain("bases of unsigned 8-bit codes", _bases(LARGEST_UNSIGNED), is_whole=True),
    "bfloat16": Domain("bfloat16 numbers as bits", _upper_halves, is_whole=True, is_code=True),
    "nonnegative bfloat16": Domain(
        "bfloat16 numbers >= 0 as bits",
        lambda rng, shape, below: _upper_halves(rng, shape, below) & 0x7FFF,
        is_whole=True,
        is_code=True,
    ),
}


# ---- numpy


def _bits(x):
    return x.astype(np.float32).view(np.uint32)


def _noise(values, seed):
    """32 random bits for each parameter, a hash of the values of its slots."""
    z = int(seed) * GOLDEN & 0xFFFFFFFF
    z = (z ^ z >> 16) * MIX & 0xFFFFFFFF
    return (sum(_bits(x) for x in values) ^ np.uint32(z ^ z >> 13)) * np.uint32(GOLDEN)


def _unpack_bfloat16(q):
    return (q.astype(np.uint32) << 16).view(np.float32)


def _pack_bfloat16(q, x, noise):
    q[...] = (_bits(x) + (noise >> np.uint32(16))) >> np.uint32(16)


def _unpack_8bit(q, base, largest):
    bits = ((q & largest) + _spread(base, q.size).astype(np.uint32)) << np.uint32(MANTISSA)
    if largest == LARGEST_SIGNED:
        bits = np.where(q & largest, bits | (q & np.uint32(128)) << np.uint32(24), np.uint32(0))
    return bits.view(np.float32)


def _pack_8bit(q, base, x, noise, largest):
    bits = _bits(x)
    size = bits & np.uint32(0x7FFFFFFF)
    top = (np.maximum.reduceat(size, np.arange(0, x.size, STATE_BLOCK)) >> MANTISSA).astype(np.int32) + 1
    base[...] = np.maximum(top - largest, 0)
    code = ((size + (noise >> np.uint32(32 - MANTISSA))) >> np.uint32(MANTISSA)).astype(np.int32)
    code = np.maximum(code - _spread(base, q.size), 0)
    q[...] = code | (bits >> np.uint32(24)) & 128 if largest == LARGEST_SIGNED else code


def _spread(base, n):
    """The base of the block of each of n elements."""
    return np.repeat(base, STATE_BLOCK)[:n]


# ---- for Numba, a block at a time


def _loop_noise(noise, values, seed):
    z = np.uint32(np.int64(seed) * GOLDEN)
    z = np.uint32(np.uint32(z ^ (z >> np.uint32(16))) * np.uint32(MIX))
    salt = np.uint32(z ^ (z >> np.uint32(13)))
    for i in range(noise.size):
        bits = np.uint32(0)
        for k in range(values.shape[0]):
            bits = np.uint32(bits + np.float32(values[k, i]).view(np.uint32))
        noise[i] = np.uint32(bits ^ salt) * np.uint32(GOLDEN)


def _loop_unpack_bfloat16(x, q):
    for i in range(q.size):
        x[i] = np.uint32(np.uint32(q[i]) << np.uint32(16)).view(np.float32)


def _loop_pack_bfloat16(q, x, noise):
    for i in range(q.size):
        bits = np.float32(x[i]).view(np.uint32)
        q[i] = np.uint32(bits + (noise[i] >> np.uint32(16))) >> np.uint32(16)


def _loop_unpack_8bit(x, q, base, largest):
    for i in range(q.size):
        code = np.int32(q[i] & largest)
        bits = np.uint32((code + base) << MANTISSA)
        if largest == LARGEST_SIGNED:
            bits = np.uint32(bits | (np.uint32(q[i] & 128) << np.uint32(24))) if code else np.uint32(0)
        x[i] = np.uint32(bits).view(np.float32)


def _loop_pack_8bit(q, x, noise, largest):
    size = np.uint32(0)
    for i in range(q.size):
        size = max(size, np.float32(x[i]).view(np.uint32) & np.uint32(0x7FFFFFFF))
    base = max(np.int32(size >> np.uint32(MANTISSA)) + 1 - largest, 0)
    for i in range(q.size):
        bits = np.float32(x[i]).view(np.uint32)
        size = np.uint32((bits & np.uint32(0x7FFFFFFF)) + (noise[i] >> np.uint32(32 - MANTISSA)))
        code = np.uint32(max(np.int32(size >> np.uint32(MANTISSA)) - base, 0))
        q[i] = code | (bits >> np.uint32(24)) & np.uint32(128) if largest == LARGEST_SIGNED else code
    return base


_LOOPS = {
    "_noise": _loop_noise,
    "_unpack_bfloat16": _loop_unpack_bfloat16,
    "_pack_bfloat16": _loop_pack_bfloat16,
    "_unpack_8bit": _loop_unpack_8bit,
    "_pack_8bit": _loop_pack_8bit,
}


# ---- kernels


def slots_of(rule: Kernel) -> list[str]:
    """Names of the state arrays of a rule: the arrays besides p that its kernel updates."""
    return [name for name, a in rule.arrays.items() if a.direction == "inout" and name != "p"]


def largest_code(rule, slot):
    return LARGEST_UNSIGNED if rule.arrays[slot].domain == "nonnegative" else LARGEST_SIGNED


def unpacked(rule, held, slot):
    """The numbers of a slot; `held` has its arrays by name."""
    base = held.get(f"{slot}_base")
    return _unpack_bfloat16(held[slot]) if base is None else _unpack_8bit(held[slot], base, largest_code(rule, slot))


def pack(rule, held, values, seed):
    """Packs the values of the slots into their arrays."""
    noise = _noise(values, seed)
    for slot, x in zip(slots_of(rule), values, strict=True):
        base = held.get(f"{slot}_base")
        if base is None:
            _pack_bfloat16(held[slot], x, noise)
        else:
            _pack_8bit(held[slot], base, x, noise, largest_code(rule, slot))


def new_state(rule, p, state_dtype, initial):
    """The arrays of the slots for parameters p, by name, with their initial values."""
    slots, held, n = slots_of(rule), {}, p.size
    dtype = np.uint16 if state_dtype == "bfloat16" else np.uint8
    # Offset against the parameters and the gradient; see `aligned_zeros`.
    _, arrays = aligned_zeros([n] * len(slots), dtype, eighth=2, like=p)
    for slot, array in zip(slots, arrays, strict=True):
        held[slot] = array
        if state_dtype == "8bit":
            held[f"{slot}_base"] = np.zeros(-(-n // STATE_BLOCK), np.int32)
    for start in range(0, n, PIECE):
        stop = min(start + PIECE, n)
        blocks = slice(start // STATE_BLOCK, -(-stop // STATE_BLOCK))
        part = {name: array[blocks if name.endswith("_base") else slice(start, stop)] for name, array in held.items()}
        pack(rule, part, [np.full(stop - start, value, np.float32) for value in initial], 0)
    return held


def low_memory_kernel(rule, state_dtype):
    """The kernel of a rule with its slots in a state_dtype: an array of bfloat16, or an array of codes and an array of
    the bases of their blocks, for each slot. The last scalar is a seed."""
    name = f"{rule.name}_{state_dtype}"
    if state_dtype not in rule.derived:
        rule.derived[state_dtype] = _derive(rule, state_dtype, name)
        setattr(kernels, name, rule.derived[state_dtype])
    return rule.derived[state_dtype]


def _derive(rule, state_dtype, name):
    arrays, slots = {"p": rule.arrays["p"]}, slots_of(rule)
    for slot in slots:
        sign = "nonnegative " if largest_code(rule, slot) == LARGEST_UNSIGNED else ""
        if state_dtype == "bfloat16":
            arrays[slot] = InOut("n", dtype="uint16", domain=f"{sign}bfloat16")
        else:
            arrays[slot] = InOut("n", dtype="uint8", domain="code")
            arrays[f"{slot}_base"] = InOut("blocks", dtype="int32", domain=f"{sign}base", per=STATE_BLOCK)
    arrays["g"] = rule.arrays["g"]
    scalars = (*rule.scalars, "seed")

    def reference(*arguments):
        given = dict(zip((*arrays, *scalars), arguments, strict=True))
        values = [unpacked(rule, given, slot).astype(given["p"].dtype) for slot in slots]
        rule.reference(given["p"], *values, given["g"], *(given[scalar] for scalar in rule.scalars))
        pack(rule, given, values, given["seed"])

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(n, kind, annotation=a) for n, a in arrays.items()]
    parameters += [inspect.Parameter(n, kind, annotation=float) for n in scalars]
    reference.__signature__ = inspect.Signature(parameters)
    reference.__name__, reference.__module__ = name, rule.__module__
    reference.__doc__ = (
        f"`{rule.name}` with its slots in {state_dtype}, rounded stochastically with the seed; "
        f"see fastgd.optimizers.low_memory.\n\n"
        f"{inspect.getdoc(rule.reference)}"
    )
    made = Kernel(reference)
    if rule.has_loop:
        made.build_loop = lambda compiler, dtype: _loop(rule, state_dtype, compiler, dtype)
        made.functions = rule.functions
    return made


def _loop(rule, state_dtype, compiler, dtype):
    """The loop for Numba, generated for the slots of this rule."""
    slots = slots_of(rule)
    arguments, before, after = ["p"], [], []
    for number, slot in enumerate(slots):
        arguments.append(slot)
        before.append(f"_x{number} = _values[{number}, :_size]")
        if state_dtype == "bfloat16":
            before.append(f"_unpack_bfloat16(_x{number}, {slot}[_begin:_end])")
            after.append(f"_pack_bfloat16({slot}[_begin:_end], _x{number}, _random)")
        else:
            arguments.append(f"{slot}_base")
            base, largest = f"{slot}_base[_begin // {STATE_BLOCK}]", largest_code(rule, slot)
            before.append(f"_unpack_8bit(_x{number}, {slot}[_begin:_end], {base}, {largest})")
            after.append(f"{base} = _pack_8bit({slot}[_begin:_end], _x{number}, _random, {largest})")
    values = ", ".join(f"_x{number}" for number in range(len(slots)))
    # The names of a rule do not begin with an underscore.
    lines = [
        f"def loop({', '.join([*arguments, 'g', *rule.scalars, 'seed'])}):",
        f"    _values = _np.empty(({len(slots)}, {STATE_BLOCK}), p.dtype)",
        f"    _bits = _np.empty({STATE_BLOCK}, _np.uint32)",
        f"    for _begin in range(0, p.size, {STATE_BLOCK}):",
        f"        _end = min(_begin + {STATE_BLOCK}, p.size)",
        "        _size = _end - _begin",
        "        _random = _bits[:_size]",
        *(f"        {line}" for line in before),
        f"        _rule(p[_begin:_end], {values}, g[_begin:_end], {', '.join(rule.scalars)})",
        "        _noise(_random, _values, seed)",
        *(f"        {line}" for line in after),
    ]
    names = {"_np": np, "_rule": compiler(rule.loop_for(compiler, dtype))}
    names |= {name: compiler(loop) for name, loop in _LOOPS.items()}
    exec(compile("\n".join(lines), f"<loop of {rule.name}_{state_dtype}>", "exec"), names)
    return names["loop"]
