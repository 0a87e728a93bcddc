"""Optimizer state in fewer bits: bfloat16, and 8-bit floating-point codes in blocks of 256 that share an exponent.

What a rule has computed is rounded stochastically: up with a probability equal to the part of the last place that is
left over, so that the mean over many steps is right. Rounded to nearest, an average that moves by less than half a last
place a step would stand still for ever (with beta2 = 0.999 every second moment does). The random number is a hash of
the step and of the bits that are rounded: the result depends on neither threads nor place.
"""

import numpy as np

from .kernel import In, Out, kernel

# Mixing constants of the hash: the fractional part of the golden ratio, and one of MurmurHash3's.
GOLDEN, MIX = 0x9E3779B1, 0x85EBCA77
MANTISSA = 20  # bits of a float32 below the 3 bits of mantissa that an 8-bit code keeps


def hashed(bits, seed):
    """32 random bits for each of `bits` (uint32) and the number of a step."""
    h = (bits ^ np.uint32(int(seed) * GOLDEN & 0xFFFFFFFF)) * np.uint32(MIX)
    h ^= h >> np.uint32(15)
    return h * np.uint32(GOLDEN)


@kernel
def unpack_bfloat16(x: Out("n"), q: In("n", dtype="uint16", domain="bfloat16")):
    """x <- the numbers of which q are the upper 16 bits."""
    np.copyto(x, (q.astype(np.uint32) << 16).view(np.float32))


@unpack_bfloat16.loop
def unpack_bfloat16(x, q):
    for i in range(q.size):
        x[i] = np.uint32(np.uint32(q[i]) << np.uint32(16)).view(np.float32)


@kernel
def pack_bfloat16(q: Out("n", dtype="uint16"), x: In("n"), seed: float):
    """q <- x as bfloat16 (8 bits of exponent, 7 of mantissa), rounded stochastically."""
    bits = x.astype(np.float32).view(np.uint32)
    np.copyto(q, (bits + (hashed(bits, seed) >> np.uint32(16))) >> np.uint32(16), casting="unsafe")


@pack_bfloat16.loop
def pack_bfloat16(q, x, seed):
    salt = np.uint32(np.int64(seed) * GOLDEN)
    for i in range(q.size):
        bits = np.float32(x[i]).view(np.uint32)
        h = np.uint32((bits ^ salt) * np.uint32(MIX))
        h = np.uint32((h ^ (h >> np.uint32(15))) * np.uint32(GOLDEN))
        q[i] = np.uint32(bits + (h >> np.uint32(16))) >> np.uint32(16)


@kernel
def unpack_signed(
    x: Out("blocks", "width"),
    q: In("blocks", "width", dtype="uint8", domain="code"),
    top: In("blocks", dtype="int32", domain="top"),
):
    """x <- the numbers of which q are codes: a sign and 7 bits, 0 for 0, else exponent and 3 bits of mantissa counted
    from those of the code 127, which are top."""
    code = (q & 127).astype(np.int32)
    bits = np.where(code == 0, 0, np.maximum(code + (top[:, None] - 127), 0) << MANTISSA).astype(np.uint32)
    np.copyto(x, (bits | (q.astype(np.uint32) & 128) << 24).view(np.float32))


@unpack_signed.loop
def unpack_signed(x, q, top):
    for i in range(q.shape[0]):
        for j in range(q.shape[1]):
            code = np.int32(q[i, j] & 127)
            place = max(code + (top[i] - 127), 0)
            bits = np.uint32(place << MANTISSA) if code else np.uint32(0)
            x[i, j] = np.uint32(bits | np.uint32(q[i, j] & 128) << np.uint32(24)).view(np.float32)


@kernel
def pack_signed(
    q: Out("blocks", "width", dtype="uint8"), top: Out("blocks", dtype="int32"), x: In("blocks", "width"), seed: float
):
    """q <- codes of x, rounded stochastically, and top of each block; see `unpack_signed`. Magnitudes below 2^-16 of
    the largest in a block become 0. Block-wise 8-bit state: Dettmers et al. 2022, arXiv:2110.02861 (whose codes are
    others)."""
    bits = x.astype(np.float32).view(np.uint32)
    size = bits & np.uint32(0x7FFFFFFF)
    top[:] = (size.max(axis=1) >> MANTISSA) + 1
    place = ((size + (hashed(bits, seed) >> np.uint32(32 - MANTISSA))) >> np.uint32(MANTISSA)).astype(np.int32)
    np.copyto(q, np.maximum(place - (top[:, None] - 127), 0) | (bits >> np.uint32(24)) & 128, casting="unsafe")


