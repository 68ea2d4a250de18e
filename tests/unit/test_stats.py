import math

import numpy as np
import pytest

from evals._stats import combine_seeds, exponential, holm, mean, minimum_detectable_difference, ratio, wilson


def test_the_standard_error_of_a_mean_is_deviation_over_root_n():
    estimate = mean([1.0, 0.0, 1.0, 1.0])
    assert (estimate.value, estimate.n) == (0.75, 4)
    assert estimate.stderr == pytest.approx(math.sqrt(0.75 * 0.25 / 3))


@pytest.mark.parametrize(("values", "value", "n"), [([], math.nan, 0), ([math.nan], math.nan, 0), ([2.0], 2.0, 1)])
def test_a_mean_of_too_little_has_no_standard_error(values, value, n):
    estimate = mean(values)
    assert estimate.n == n
    assert math.isnan(estimate.stderr)
    assert estimate.stderr_or_none is None
    assert estimate.value == value or (math.isnan(estimate.value) and math.isnan(value))


def test_a_ratio_weighs_clusters_by_their_counts():
    # By hand: r = 4 / 8; residuals 1 - .5, 0 - .5, 3 - 2.5, 0 - .5: squares sum to 1; sqrt(4/3 * 1) / 8.
    estimate = ratio([1, 0, 3, 0], [1, 1, 5, 1])
    assert estimate.value == 0.5
    assert estimate.stderr == pytest.approx(math.sqrt(4 / 3) / 8)


def test_clustering_widens_the_error_of_answers_that_stand_or_fall_together():
    alike = ratio([3, 0, 3, 0, 3, 0], [3] * 6).stderr
    assert alike == pytest.approx(mean([1, 0, 1, 0, 1, 0]).stderr)
    assert alike > 1.6 * mean([1, 1, 1, 0, 0, 0] * 3).stderr


def test_clusters_without_items_are_left_out():
    assert ratio([1, 0, 0, math.nan], [2, 2, 0, 1]) == ratio([1, 0], [2, 2])
    with pytest.raises(ValueError, match="same length"):
        ratio([1, 2], [1])


def test_the_error_of_an_exponential_is_scaled_by_it():
    estimate = exponential(mean([1.0, 2.0, 3.0]))
    assert estimate.value == pytest.approx(math.e**2)
    assert estimate.stderr == pytest.approx(math.e**2 / math.sqrt(3))
    assert exponential(mean([1e6, 1e6])).value == math.inf


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # Newcombe 1998, Statistics in Medicine 17:857-872, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_intervals_equal_published_ones(successes, n, low, high):
    interval = wilson(successes, n)
    assert (interval.low, interval.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_a_wilson_interval_stays_within_its_borders():
    assert wilson(5, 5).high == 1.0
    assert 0.5 < wilson(5, 5).low < 1
    assert (wilson(0, 0).low, wilson(0, 0).high) == (0.0, 1.0)
    with pytest.raises(ValueError, match="between 0 and n"):
        wilson(3, 2)


def test_holm_adjusts_step_down_and_keeps_order():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_counts_only_comparisons_that_were_made():
    adjusted = holm([0.01, math.nan, 0.04])
    assert adjusted[0] == pytest.approx(0.02)
    assert math.isnan(adjusted[1])


def test_the_detectable_difference_falls_with_root_n():
    assert minimum_detectable_difference(100, 1.0) == pytest.approx(0.2801585)
    assert minimum_detectable_difference(400, 1.0) == pytest.approx(0.2801585 / 2)
    assert math.isnan(minimum_detectable_difference(0, 1.0))


def test_a_difference_of_the_detectable_size_is_found_in_four_of_five_draws():
    rng = np.random.default_rng(0)
    size = minimum_detectable_difference(100, 1.0)
    draws = rng.normal(size, 1.0, size=(4000, 100)).mean(1) * 10
    assert (np.abs(draws) > 1.959964).mean() == pytest.approx(0.8, abs=0.02)


def test_seeds_give_a_student_interval_beside_the_error_of_the_items():
    seeds = combine_seeds([1.0, 2.0, 3.0], [0.3, 0.4, None])
    assert (seeds.value, seeds.deviation, seeds.k) == (2.0, 1.0, 3)
    assert seeds.high - seeds.value == pytest.approx(4.302653 / math.sqrt(3))
    assert seeds.item_stderr == pytest.approx(math.sqrt((0.09 + 0.16) / 2))


def test_one_seed_says_nothing_about_seeds():
    seeds = combine_seeds([0.5], [0.1])
    assert (seeds.value, seeds.k, seeds.item_stderr) == (0.5, 1, pytest.approx(0.1))
    assert math.isnan(seeds.low)
    assert math.isnan(combine_seeds([]).value)
