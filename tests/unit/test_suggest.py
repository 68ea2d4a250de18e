import pytest

from orchestrator.decide.suggest import did_you_mean, nearest


@pytest.mark.parametrize(
    "name, valid, expected",
    [
        ("learning-rate", ["learning_rate", "epochs"], "learning_rate"),
        ("Epochs", ["learning_rate", "epochs"], "epochs"),
        ("lerning_rate", ["learning_rate", "epochs"], "learning_rate"),
        ("learning_rate", ["train.learning_rate", "train.epochs"], "train.learning_rate"),
        ("xyz", ["learning_rate", "epochs"], None),
        ("xyz", [], None),
    ],
)
def test_the_nearest_name_is_found(name, valid, expected):
    assert nearest(name, valid) == expected


def test_where_nothing_is_near_the_valid_names_are_listed():
    assert did_you_mean("xyz", ["b", "a"]) == "Valid: a, b."
    assert did_you_mean("xyz", [f"n{number:02}" for number in range(20)]).endswith("and 8 more.")
    assert did_you_mean("xyz", []) == "Nothing is valid here."


def test_the_right_name_in_another_block_is_pointed_to():
    assert "Did you mean data.max_length?" in did_you_mean("max_length", ["epochs"], ["data.max_length"])
