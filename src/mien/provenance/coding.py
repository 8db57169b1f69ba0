"""The bits of the watermark: payload, check, convolutional code, and how sure a find is.

A payload of 36 bits (version and output id) and a check of 12 become 224 coded bits: the
convolutional code of rate 1/4 and constraint length 9 of Proakis, *Digital Communications*,
table 8.2-3 (generators 463, 535, 733, 745 octal, free distance 24), ended with zeros and decoded
from soft values (Viterbi 1967).
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mien.types import Floats

VERSION_BITS, ID_BITS, CHECK_BITS = 4, 32, 12
PAYLOAD_BITS = VERSION_BITS + ID_BITS
MEMORY = 8
GENERATORS = (0o463, 0o535, 0o733, 0o745)
STEPS = PAYLOAD_BITS + CHECK_BITS + MEMORY
CODED = STEPS * len(GENERATORS)
"""Coded bits of a watermark."""

_CHECK = 0x80F  # x^12 + x^11 + x^3 + x^2 + x + 1, the CRC-12 of telephony


class Message(NamedTuple):
    """What soft values were decoded to.

    Attributes:
        version: 0..15.
        output_id: 0..2^32-1.
        likeness: Cosine between the soft values and the message's code, -1..1.
    """

    version: int
    output_id: int
    likeness: float


def encode(version: int, output_id: int) -> Floats:
    """Return the ``(CODED,)`` code of a payload, each value 1 or -1."""
    bits = _bits(version << ID_BITS | output_id, PAYLOAD_BITS)
    register, coded, table = 0, [], _table()
    for bit in bits + _bits(_check(bits), CHECK_BITS) + [0] * MEMORY:
        register = (register << 1 | bit) & (2 ** (MEMORY + 1) - 1)
        coded.append(table[:, register])
    return np.concatenate(coded)


def decode(soft: Floats) -> Message | None:
    """Return the likeliest message of ``(CODED,)`` soft values, None if its check fails."""
    states = 2**MEMORY
    metric = np.full(states, -np.inf, np.float32)
    metric[0] = 0
    branches = soft.reshape(STEPS, -1) @ _table()
    came = np.empty((STEPS, states), bool)
    for step in range(STEPS):
        # A register is the state before and the new bit, so two registers end in each state.
        low, high = (np.repeat(metric, 2) + branches[step]).reshape(2, states)
        came[step] = high > low
        metric = np.maximum(low, high)
    state, bits = 0, []
    for step in range(STEPS - 1, -1, -1):
        bits.append(state & 1)
        state = (int(came[step, state]) << MEMORY | state) >> 1
    bits.reverse()
    payload = bits[:PAYLOAD_BITS]
    if _number(bits[PAYLOAD_BITS : PAYLOAD_BITS + CHECK_BITS]) != _check(payload):
        return None
    value = _number(payload)
    version, output_id = value >> ID_BITS, value & (2**ID_BITS - 1)
    norm = float(np.linalg.norm(soft)) * math.sqrt(CODED)
    likeness = float(encode(version, output_id) @ soft) / norm if norm else 0.0
    return Message(version, output_id, likeness)


def cap_log10(likeness: float) -> float:
    """Bound the share of the sphere of ``CODED`` dimensions this near to one direction, as log10.

    The cap's integral with t/c ≥ 1 put inside, c the cosine:
    (1 - c²)^((n-1)/2) / (c (n-1)) × Γ(n/2) / (√π Γ((n-1)/2)).
    """
    n = CODED
    cap = (
        math.lgamma(n / 2)
        - math.lgamma((n - 1) / 2)
        - math.log(math.sqrt(math.pi) * likeness * (n - 1))
        + (n - 1) / 2 * math.log(max(1 - likeness**2, 1e-12))
    )
    return cap / math.log(10)


def false_alarm_log10(likeness: float, alignments: int) -> float:
    """Bound the probability that what carries no watermark looks this much like one, as log10.

    Without a watermark the pseudo-random signs make the direction of the soft values uniform on
    the sphere, so :func:`cap_log10` is the probability for one payload at one placement. All
    payloads and all placements that were tried are counted (union bound), so it holds for the
    best of them.

    Args:
        likeness: Cosine between soft values and code.
        alignments: How many placements of the pattern were tried.
    """
    if likeness <= 0:
        return 0.0
    counted = PAYLOAD_BITS * math.log10(2) + math.log10(alignments)
    return min(0.0, cap_log10(likeness) + counted)


@cache
def _table() -> Floats:
    """The ``(4, 512)`` coded bits of each register, 1 for a zero and -1 for a one."""
    registers = np.arange(2 ** (MEMORY + 1))
    odd = [np.bitwise_count(registers & generator) & 1 for generator in GENERATORS]
    table: NDArray[np.float32] = (1 - 2 * np.stack(odd).astype(np.float32)).astype(np.float32)
    return table


def _check(bits: list[int]) -> int:
    """The remainder, begun with ones so that a payload of zeros has a check, too."""
    top: int = 2**CHECK_BITS - 1
    register = top
    for bit in bits:
        out = register >> (CHECK_BITS - 1) ^ bit
        register = register << 1 & top
        register ^= _CHECK if out else 0
    return register


def _bits(value: int, count: int) -> list[int]:
    return [value >> place & 1 for place in range(count - 1, -1, -1)]


def _number(bits: list[int]) -> int:
    return int("".join(map(str, bits)), 2)
