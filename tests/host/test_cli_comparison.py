"""The comparison that `verify` and `demo` report."""

from __future__ import annotations

import numpy as np
import pytest

from emberline.cli.comparison import Comparison, accuracy, batches, best_class, best_classes, compare, confidence


def codes(*values: int) -> np.ndarray:
    return np.array(values, np.int8)


def test_equal_runs_have_no_difference() -> None:
    run = [(codes(1, 2, 3),), (codes(4, 5, 6),)]
    assert compare(run, run) == Comparison(2, 6, 0, 0, 0)
    assert compare(run, run).equal


def test_differences_are_counted_per_value_and_per_image() -> None:
    ours = [(codes(1, 2, 3), codes(0)), (codes(4, 5, 6), codes(0)), (codes(7, 8, 9), codes(1))]
    reference = [(codes(1, 2, 3), codes(0)), (codes(4, 4, 8), codes(0)), (codes(7, 8, 9), codes(0))]
    assert compare(ours, reference) == Comparison(3, 12, 3, 2, 2)


def test_the_largest_difference_of_codes_does_not_wrap() -> None:
    assert compare([(codes(127),)], [(codes(-128),)]).max_abs_difference == 255


def test_shape_does_not_matter_but_size_does() -> None:
    assert compare([(codes(1, 2).reshape(1, 1, 2),)], [(codes(1, 2),)]).equal
    with pytest.raises(ValueError, match="frame 0 has 2 values in one run and 3 in the other"):
        compare([(codes(1, 2),)], [(codes(1, 2, 3),)])


def test_runs_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        compare([(codes(1),)], [])


def test_nothing_compared_is_no_difference() -> None:
    assert compare([], []) == Comparison(0, 0, 0, 0, 0)


def test_first_of_equal_scores_wins() -> None:
    assert best_class(codes(3, 7, 7, -1).reshape(1, 1, 4)) == 1


def test_accuracy_is_a_share() -> None:
    scores = [codes(1, 0), codes(0, 1), codes(1, 0), codes(0, 1)]
    assert accuracy(scores, [0, 1, 1, 1]) == 0.75
    assert accuracy([], []) == 0


def test_confidence_of_a_softmax_is_its_own_value() -> None:
    assert confidence(codes(-128, 64, -64), 1 / 256, -128, softmax=True) == 0.75


def test_confidence_of_real_scores_is_their_softmax() -> None:
    real = np.array([0.0, 2.0, 1.0])
    expected = np.exp(real).max() / np.exp(real).sum()
    assert confidence(codes(10, 14, 12), 0.5, 10, softmax=False) == pytest.approx(expected)


def test_batches_cover_everything_once() -> None:
    assert [list(range(10))[piece] for piece in batches(10, 4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert list(batches(0, 4)) == []


def test_best_classes_of_equal_scores_are_the_first() -> None:
    assert best_classes(codes(-128, 5, 127, 5, -128), 4) == [2, 1, 3, 0]
    assert accuracy([codes(-128, 5, 127, 5), codes(1, 2, 3, 4)], [3, 0], 3) == 0.5
