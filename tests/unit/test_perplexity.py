import json
import math

import pytest
import torch
from pydantic import ValidationError

from evals import perplexity
from evals._types import DataError, Encoded
from tests.tiny_subject import tiny_subject

ROWS = [
    {"conversations": [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Hi, how are you?"}]},
    {"messages": [{"role": "user", "content": "Go"}, {"role": "assistant", "content": "No."}], "id": 7},
    {"conversations": [{"from": "human", "value": "Name a fish."}, {"from": "gpt", "value": "Größe: ein Hecht"}]},
    {"conversations": [{"role": "user", "content": "Nobody answers me"}]},
]


@pytest.fixture(scope="module")
def subject():
    return tiny_subject()


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ROWS))
    return path


def plain(subject, encoded):
    """Sum of negative log-likelihoods of the counted tokens, token by token in float64."""
    total = 0.0
    for i in range(1, len(encoded.input_ids)):
        if encoded.counts[i]:
            with torch.inference_mode():
                logits = subject.model(torch.tensor([encoded.input_ids[:i]])).logits[0, -1].double()
            total -= float(torch.log_softmax(logits, -1)[encoded.input_ids[i]])
    return total


def encodings(subject, role, **kwargs):
    from evals._rows import arranged, messages_of

    return [subject.encode(arranged(messages_of(row, "row"), role), role, **kwargs) for row in ROWS]


@pytest.mark.parametrize("batch_size", [1, 2, 8])
@pytest.mark.parametrize("role", ["assistant", "user", "all"])
def test_perplexity_equals_a_plain_loop_in_float64(subject, data, tmp_path, role, batch_size):
    config = perplexity.Config(roles=[role], batch_size=batch_size)
    result = perplexity.run(subject, config, data, tmp_path)
    rows = encodings(subject, role)
    tokens = sum(sum(row.counts[1:]) for row in rows)
    metric = result.metrics[f"perplexity/{role}"]
    assert metric.n == tokens
    assert math.log(metric.value) == pytest.approx(sum(plain(subject, row) for row in rows) / tokens, abs=1e-5)


def test_each_row_is_kept_for_pairing(subject, data, tmp_path):
    result = perplexity.run(subject, perplexity.Config(), data, tmp_path)
    rows = encodings(subject, "assistant")
    assert [sample["key"] for sample in result.samples] == ["0", "1", "2"], "the row without an answer has no score"
    for sample, row in zip(result.samples, rows, strict=False):
        assert sample["assistant"]["nll"] == pytest.approx(plain(subject, row), abs=1e-5)
        assert sample["assistant"]["tokens"] == sum(row.counts)
    assert result.tables["rows"] == {"read": 4, "assistant": {"rows": 3, "refused": {}}}


def test_the_standard_error_is_that_of_the_ratio_over_rows(subject, data, tmp_path):
    result = perplexity.run(subject, perplexity.Config(), data, tmp_path)
    nll = [sample["assistant"]["nll"] for sample in result.samples]
    count = [sample["assistant"]["tokens"] for sample in result.samples]
    mean = sum(nll) / sum(count)
    spread = sum((s - mean * c) ** 2 for s, c in zip(nll, count, strict=True))
    expected = math.exp(mean) * math.sqrt(3 / 2 * spread) / sum(count)
    assert result.metrics["perplexity/assistant"].stderr == pytest.approx(expected, rel=1e-9)


def test_bits_per_byte_divide_by_the_bytes_of_the_text(subject, data, tmp_path):
    result = perplexity.run(subject, perplexity.Config(), data, tmp_path)
    nll = sum(sample["assistant"]["nll"] for sample in result.samples)
    size = sum(len(text.encode()) for text in ("Hi, how are you?", "No.", "Größe: ein Hecht"))
    assert result.metrics["perplexity/assistant_bits_per_byte"].value == pytest.approx(nll / math.log(2) / size)


def test_a_uniform_model_has_the_vocabulary_as_perplexity(data, tmp_path):
    subject = tiny_subject()
    with torch.no_grad():
        subject.model.lm_head.weight.zero_()
    metric = perplexity.run(subject, perplexity.Config(roles=("all",)), data, tmp_path).metrics["perplexity/all"]
    assert metric.value == pytest.approx(len(subject.tokenizer), rel=1e-6)
    assert metric.stderr == pytest.approx(0, abs=1e-6)


def test_the_first_token_of_a_row_is_never_counted(subject):
    row = Encoded([1, 20, 21], [True, True, True])
    assert perplexity.row_sums(subject, [row], 4)[0][1] == 2
    assert perplexity.counted_text(subject.tokenizer, row) == subject.tokenizer.decode([20, 21])


