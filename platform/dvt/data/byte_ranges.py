"""What to ask for at once so that many byte ranges of objects come with few requests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dvt.data.bucket import StoredObject

MERGE_GAP = 256 * 1024  # bytes between two ranges that are rather read than asked for apart
MERGE_SIZE = 8 * 1024**2  # most bytes of ranges that are asked for together, so that the rest goes on beside them

Range = tuple[str, int, int | None]  # address, first byte, number of bytes; None is to the end
Part = tuple[int, int | None]  # first byte in a piece, number of bytes; None is to its end


@dataclass(frozen=True)
class Piece:
    """A stretch of an object that is asked for at once."""

    address: str
    offset: int
    size: int | None  # None is to the end
    places: tuple[int, ...]  # which of the ranges lie in it, or begin or end in it
    stored: StoredObject | None = None  # the object, where the stretch is a block of it for the cache


def merge_ranges(ranges: Sequence[Range], places: Sequence[int]) -> list[Piece]:
    """The ranges at `places`, those that lie near each other together, by address and offset."""
    pieces: list[Piece] = []
    for place in sorted(places, key=lambda place: ranges[place][:2]):
        address, offset, size = ranges[place]
        last = pieces[-1] if pieces else None
        if last is not None and last.address == address and last.size is not None and size is not None:
            end = max(last.offset + last.size, offset + size)
            if offset <= last.offset + last.size + MERGE_GAP and end - last.offset <= MERGE_SIZE:
                pieces[-1] = Piece(address, last.offset, end - last.offset, (*last.places, place))
                continue
        pieces.append(Piece(address, offset, size, (place,)))
    return pieces


def cover_with_blocks(
    ranges: Sequence[Range], places: Sequence[int], stored: Mapping[str, StoredObject], block_size: int
) -> list[Piece]:
    """The blocks that hold the ranges at `places`, by address and offset.

    Args:
        ranges: All ranges; those at `places` lie within their objects.
        places: Which are meant.
        stored: The object of each address.
        block_size: Bytes of a block; the last of an object may have fewer.
    """
    wanted: dict[tuple[str, int], list[int]] = {}
    for place in places:
        address, offset, size = ranges[place]
        end = stored[address].size if size is None else offset + size
        for block in range(offset // block_size, -(-end // block_size)):
            wanted.setdefault((address, block), []).append(place)
    return [
        Piece(
            address,
            block * block_size,
            min(block_size, stored[address].size - block * block_size),
            tuple(held),
            stored[address],
        )
        for (address, block), held in sorted(wanted.items())
    ]


def part_of(piece: Piece, wanted: Range) -> Part:
    """Where the part of a range that lies in a piece begins there, and its size; None is to the end."""
    _, offset, size = wanted
    start = max(offset - piece.offset, 0)
    if size is None or piece.size is None:
        return start, size
    return start, min(offset + size - piece.offset, piece.size) - start
