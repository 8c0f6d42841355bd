"""The contact sheet: which images are chosen, and that each stands in its exit's column."""

import numpy as np
import pytest

from dvt.tracking.contact_sheet import (
    ContactSheet,
    ExampleRow,
    as_pixels,
    choose_examples,
    draw_contact_sheet,
    images_a_cell,
)


def test_only_correct_images_of_the_class_and_exit_are_chosen() -> None:
    generator = np.random.default_rng(0)
    labels, exits = generator.integers(10, size=400), generator.integers(3, size=400)
    correct = generator.random(400) < 0.7
    rows = choose_examples(labels, exits, correct, num_exits=3)
    assert len(rows) == 6
    assert [row.label for row in rows] == sorted({row.label for row in rows})
    for row in rows:
        for exit_index, chosen in enumerate(row.indices):
            assert len(set(chosen)) == len(chosen) == 4
            assert all(labels[index] == row.label and exits[index] == exit_index for index in chosen)
            assert correct[list(chosen)].all()
    assert rows == choose_examples(labels, exits, correct, num_exits=3)
    assert rows != choose_examples(labels, exits, correct, num_exits=3, seed=1)


def test_classes_with_images_at_more_exits_come_first() -> None:
    labels = np.repeat(np.arange(8), 4)
    exits = np.where((labels == 7) & (np.arange(32) % 2 == 1), 1, 0)
    rows = choose_examples(labels, exits, np.ones(32, dtype=bool), num_exits=2)
    assert len(rows) == 6
    assert [(row.label, [len(cell) for cell in row.indices]) for row in rows][-1] == (7, [2, 2])


def test_without_a_correct_image_there_is_no_row() -> None:
    nothing = np.zeros(3, dtype=np.int64)
    assert choose_examples(nothing, nothing, np.zeros(3, dtype=bool), num_exits=1) == ()


@pytest.mark.parametrize(("num_exits", "count"), [(1, 12), (2, 6), (3, 4), (5, 2), (13, 1)])
def test_a_row_holds_a_dozen_images(num_exits: int, count: int) -> None:
    assert images_a_cell(num_exits) == count


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("num_exits", [1, 2, 4])
def test_every_image_is_drawn_in_its_cell(num_exits: int, channels: int) -> None:
    count = images_a_cell(num_exits)
    cells = tuple(np.full((min(count, 1 + index), 8, 8, channels), 40 * index, np.uint8) for index in range(num_exits))
    headings = tuple((f"exit {index + 1}", "told") for index in range(num_exits))
    sheet = ContactSheet(
        "a title", headings, ("a cat with a name that is far too long to stand on one line",), (cells,), count
    )
    figure = draw_contact_sheet(sheet)
    assert len(figure.axes) == num_exits
    for index, axes in enumerate(figure.axes):
        drawn = [np.asarray(image.get_array()) for image in axes.images]
        assert len(drawn) == len(cells[index])
        assert all((array == 40 * index).all() and array.shape == (8, 8, 3) for array in drawn)
        assert len(axes.patches) == count - len(drawn)  # places that stay empty
    said = [text.get_text() for text in figure.texts]
    assert said[0] == "a title"
    assert "exit 1" in said
    figure.canvas.draw()


def test_pixels_are_as_before_normalising() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    normalised = ((pixels / 255 - mean) / std).astype(np.float32).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(as_pixels(normalised, mean, std), pixels)


def test_a_row_knows_its_images() -> None:
    assert ExampleRow(3, ((1,), ())) == ExampleRow(3, ((1,), ()))