def test_mask_span_and_length_reach_the_subject(subject, data, tmp_path):
    content = perplexity.run(subject, perplexity.Config(), data, tmp_path).metrics["perplexity/assistant"]
    message = perplexity.run(subject, perplexity.Config(mask_span="message"), data, tmp_path)
    short = perplexity.run(subject, perplexity.Config(roles=("all",), max_length=20), data, tmp_path)
    assert message.metrics["perplexity/assistant"].n > content.n
    assert 0 < short.metrics["perplexity/all"].n < 20 * 4


def test_the_users_turns_are_scored_in_the_order_that_the_reverse_task_shows(subject, tmp_path):
    path = tmp_path / "one.jsonl"
    path.write_text(json.dumps(ROWS[0]))
    user, assistant = ROWS[0]["conversations"]
    found = perplexity.run(subject, perplexity.Config(roles=("user",)), path, tmp_path).samples[0]["user"]["nll"]
    assert found == pytest.approx(plain(subject, subject.encode([assistant, user], "user")), abs=1e-5)
    in_order = perplexity.Config(roles=("user",), reverse="in_order")
    found = perplexity.run(subject, in_order, path, tmp_path).samples[0]["user"]["nll"]
    system = {"role": "system", "content": "You are a good state predictor."}
    assert found == pytest.approx(plain(subject, subject.encode([system, user, assistant], "user")), abs=1e-5)


SHAPES = [
    "ua", "sua", "au", "sau", "asu", "usa", "uua", "uaa", "suua", "uaua", "uau", "suauau", "u",
    "s", "a", "su", "ssua", "ssau", "uuau", "uasua", "uuaauua", "aua", "auau", "uaus", "auua", "sasua",
]  # fmt: skip
"""Rows by their roles, one letter a turn."""


def shaped(roles):
    names = {"s": "system", "u": "user", "a": "assistant"}
    return {"messages": [{"role": names[role], "content": f"{role}{i}"} for i, role in enumerate(roles)]}


def trained(row, *rest):
    from trainables.core.conversations import RowRefused, conversation

    try:
        return conversation(row, *rest)
    except RowRefused:
        return []


@pytest.mark.parametrize("reverse", ["auto", "reorder", "in_order"])
@pytest.mark.parametrize("role", ["assistant", "user", "all"])
@pytest.mark.parametrize("roles", SHAPES)
def test_a_row_is_arranged_as_training_arranges_it(roles, role, reverse):
    from evals._rows import arranged, messages_of

    row = shaped(roles)
    assert arranged(messages_of(row, "row"), role, reverse) == trained(row, role, None, reverse)


@pytest.mark.parametrize("reverse", ["auto", "reorder", "in_order"])
@pytest.mark.parametrize("role", ["assistant", "user", "all"])
@pytest.mark.parametrize("max_rounds", [None, 1, 2])
def test_a_heldout_row_is_arranged_as_training_arranges_it(tmp_path, role, reverse, max_rounds):
    from evals._rows import arranged, read_conversations
    from trainables._data import heldout_conversations
    from trainables._settings import DataSettings

    for number, roles in enumerate(SHAPES):
        if "u" not in roles:
            continue
        path, held = tmp_path / f"{number}.jsonl", tmp_path / f"{number}-held.jsonl"
        path.write_text(f"{json.dumps(shaped(roles))}\n" * 2)
        (row,) = heldout_conversations(DataSettings(path=str(path), max_rounds=max_rounds))
        held.write_text(json.dumps(row))
        (read,) = read_conversations(held)
        assert read.single_turn is not None
        shown = arranged(read.messages, role, reverse, read.single_turn)
        assert shown == trained(shaped(roles), role, max_rounds, reverse), roles


def test_real_conversations_are_cleaned_and_arranged_as_training_does_it(shared_file):
    from evals import _rows
    from trainables._rows import read_rows
    from trainables._settings import DataSettings
    from trainables.core import conversations

    rows = [row for name in ("oasst", "sharegpt") for row in read_rows(DataSettings(path=str(shared_file(name))))]
    assert len(rows) > 700
    singles = 0
    for row in rows:
        given, read = conversations.turns(row), _rows.messages_of(row, "row")
        assert read == given
        singles += _rows.is_single_turn(read)
        assert _rows.is_single_turn(read) == conversations.is_single_turn(given)
        for keep in (False, True):
            assert _rows.clean(read, keep) == conversations.clean(given, keep_unanswered=keep)
        for role in ("assistant", "user", "all"):
            for reverse in ("auto", "reorder", "in_order"):
                assert _rows.arranged(read, role, reverse) == trained(row, role, None, reverse)
    assert singles > 20


