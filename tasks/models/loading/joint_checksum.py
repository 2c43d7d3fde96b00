"""Compares records of one size in several archives with their checksums, at the cost of one of them.

CRC-32 is linear: the checksum of a sum of messages (their XOR) follows from theirs. Each message is moved by some bytes
against the one before, so that equal damage to equal records does not cancel out.
"""

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor

SHIFT = 8  # bytes from one message to the next
ONES = 0xFFFFFFFF


class JointChecksum:
    """The sum of messages that are given part by part.

    Args:
        checksums: CRC-32 of each message, as zip archives have it. Messages have the same length.
        part_bytes: of the largest part; the first one has at least 4.
    """

    def __init__(self, checksums: Sequence[int], part_bytes: int) -> None:
        self._checksums = checksums
        self._rest = SHIFT * (len(checksums) - 1)  # by which the sum is longer than a message
        self._sum = torch.zeros(part_bytes + self._rest + SHIFT, dtype=torch.uint8)
        for member in range(len(checksums)):  # a register of ones at the beginning is a message that begins with ones
            self._sum[SHIFT * member :][:4] = 0xFF
        self._crc = ONES  # of the sum, from a register of zeros

    def add(self, member: int, part: Tensor) -> None:
        """Add the next part of a message, of the same size for all of them."""
        data = part.view(torch.uint8)
        self._sum[SHIFT * member :][: len(data)] ^= data

    def end_part(self, size: int) -> None:
        """Go on to the next part once all messages have this one, of `size` bytes."""
        self._crc = zlib.crc32(self._sum[:size].numpy().data, self._crc)
        rest = self._sum[size:][: self._rest].clone()
        self._sum[: size + self._rest] = 0
        self._sum[: self._rest] = rest

    def matches(self) -> bool:
        """Whether the messages, all of whose parts have been added, have their checksums."""
        total = zlib.crc32(self._sum[: self._rest].numpy().data, self._crc) ^ ONES
        for member, checksum in enumerate(self._checksums):
            total ^= zlib.crc32(bytes(self._rest - SHIFT * member), checksum) ^ ONES
        return total == 0
