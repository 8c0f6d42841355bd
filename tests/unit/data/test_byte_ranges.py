from dvt.data.bucket import StoredObject
from dvt.data.byte_ranges import MERGE_GAP, MERGE_SIZE, Piece, Range, cover_with_blocks, merge_ranges, part_of


def test_neighbours_are_asked_for_together() -> None:
    ranges: list[Range] = [("b", 0, 5), ("a", 100, 50), ("a", 10, 20), ("a", 150 + MERGE_GAP, 7), ("a", 20, 3)]
    assert merge_ranges(ranges, range(5)) == [
        Piece("a", 10, 147 + MERGE_GAP, (2, 4, 1, 3)),
        Piece("b", 0, 5, (0,)),
    ]


def test_what_lies_apart_is_not() -> None:
    ranges: list[Range] = [("a", 0, 10), ("a", 11 + MERGE_GAP, 10)]
    assert merge_ranges(ranges, (0, 1)) == [Piece("a", 0, 10, (0,)), Piece("a", 11 + MERGE_GAP, 10, (1,))]


def test_no_request_grows_without_end() -> None:
    half = MERGE_SIZE // 2
    ranges: list[Range] = [("a", 0, half), ("a", half, half), ("a", 2 * half, 1), ("a", 2 * half + 1, 2 * MERGE_SIZE)]
    assert [(piece.offset, piece.size) for piece in merge_ranges(ranges, range(4))] == [
        (0, MERGE_SIZE),
        (MERGE_SIZE, 1),
        (MERGE_SIZE + 1, 2 * MERGE_SIZE),
    ]


def test_whole_objects_and_other_places_stay_alone() -> None:
    ranges: list[Range] = [("a", 0, None), ("a", 0, 5), ("a", 5, 5)]
    assert merge_ranges(ranges, (0, 2)) == [Piece("a", 0, None, (0,)), Piece("a", 5, 5, (2,))]


def test_blocks_cover_ranges() -> None:
    a, b = StoredObject("a", 25, "1"), StoredObject("b", 8, "2")
    ranges: list[Range] = [("a", 12, 10), ("b", 0, None), ("a", 9, 1), ("a", 10, 0), ("a", 19, None), ("b", 1, 2)]
    assert cover_with_blocks(ranges, (0, 1, 2, 3, 4), {"a": a, "b": b}, 10) == [
        Piece("a", 0, 10, (2,), a),
        Piece("a", 10, 10, (0, 4), a),
        Piece("a", 20, 5, (0, 4), a),
        Piece("b", 0, 8, (1,), b),
    ]


def test_parts_of_a_piece() -> None:
    piece = Piece("a", 10, 10, (0,))
    assert part_of(piece, ("a", 12, 3)) == (2, 3)
    assert part_of(piece, ("a", 5, 7)) == (0, 2)
    assert part_of(piece, ("a", 15, 20)) == (5, 5)
    assert part_of(piece, ("a", 15, None)) == (5, None)
    assert part_of(Piece("a", 10, None, (0,)), ("a", 12, None)) == (2, None)