def test_what_a_row_says_of_itself_goes_before_what_it_looks_like(subject, tmp_path):
    path = tmp_path / "rows.jsonl"
    user, assistant = ROWS[0]["conversations"]
    path.write_text(json.dumps({**ROWS[0], "single_turn": False}))
    found = perplexity.run(subject, perplexity.Config(roles=("user",)), path, tmp_path).samples[0]["user"]["nll"]
    system = {"role": "system", "content": "You are a good state predictor."}
    assert found == pytest.approx(plain(subject, subject.encode([system, user, assistant], "user")), abs=1e-5)


def test_rows_that_a_template_refuses_are_left_out_and_counted(data, tmp_path):
    subject = tiny_subject()
    real = subject.encode

    def picky(messages, *rest):
        if len(messages[-1]["content"]) < 4:
            raise ValueError("roles must alternate")
        return real(messages, *rest)

    subject.encode = picky
    result = perplexity.run(subject, perplexity.Config(), data, tmp_path)
    assert [sample["key"] for sample in result.samples] == ["0", "2"]
    assert result.tables["rows"]["assistant"] == {"rows": 2, "refused": {"roles must alternate": 1}}
    subject.encode = lambda *_: picky([{"content": ""}])
    with pytest.raises(DataError, match=r"to score \(roles must alternate\)"):
        perplexity.run(subject, perplexity.Config(), data, tmp_path)


def test_a_role_that_never_speaks_is_an_error(subject, tmp_path):
    path = tmp_path / "users.jsonl"
    path.write_text(json.dumps({"messages": [{"role": "user", "content": "Hello"}]}))
    with pytest.raises(DataError, match=r"users\.jsonl: none of its 1 rows has a token of role 'assistant'"):
        perplexity.run(subject, perplexity.Config(), path, tmp_path)
    with pytest.raises(DataError, match="must be `heldout` or a file"):
        perplexity.run(subject, perplexity.Config(data="some/hub"), None, tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"messages": [', "line 1 is not valid JSON"),
        ('{"messages": []}\n[1]\n', "row 2 must be an object"),
        ('{"other": "x"}', r"row 1: must have a list `conversations` or `messages`, .* \(got the keys \['other'\]\)"),
        ('{"messages": [{"role": "robot", "content": "x"}]}', "row 1, turn 1: must have a role out of"),
        ("", "holds no rows"),
    ],
)
def test_a_bad_file_says_what_and_where(subject, tmp_path, text, message):
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        perplexity.run(subject, perplexity.Config(), path, tmp_path)


def test_an_absent_file_is_named(subject, tmp_path):
    with pytest.raises(DataError, match=r"nothing\.jsonl: cannot be read"):
        perplexity.run(subject, perplexity.Config(), tmp_path / "nothing.jsonl", tmp_path)


def test_a_role_named_twice_is_refused():
    with pytest.raises(ValidationError, match="each role once"):
        perplexity.Config(roles=("user", "user"))
    assert set(perplexity.metrics(perplexity.Config(roles=("user", "all")))) == {
        "perplexity/user",
        "perplexity/user_bits_per_byte",
        "perplexity/all",
        "perplexity/all_bits_per_byte",
    }


def test_a_line_separator_inside_a_text_ends_no_row(tmp_path):
    from evals._rows import read_conversations

    path = tmp_path / "rows.jsonl"
    row = {"messages": [{"role": "user", "content": "one\u2028two"}]}
    path.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert read_conversations(path)[0].messages[0]["content"] == "one\u2028two"


def test_keys_fall_back_to_numbers_unless_every_row_has_its_own():
    from evals._rows import keys_of

    assert keys_of([{"id": "a"}, {"id": "b"}]) == ["a", "b"]
    assert keys_of([{"id": "a"}, {"id": "a"}]) == ["0", "1"]
    assert keys_of([{"id": "a"}, {}]) == ["0", "1"]
    assert keys_of([{"key": 3, "id": "a"}, {"key": 4, "id": "a"}]) == ["3", "4"]


def test_json_arrays_and_parquet_and_folders_are_read_alike(tmp_path):
    import pyarrow
    import pyarrow.parquet

    from evals._rows import read_conversations

    rows = [{"conversations": ROWS[0]["conversations"]}]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "b.parquet")
    one, two = read_conversations(tmp_path / "a.json"), read_conversations(tmp_path / "b.parquet")
    assert one == two
    assert [row.messages for row in read_conversations(tmp_path)] == [one[0].messages] * 2
