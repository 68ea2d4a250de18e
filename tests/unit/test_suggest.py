import pytest

from orchestrator.decide.suggest import did_you_mean, nearest, nearest_file


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


KEYS = [
    "train.epochs",
    "train.learning_rate",
    "train.global_batch",
    "train.warmup_ratio",
    "train.micro_batch",
    "train.accumulation",
    "train.lr_schedule",
    "train.save_every",
    "data.max_length",
    "data.bos",
]


@pytest.mark.parametrize(
    "name, expected",
    [
        ("lr", "train.learning_rate"),
        ("train.lr", "train.learning_rate"),
        ("batch-size", "train.global_batch"),
        ("num_train_epochs", "train.epochs"),
        ("train.max_seq_length", "data.max_length"),
        ("train.save_strategy", "train.save_every"),
        ("train.per_device_train_batch_size", "train.micro_batch"),
        ("train.gradient_accumulation_steps", "train.accumulation"),
        ("train.lr_scheduler_type", "train.lr_schedule"),
        ("train.warmup_steps", "train.warmup_ratio"),
        ("train.epohcs", "train.epochs"),
        ("trian.epohcs", "train.epochs"),
        ("train.bogus", None),
        ("train.max_lenght", "data.max_length"),
        ("data.xyz", None),
    ],
)
def test_names_of_other_tools_are_known_and_a_right_block_is_no_likeness(name, expected):
    assert nearest(name, KEYS) == expected


def test_a_name_that_exists_is_not_taken_for_that_of_another_tool():
    assert nearest("batch_size", ["batch_size", "global_batch"]) == "batch_size"
    assert "Did you mean data.max_length?" in did_you_mean("cutoff_len", ["epochs", "max_steps"], KEYS)
    assert "Did you mean learning_rate?" in did_you_mean("lr", ["epochs", "learning_rate"], KEYS)


def test_the_keys_of_its_block_are_listed_where_none_is_near():
    assert did_you_mean("data.xyz", KEYS) == "Valid: data.bos, data.max_length."


def test_files_of_one_ending_are_not_alike_for_that():
    assert nearest_file("zzz.jsonl", ["rows.jsonl"]) is None
    assert nearest_file("row.jsonl", ["other.jsonl", "rows.jsonl"]) == "rows.jsonl"
    assert nearest_file("rows.json", ["rows.jsonl"]) == "rows.jsonl"
