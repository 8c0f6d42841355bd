"""Rings, trees and buckets, worked by hand."""

import pytest

from dvt.train.all_reduce import Bucket, Link, all_reduce_s, exposed_s, make_buckets, ring_s, tree_s

MIB = 2**20


def test_a_ring_sends_each_byte_almost_twice() -> None:
    assert ring_s(8e9, 4, Link(1e9, 1e-3)) == pytest.approx(6 / 4 * 8 + 6 * 1e-3)
    assert ring_s(8e9, 1, Link(1e9, 1e-3)) == 0


def test_a_tree_has_fewer_messages() -> None:
    assert tree_s(1e9, 5, Link(1e9, 1e-3)) == pytest.approx(2 + 2 * 3 * 1e-3)
    assert tree_s(1e9, 1, Link(1e9, 1e-3)) == 0


def test_within_a_node_nothing_crosses_the_network() -> None:
    assert all_reduce_s(4e9, 1, 4, Link(4e9, 0), Link(1, 1)) == pytest.approx(1.5)


def test_the_fastest_way_over_nodes() -> None:
    fast, slow = Link(4e9, 0), Link(1e9, 0)
    assert all_reduce_s(4e9, 2, 4, fast, slow) == pytest.approx(1.5 + 4)  # one ring over all eight: 7
    assert all_reduce_s(4e9, 2, 4, Link(4e9, 10), slow) == pytest.approx(7)
    assert all_reduce_s(1e3, 64, 1, fast, Link(1e9, 1e-3)) == pytest.approx(2e-6 + 2 * 6 * 1e-3)  # a tree


def test_buckets_are_filled_in_the_order_of_the_backward_pass() -> None:
    assert make_buckets([(4 * MIB, 1.0), (2 * MIB, 3.0)], 3 * MIB) == [
        Bucket(1 * MIB, 0.25),
        Bucket(3 * MIB, 1.0),
        Bucket(2 * MIB, 4.0),
    ]
    assert make_buckets([(MIB / 2, 1.0)], 3 * MIB) == [Bucket(MIB / 2, 1.0)]


def test_what_of_the_exchange_the_backward_pass_does_not_hide() -> None:
    buckets = [Bucket(1, 0.25), Bucket(1, 1.0), Bucket(1, 4.0)]
    assert exposed_s(buckets, [1, 1, 1], 4.0) == 1  # only the last
    assert exposed_s(buckets, [0.5, 4, 1], 4.0) == 2  # it waits for the one before
    assert exposed_s(buckets, [0, 0, 0], 4.0) == 0
