"""Optimizer state in fewer bits: bfloat16, and 8-bit floating-point codes in blocks of 256 that share an exponent.

From every rule a kernel follows for either: it unpacks the state, applies the rule, and packs the state again, in one
pass. What the rule has computed is rounded stochastically: up with a probability equal to the part of the last place
that is left over, so that the mean over many steps is right. Rounded to nearest, an average that moves by less than
half a last place a step would stand still for ever (with beta2 = 0.999 every second moment does). The random number
is a hash of the step, the slot and the bits that are rounded: the result depends on neither threads nor place.

bfloat16: the upper 16 bits of a float32, 8 of them exponent, 7 mantissa.
8bit: exponent and 3 bits of mantissa, counted down from `top`, that of the largest code of the block; code 0 is 0. A
slot that may be negative has a sign and 7 bits: magnitudes below 2^-16 of the largest in a block become 0. One that may
not has 8 bits: numbers below 2^-32 of the largest become the smallest above 0, so that no step is divided by 0.
Block-wise 8-bit state is due to Dettmers et al. 2022, arXiv:2110.02861, whose codes are others.
"""

import inspect

import numpy as np

from .kernel import InOut, Kernel, kernels

STATE_DTYPES = ("bfloat16", "8bit")
STATE_BLOCK = 256
GOLDEN = 0x9E3779B1  # the fractional part of the golden ratio, as a prime: multiples of it spread evenly over 2^32
MANTISSA = 20  # bits of a float32 below the 3 bits of mantissa that an 8-bit code keeps
SIGNED_TOP, UNSIGNED_TOP = 127, 255  # the largest codes


# ---- numpy


def _bits(x):
    return x.astype(np.float32).view(np.uint32)


def _hashed(bits, seed):
    """32 random bits for each of `bits` (uint32) and a seed."""
    return (bits ^ np.uint32(int(seed) * GOLDEN & 0xFFFFFFFF)) * np.uint32(GOLDEN)


def _unpack_bfloat16(q):
    return (q.astype(np.uint32) << 16).view(np.float32)


def _pack_bfloat16(q, x, seed):
    bits = _bits(x)
    q[...] = (bits + (_hashed(bits, seed) >> np.uint32(16))) >> np.uint32(16)


def _unpack_8bit(q, top, largest):
    code = (q & largest).astype(np.int32)
    bits = np.where(code == 0, 0, np.maximum(code + (_spread(top, q.size) - largest), 0) << MANTISSA).astype(np.uint32)
    if largest == SIGNED_TOP:
        bits |= (q.astype(np.uint32) & 128) << 24
    return bits.view(np.float32)


def _pack_8bit(q, top, x, seed, largest):
    bits = _bits(x)
    size = bits & np.uint32(0x7FFFFFFF)
    top[...] = (np.maximum.reduceat(size, np.arange(0, x.size, STATE_BLOCK)) >> MANTISSA) + 1
    place = ((size + (_hashed(bits, seed) >> np.uint32(32 - MANTISSA))) >> np.uint32(MANTISSA)).astype(np.int32)
    place -= _spread(top, q.size) - largest
    if largest == SIGNED_TOP:
        q[...] = np.maximum(place, 0) | (bits >> np.uint32(24)) & 128
    else:
        q[...] = np.where(bits == 0, 0, np.maximum(place, 1))


def _spread(top, n):
    """The top of the block of each of n elements."""
    return np.repeat(top, STATE_BLOCK)[:n]


# ---- the same for Numba, a block at a time; `top` is what the codes are counted from


def _loop_unpack_bfloat16(x, q):
    for i in range(q.size):
        x[i] = np.uint32(np.uint32(q[i]) << np.uint32(16)).view(np.float32)


def _loop_pack_bfloat16(q, x, seed):
    salt = np.uint32(np.int64(seed) * GOLDEN)
    for i in range(q.size):
        bits = np.float32(x[i]).view(np.uint32)
        h = np.uint32((bits ^ salt) * np.uint32(GOLDEN))
        q[i] = np.uint32(bits + (h >> np.uint32(16))) >> np.uint32(16)


def _loop_unpack_8bit(x, q, top, largest):
    for i in range(q.size):
        code = np.int32(q[i] & largest)
        place = max(code + (top - largest), 0)
        bits = np.uint32(place << MANTISSA) if code else np.uint32(0)
        sign = np.uint32(q[i] & (255 - largest)) << np.uint32(24)
        x[i] = np.uint32(bits | sign).view(np.float32)


def _loop_pack_8bit(q, x, seed, largest):
    salt, top = np.uint32(np.int64(seed) * GOLDEN), np.uint32(0)
    for i in range(q.size):
        top = max(top, np.float32(x[i]).view(np.uint32) & np.uint32(0x7FFFFFFF))
    base = np.int32(top >> np.uint32(MANTISSA)) + 1 - largest
    for i in range(q.size):
        bits = np.float32(x[i]).view(np.uint32)
        h = np.uint32((bits ^ salt) * np.uint32(GOLDEN)) >> np.uint32(32 - MANTISSA)
        place = np.int32(np.uint32((bits & np.uint32(0x7FFFFFFF)) + h) >> np.uint32(MANTISSA)) - base
        if largest == SIGNED_TOP:
            q[i] = np.uint32(max(place, 0)) | (bits >> np.uint32(24)) & np.uint32(128)
        else:
            q[i] = np.uint32(max(place, 1)) if bits else np.uint32(0)
    return base + largest


_LOOPS = {
    "_unpack_bfloat16": _loop_unpack_bfloat16,
    "_pack_bfloat16": _loop_pack_bfloat16,
    "_unpack_8bit": _loop_unpack_8bit,
    "_pack_8bit": _loop_pack_8bit,
}


