import pytest

from orchestrator.decide.identity import digest, eval_id, result_fields
from tests.unit.sweep_stand_ins import LoraConfig, QuizConfig
from trainables._settings import Settings

ARGUMENTS = {
    "export_hash": "e", "name": "quiz", "config": QuizConfig(), "data_hash": "d", "version": 1, "harness": "h 1",
    "dtype": "auto", "seed": 0,
}  # fmt: skip


def test_ids_are_sixteen_hex_digits_that_do_not_depend_on_the_order_of_keys():
    assert digest({"a": 1, "b": [1.5, None]}) == digest({"b": [1.5, None], "a": 1})
    assert len(digest({})) == 16
    int(digest({}), 16)


def test_one_one_point_zero_and_true_are_three_values():
    assert len({digest(1), digest(1.0), digest(True)}) == 3


def test_execution_fields_stay_out_unless_they_are_named():
    assert result_fields(LoraConfig(rank=4, alpha=2, log_gradients=True), at="lora") == {"rank": 4, "alpha": 2.0}
    assert "log_gradients" in result_fields(LoraConfig(), ["lora.log_gradients"], "lora")


def test_blocks_inside_blocks_are_told_apart_too():
    class Outer(Settings):
        inner: LoraConfig = LoraConfig()

    assert result_fields(Outer()) == {}
    assert result_fields(Outer(inner=LoraConfig(rank=4))) == {"inner": {"rank": 4}}
    assert "log_gradients" in result_fields(Outer(), ["x.inner.log_gradients"], "x")["inner"]


@pytest.mark.parametrize(
    "change",
    [
        {"export_hash": "f"}, {"name": "other"}, {"config": QuizConfig(limit=3)}, {"data_hash": "c"}, {"version": 2},
        {"harness": "h 2"}, {"dtype": "bfloat16"}, {"seed": 1},
    ],
    ids=str,
)  # fmt: skip
def test_all_that_changes_a_score_changes_the_eval_id(change):
    assert eval_id(**{**ARGUMENTS, **change}) != eval_id(**ARGUMENTS)


@pytest.mark.parametrize("config", [QuizConfig(batch_size=64), QuizConfig(data="moved.jsonl")], ids=str)
def test_neither_the_batch_size_nor_the_place_of_the_data_changes_the_eval_id(config):
    assert eval_id(**{**ARGUMENTS, "config": config}) == eval_id(**ARGUMENTS)


def test_data_without_a_hash_is_known_by_its_name():
    named = {**ARGUMENTS, "data_hash": ""}
    assert eval_id(**named) != eval_id(**{**named, "config": QuizConfig(data="moved.jsonl")})
