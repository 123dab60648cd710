"""Addresses told by the names of their buffers."""

from bindings.memory import MemoryMap


def test_an_address_inside_a_range_is_its_name_and_offset():
    memory = MemoryMap()
    memory.add(0x10000, 0x100, "weights")
    memory.add(0x20000, 0x100, "pages")
    assert memory.describe(0x10000) == "weights"
    assert memory.describe(0x10040) == "weights+0x40"
    assert memory.describe(0x200FF) == "pages+0xff"


def test_an_address_just_behind_a_range_says_whose_end_it_passed():
    memory = MemoryMap()
    memory.add(0x10000, 0x100, "weights")
    assert memory.describe(0x10108) == "0x10108 (8 bytes past the end of weights)"


def test_unknown_addresses_are_hex():
    memory = MemoryMap()
    assert memory.describe(0) == "NULL"
    assert memory.describe(0x5000) == "0x5000"


def test_a_removed_range_is_told_as_freed_until_its_address_is_used_again():
    memory = MemoryMap()
    memory.add(0x10000, 0x100, "old")
    memory.remove(0x10000)
    assert memory.describe(0x10000) == memory.name_at(0x10000) == "freed old" and memory.live() == []
    assert memory.describe(0x10010) == "freed old+0x10" and memory.name_at(0x20000) is None
    memory.add(0x10000, 0x80, "new")
    assert memory.describe(0x10000) == memory.name_at(0x10000) == "new"
    assert memory.live() == [(0x10000, 0x80, "new")]
