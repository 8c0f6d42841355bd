import pickle

import pytest

from dvt.data.names import Names

PLAIN = ("a/b.jpg", "", "ä/é.png", "odd\udcff.jpg")


@pytest.mark.parametrize("names", [PLAIN, (), ("",)])
def test_names_are_what_a_tuple_of_them_is(names: tuple[str, ...]) -> None:
    for kept in (Names(names), pickle.loads(pickle.dumps(Names(iter(names))))):  # noqa: S301  our own
        assert len(kept) == len(names)
        assert tuple(kept) == names
        assert kept[1:] == names[1:]
        assert [kept[-1 - index] for index in range(len(names))] == list(reversed(names))


@pytest.mark.parametrize("index", [4, -5])
def test_an_index_beyond_them_is_an_error(index: int) -> None:
    with pytest.raises(IndexError):
        Names(PLAIN)[index]
