import pytest

from orchestrator.decide.estimate import training_rows


@pytest.mark.parametrize(
    "rows, heldout, left",
    [(100, 0.05, 95), (100, 0.0, 100), (3, 0.05, 2), (1, 0.5, 1), (10, 0.99, 1), (None, 0.05, None)],
)
def test_some_rows_are_held_out_but_never_all(rows, heldout, left):
    assert training_rows(rows, heldout) == left


def test_held_out_rows_are_counted_as_the_data_does():
    from trainables._data import heldout_split

    for rows in (1, 2, 3, 10, 99, 1000):
        for share in (0.0, 0.01, 0.05, 0.5, 0.99):
            assert training_rows(rows, share) == len(heldout_split(rows, share, 0)[0])
