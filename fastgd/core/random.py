"""Counter-based random numbers: hashes of counters, which do not depend on the order of generation. Salmon et al. 2011,
doi:10.1145/2063384.2063405. src_cython/core/random.h has the same functions."""

import numpy as np

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
