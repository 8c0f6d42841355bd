import pytest

from dvt.data import DataError, Skipped, check_skipped, count_skipped


@pytest.mark.parametrize(("count", "num_images"), [(0, 10), (1, 1000), (5, 5000)])
def test_up_to_a_thousandth_passes(count: int, num_images: int) -> None:
    check_skipped([Skipped(f"{index}.jpg", "corrupt") for index in range(count)], num_images)


def test_a_file_skipped_in_every_epoch_counts_once() -> None:
    check_skipped([Skipped("a.jpg", "empty")] * 50, 1000)


def test_more_is_an_error_with_count_share_limit_and_first_file() -> None:
    with pytest.raises(DataError) as raised:
        check_skipped({Skipped("/d/train/b.jpg", "empty"), Skipped("/d/train/a.jpg", "corrupt")}, 1000)
    assert str(raised.value) == (
        "2 of 1000 training images (0.20%) could not be read, more than the 0.1% that is let pass; "
        "the first is /d/train/a.jpg; replace or remove them"
    )


def test_one_file_of_few() -> None:
    with pytest.raises(DataError) as raised:
        check_skipped([Skipped("/d/train/a.jpg", "empty")], 300)
    assert str(raised.value) == (
        "1 of 300 training images (0.33%) could not be read, more than the 0.1% that is let pass; "
        "it is /d/train/a.jpg; replace or remove it"
    )


def test_skipped_images_are_counted_in_all_and_by_reason() -> None:
    skipped = [Skipped("a", "empty"), Skipped("b", "corrupt"), Skipped("c", "empty"), Skipped("a", "empty")]
    assert count_skipped(skipped) == {
        "data/skipped_images": 3,
        "data/skipped_images/corrupt": 1,
        "data/skipped_images/empty": 2,
    }
    assert count_skipped([]) == {"data/skipped_images": 0}
