"""Calibration of stated probabilities, against hand-made bins."""

import math

import pytest

from evals._calibration import calibration, entropy, softmax


def test_the_expected_calibration_error_is_the_mean_gap_weighted_by_bin():
    # Bins of a tenth: (0.5, 0.6] holds two with one right, (0.8, 0.9] three with two right.
    found = calibration([0.55, 0.6, 0.85, 0.85, 0.9], [1, 0, 1, 1, 0], bins=10)
    gaps = (2 / 5) * abs(0.5 - 0.575) + (3 / 5) * abs(2 / 3 - (0.85 + 0.85 + 0.9) / 3)
    assert found.error == pytest.approx(gaps)
    assert [part.n for part in found.bins] == [0, 0, 0, 0, 0, 2, 0, 0, 3, 0]
    assert found.bins[5].confidence == pytest.approx(0.575)
    assert found.bins[5].accuracy == 0.5
    assert found.bins[0].accuracy is None
    assert sum(found.shares) / 5 == pytest.approx(found.error)


def test_a_confidence_on_an_edge_belongs_to_the_bin_below_it():
    assert [part.n for part in calibration([0.1, 0.3, 1.0], [1, 1, 1], bins=10).bins] == [1, 0, 1, 0, 0, 0, 0, 0, 0, 1]
    assert calibration([0.0], [0], bins=4).bins[0].n == 1


def test_sure_and_right_is_no_error_and_sure_and_wrong_is_all_of_it():
    assert calibration([1.0] * 4, [1] * 4).error == 0
    assert calibration([1.0] * 4, [0] * 4).error == 1


@pytest.mark.parametrize(("confidences", "correct", "bins"), [([], [], 10), ([0.5], [1, 0], 10), ([1.2], [1], 10)])
def test_what_is_no_confidence_is_refused(confidences, correct, bins):
    with pytest.raises(ValueError, match="confidences"):
        calibration(confidences, correct, bins)


def test_entropy_is_zero_for_a_sure_answer_and_log_n_for_equal_ones():
    assert entropy([1.0, 0.0, 0.0]) == 0
    assert entropy([0.25] * 4) == pytest.approx(math.log(4))
    assert softmax([-1000.0, -1000.0]) == [0.5, 0.5]