@pack_signed.loop
def pack_signed(q, top, x, seed):
    salt = np.uint32(np.int64(seed) * GOLDEN)
    for i in range(q.shape[0]):
        largest = np.uint32(0)
        for j in range(q.shape[1]):
            largest = max(largest, np.float32(x[i, j]).view(np.uint32) & np.uint32(0x7FFFFFFF))
        top[i] = (largest >> np.uint32(MANTISSA)) + 1
        for j in range(q.shape[1]):
            bits = np.float32(x[i, j]).view(np.uint32)
            h = np.uint32((bits ^ salt) * np.uint32(MIX))
            h = np.uint32((h ^ (h >> np.uint32(15))) * np.uint32(GOLDEN))
            size = np.uint32(np.uint32(bits & np.uint32(0x7FFFFFFF)) + (h >> np.uint32(32 - MANTISSA)))
            place = np.int32(size >> np.uint32(MANTISSA)) - (top[i] - 127)
            q[i, j] = np.uint32(max(place, 0)) | (bits >> np.uint32(24)) & np.uint32(128)


@kernel
def unpack_unsigned(
    x: Out("blocks", "width"),
    q: In("blocks", "width", dtype="uint8", domain="code"),
    top: In("blocks", dtype="int32", domain="top"),
):
    """x <- the numbers of which q are codes: 0 for 0, else exponent and 3 bits of mantissa counted from those of the
    code 255, which are top."""
    code = q.astype(np.int32)
    bits = np.where(code == 0, 0, np.maximum(code + (top[:, None] - 255), 0) << MANTISSA)
    np.copyto(x, bits.astype(np.uint32).view(np.float32))


@unpack_unsigned.loop
def unpack_unsigned(x, q, top):
    for i in range(q.shape[0]):
        for j in range(q.shape[1]):
            code = np.int32(q[i, j])
            place = max(code + (top[i] - 255), 0)
            bits = np.uint32(place << MANTISSA) if code else np.uint32(0)
            x[i, j] = np.uint32(bits).view(np.float32)


@kernel
def pack_unsigned(
    q: Out("blocks", "width", dtype="uint8"),
    top: Out("blocks", dtype="int32"),
    x: In("blocks", "width", domain="nonnegative"),
    seed: float,
):
    """q <- codes of x >= 0, rounded stochastically, and top of each block; see `unpack_unsigned`. Numbers below 2^-32
    of
    the largest in a block become the smallest code above 0: a second moment is never less than it was."""
    bits = x.astype(np.float32).view(np.uint32)
    top[:] = (bits.max(axis=1) >> MANTISSA) + 1
    place = ((bits + (hashed(bits, seed) >> np.uint32(32 - MANTISSA))) >> np.uint32(MANTISSA)).astype(np.int32)
    np.copyto(q, np.where(bits == 0, 0, np.maximum(place - (top[:, None] - 255), 1)), casting="unsafe")


@pack_unsigned.loop
def pack_unsigned(q, top, x, seed):
    salt = np.uint32(np.int64(seed) * GOLDEN)
    for i in range(q.shape[0]):
        largest = np.uint32(0)
        for j in range(q.shape[1]):
            largest = max(largest, np.float32(x[i, j]).view(np.uint32))
        top[i] = (largest >> np.uint32(MANTISSA)) + 1
        for j in range(q.shape[1]):
            bits = np.float32(x[i, j]).view(np.uint32)
            h = np.uint32((bits ^ salt) * np.uint32(MIX))
            h = np.uint32((h ^ (h >> np.uint32(15))) * np.uint32(GOLDEN))
            place = np.int32(np.uint32(bits + (h >> np.uint32(32 - MANTISSA))) >> np.uint32(MANTISSA))
            q[i, j] = np.uint32(max(place - (top[i] - 255), 1)) if bits else np.uint32(0)
