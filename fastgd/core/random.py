"""Counter-based random numbers: hashes of counters, which do not depend on the order of generation. Salmon et al. 2011,
doi:10.1145/2063384.2063405. src_cython/core/random.h has the same functions."""

import numpy as np
import numpy.typing as npt

GOLDEN = 0x9E3779B1  # the fractional part of the golden ratio, as a prime: multiples of it spread evenly over 2^32
MIX = 0x85EBCA6B  # a round of MurmurHash3's last mixing (Appleby), so that the numbers of different steps are unrelated
# 2^64 over the golden ratio, odd: multiples of it spread evenly.
GOLDEN_64 = 0x9E3779B97F4A7C15
# The mixing of SplitMix64 (Steele, Lea & Flood 2014); the second factor of the last mixing of MurmurHash3 (Appleby).
MIX_64, LAST_MIX_64, LAST_MIX = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0xC2B2AE35


def mixed(z):
    """The mixing of SplitMix64, of an array of uint64."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(MIX_64)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(LAST_MIX_64)
    return z ^ (z >> np.uint64(31))


def hashes_of_rows(row: npt.NDArray[np.int64], key: float, step: float) -> npt.NDArray[np.uint64]:
    """64 random bits for each row. row: numbers of the rows; key, step: integers."""
    steps = np.array([int(step)], np.uint64) * np.uint64(GOLDEN_64)
    hashes: npt.NDArray[np.uint64] = mixed(
        mixed(np.uint64(int(key)) + steps) + row.astype(np.uint64) * np.uint64(GOLDEN_64)
    )
    return hashes


def key_of_layer(seed: int, path: str) -> float:
    """The key of a layer's random numbers: an integer below 2^53, which a double can hold."""
    key = np.array([seed], np.uint64)
    for number in path.split("."):
        key = mixed(key + np.array([int(number)], np.uint64) * np.uint64(GOLDEN_64))
    return float(key[0] >> np.uint64(11))
