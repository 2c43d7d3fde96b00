"""Checksums of several messages compared as one: sound messages match, damaged ones do not, in whatever way."""

import random
import zlib

import pytest
import torch

from tasks.models.loading.joint_checksum import JointChecksum

SIZES = [4, 5, 64, 1000, 4096]


def matches(messages: list[bytes], checksums: list[int], part_bytes: int) -> bool:
    joint = JointChecksum(checksums, part_bytes)
    for start in range(0, len(messages[0]), part_bytes):
        parts = [message[start : start + part_bytes] for message in messages]
        for member, part in enumerate(parts):
            joint.add(member, torch.frombuffer(bytearray(part), dtype=torch.uint8))
        joint.end_part(len(parts[0]))
    return joint.matches()


def random_messages(dice: random.Random, size: int) -> list[bytes]:
    return [dice.randbytes(size) for _ in range(dice.randint(1, 7))]


@pytest.mark.parametrize("size", SIZES)
def test_sound_messages_match_in_parts_of_any_size(size: int) -> None:
    dice = random.Random(size)
    for part_bytes in (4, 7, 64, 1000, 4096):
        messages = random_messages(dice, size)
        assert matches(messages, [zlib.crc32(message) for message in messages], part_bytes)


@pytest.mark.parametrize("size", SIZES)
def test_a_changed_bit_of_any_message_is_noticed(size: int) -> None:
    dice = random.Random(size)
    for _ in range(20):
        messages = random_messages(dice, size)
        checksums = [zlib.crc32(message) for message in messages]
        member, place = dice.randrange(len(messages)), dice.randrange(size)
        damaged = bytearray(messages[member])
        damaged[place] ^= 1 << dice.randrange(8)
        messages[member] = bytes(damaged)
        assert not matches(messages, checksums, 64)


@pytest.mark.parametrize("content", [random.Random(0).randbytes(4096), b"\x00\x00\x80\x3f" * 1024], ids=["any", "ones"])
@pytest.mark.parametrize("damaged", [[0, 1], [1, 3], [0, 1, 2, 3]])
def test_equal_damage_to_equal_messages_is_noticed(content: bytes, damaged: list[int]) -> None:
    """A hole of zeros at one place of several files that share frozen weights, for example."""
    hole = content[:512] + bytes(1024) + content[1536:]
    messages = [hole if member in damaged else content for member in range(4)]
    assert not matches(messages, [zlib.crc32(content)] * 4, 1000)


def test_checksums_in_another_order_do_not_match() -> None:
    messages = [b"one message", b"two message"]
    assert not matches(messages, [zlib.crc32(message) for message in reversed(messages)], 64)