# ---- kernels


def slots_of(rule):
    """Names of the state arrays of a rule: what its kernel updates besides p."""
    return [name for name, a in rule.arrays.items() if a.direction == "inout" and name != "p"]


def largest_code(rule, slot):
    return UNSIGNED_TOP if rule.arrays[slot].domain == "nonnegative" else SIGNED_TOP


def unpacked(rule, held, slot):
    """The numbers of a slot, of which `held` has the arrays by name."""
    top = held.get(f"{slot}_top")
    return _unpack_bfloat16(held[slot]) if top is None else _unpack_8bit(held[slot], top, largest_code(rule, slot))


def pack(rule, held, slot, x, seed):
    """Packs numbers into the arrays of a slot."""
    top = held.get(f"{slot}_top")
    if top is None:
        _pack_bfloat16(held[slot], x, seed)
    else:
        _pack_8bit(held[slot], top, x, seed, largest_code(rule, slot))


def new_slot(rule, slot, n, state_dtype, initial):
    """The arrays of a slot for n elements, by name, set to an initial value."""
    held = {slot: np.zeros(n, np.uint16 if state_dtype == "bfloat16" else np.uint8)}
    if state_dtype == "8bit":
        held[f"{slot}_top"] = np.zeros(-(-n // STATE_BLOCK), np.int32)
    pack(rule, held, slot, np.full(n, initial, np.float32), 0)
    return held


def low_memory_kernel(rule, state_dtype):
    """The kernel of a rule whose slots are held in a state_dtype: bfloat16 arrays, or for each slot one of codes and
    one of the tops of their blocks. After the scalars of the rule it has a seed, to which the number of a slot is
    added."""
    name = f"{rule.name}_{state_dtype}"
    if state_dtype not in rule.derived:
        rule.derived[state_dtype] = _derive(rule, state_dtype, name)
        setattr(kernels, name, rule.derived[state_dtype])
    return rule.derived[state_dtype]


def _derive(rule, state_dtype, name):
    arrays, slots = {"p": rule.arrays["p"]}, slots_of(rule)
    for slot in slots:
        if state_dtype == "bfloat16":
            sign = "nonnegative " if largest_code(rule, slot) == UNSIGNED_TOP else ""
            arrays[slot] = InOut("n", dtype="uint16", domain=f"{sign}bfloat16")
        else:
            arrays[slot] = InOut("n", dtype="uint8", domain="code")
            arrays[f"{slot}_top"] = InOut("blocks", dtype="int32", domain="top", per=STATE_BLOCK)
    arrays["g"] = rule.arrays["g"]
    scalars = (*rule.scalars, "seed")

    def reference(*arguments):
        given = dict(zip((*arrays, *scalars), arguments, strict=True))
        values = [unpacked(rule, given, slot).astype(given["p"].dtype) for slot in slots]
        rule.reference(given["p"], *values, given["g"], *(given[scalar] for scalar in rule.scalars))
        for number, (slot, x) in enumerate(zip(slots, values, strict=True)):
            pack(rule, given, slot, x, given["seed"] + number)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(n, kind, annotation=a) for n, a in arrays.items()]
    parameters += [inspect.Parameter(n, kind, annotation=float) for n in scalars]
    reference.__signature__ = inspect.Signature(parameters)
    reference.__name__, reference.__module__ = name, rule.__module__
    reference.__doc__ = (
        f"`{rule.name}` with its slots in {state_dtype}, rounded stochastically by the seed; see fastgd.lowmemory.\n\n"
        f"{inspect.getdoc(rule.reference)}"
    )
    made = Kernel(reference)
    if rule.has_loop:
        made.build_loop = lambda jit, dtype: _loop(rule, state_dtype, jit, dtype)
    return made


def _loop(rule, state_dtype, jit, dtype):
    """The loop for Numba, written out for the slots of this rule."""
    slots = slots_of(rule)
    arguments, before, after = ["p"], [], []
    for number, slot in enumerate(slots):
        arguments.append(slot)
        before.append(f"x{number} = values[{number}, : end - begin]")
        if state_dtype == "bfloat16":
            before.append(f"_unpack_bfloat16(x{number}, {slot}[begin:end])")
            after.append(f"_pack_bfloat16({slot}[begin:end], x{number}, seed + {number})")
        else:
            arguments.append(f"{slot}_top")
            top, largest = f"{slot}_top[begin // {STATE_BLOCK}]", largest_code(rule, slot)
            before.append(f"_unpack_8bit(x{number}, {slot}[begin:end], {top}, {largest})")
            after.append(f"{top} = _pack_8bit({slot}[begin:end], x{number}, seed + {number}, {largest})")
    values = ", ".join(f"x{number}" for number in range(len(slots)))
    lines = [
        f"def loop({', '.join([*arguments, 'g', *rule.scalars, 'seed'])}):",
        f"    values = np.empty(({len(slots)}, {STATE_BLOCK}), p.dtype)",
        f"    for begin in range(0, p.size, {STATE_BLOCK}):",
        f"        end = min(begin + {STATE_BLOCK}, p.size)",
        *(f"        {line}" for line in before),
        f"        _rule(p[begin:end], {values}, g[begin:end], {', '.join(rule.scalars)})",
        *(f"        {line}" for line in after),
    ]
    names = {"np": np, "_rule": jit(rule.loop_for(jit, dtype)), **{name: jit(loop) for name, loop in _LOOPS.items()}}
    exec(compile("\n".join(lines), f"<loop of {rule.name}_{state_dtype}>", "exec"), names)
    return names["loop"]
