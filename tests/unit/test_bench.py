from bench.gpu import WARMUP, Case, lines, speed


def test_the_speed_of_a_training_is_that_of_its_steps_after_the_first():
    slow = [{"tokens": 100, "seconds": 10.0 * (place + 1)} for place in range(WARMUP)]
    fast = [{"tokens": 100, "seconds": 10.0 * WARMUP + place + 1} for place in range(4)]
    assert speed(slow + fast) == 100


def test_a_pair_is_told_by_the_ratios_of_its_medians():
    one, other = Case("one", "sft"), Case("other", "lora")
    found = {
        one: [{"tokens_per_second": value, "peak_bytes": 4e6, "trainable": 10} for value in (9, 10, 50)],
        other: [{"tokens_per_second": 20, "peak_bytes": 1e6, "trainable": 1}],
    }
    assert lines([(one, other)], found)[-1].split()[-2:] == ["2.00", "0.25"]
