"""What becomes of raw rows: roles, cleaning, rounds, and the reverse task."""

import pytest

from trainables.core.conversations import STATE_PREDICTOR, RowRefused, clean, conversation, is_single_turn, turns


def row(text: str) -> dict:
    """'u:hi a:ho' as a row; s, u, a are system, user, assistant."""
    names = {"s": "system", "u": "user", "a": "assistant"}
    return {"conversations": [{"role": names[part[0]], "content": part[2:]} for part in text.split() if part]}


def short(messages) -> str:
    return " ".join(f"{message['role'][0]}:{message['content']}" for message in messages)


@pytest.mark.parametrize("name, role", [
    ("human", "user"), ("user", "user"), ("gpt", "assistant"), ("assistant", "assistant"), ("bot", "assistant"),
    ("observation", "assistant"), ("system", "system"), ("Human", "user"), (" GPT ", "assistant"),
])  # fmt: skip
def test_a_role_name_is_mapped_in_either_layout(name, role):
    assert turns({"conversations": [{"from": name, "value": "x"}]}) == [{"role": role, "content": "x"}]
    assert turns({"messages": [{"role": name, "content": "x"}]}) == [{"role": role, "content": "x"}]


@pytest.mark.parametrize("given, kept", [
    ("u:1 a:2", "u:1 a:2"),
    ("s:0 u:1 a:2 u:3 a:4", "s:0 u:1 a:2 u:3 a:4"),
    ("a:0 u:1 a:2", "u:1 a:2"),
    ("a:0 s:1 a:2 u:3 a:4", "s:1 u:3 a:4"),
    ("u:1 u:2 a:3", "u:2 a:3"),
    ("u:1 a:2 a:3 u:4 a:5", "u:1 a:2 u:4 a:5"),
    ("u:1 a:2 u:3", "u:1 a:2"),
    ("u:1 a:2 u:3 u:4", "u:1 a:2"),
    ("s:0 s:1 u:2 a:3", "s:1 u:2 a:3"),
    ("u:1 a:2 s:3 u:4 a:5", "u:1 a:2 u:4 a:5"),
    ("u:1 s:2 a:3", "u:1 a:3"),
])  # fmt: skip
def test_turns_are_paired_into_rounds(given, kept):
    assert short(conversation(row(given))) == kept


@pytest.mark.parametrize("given", ["u:1", "s:0", "a:1", "s:0 u:1", "a:0 a:1 s:2 a:3", ""])
def test_a_row_without_a_whole_round_is_refused(given):
    with pytest.raises(RowRefused):
        conversation(row(given))


def test_max_rounds_keeps_the_first_rounds_and_the_system_message():
    given = row("s:0 u:1 a:2 u:3 a:4 u:5 a:6")
    assert short(conversation(given, max_rounds=2)) == "s:0 u:1 a:2 u:3 a:4"
    assert short(conversation(given, max_rounds=9)) == "s:0 u:1 a:2 u:3 a:4 u:5 a:6"


@pytest.mark.parametrize("blank", ["", "  \n", None])
def test_a_turn_without_text_is_as_if_it_were_not_there(blank):
    given = {"messages": [
        {"role": "system", "content": blank}, {"role": "user", "content": "a"}, {"role": "user", "content": blank},
        {"role": "assistant", "content": " b "}, {"role": "user", "content": "c"},
        {"role": "assistant", "content": blank},
    ]}  # fmt: skip
    assert conversation(given) == [{"role": "user", "content": "a"}, {"role": "assistant", "content": " b "}]


def test_text_parts_are_joined_and_other_parts_refuse_the_row():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert turns({"messages": [{"role": "user", "content": parts}]}) == [{"role": "user", "content": "ab"}]
    with pytest.raises(RowRefused, match="not text"):
        turns({"messages": [{"role": "user", "content": [{"type": "image", "url": "x"}]}]})


@pytest.mark.parametrize("bad, reason", [
    ({"messages": [{"role": "tool", "content": "x"}]}, "unknown role 'tool'"),
    ({"other": "x"}, "no `conversations`, `messages`, `instruction` or `text`"),
    ({"conversations": []}, "no `conversations`, `messages`, `instruction` or `text`"),
    ({"text": 3}, r"field 'text' is not text \(int\)"),
    ({"instruction": "a", "response": "b"}, "no field 'output' beside 'instruction'"),
    ({"instruction": "a", "input": ["b"], "output": "c"}, r"field 'input' is not text \(list\)"),
    (["x"], "not an object"),
    ({"messages": ["x"]}, "not an object"),
    ({"messages": [{"content": "x"}]}, "no role"),
    ({"messages": [{"role": "user", "content": 3}]}, "not text"),
])  # fmt: skip
def test_what_is_no_conversation_is_refused_with_its_reason(bad, reason):
    with pytest.raises(RowRefused, match=reason):
        conversation(bad)


def test_messages_are_read_where_conversations_is_empty():
    given = {"conversations": None, "messages": row("u:1 a:2")["conversations"]}
    assert short(conversation(given)) == "u:1 a:2"


@pytest.mark.parametrize("given, reverse, shown", [
    ("u:1 a:2", "auto", "a:2 u:1"),
    ("s:0 u:1 a:2", "auto", "s:0 a:2 u:1"),
    ("s:0 u:1 a:2 u:3 a:4", "auto", "s:0 u:1 a:2 u:3 a:4"),
    ("u:1 a:2 u:3", "auto", "s:P u:1 a:2 u:3"),
    ("u:1", "auto", "s:P u:1"),
    ("u:1 a:2", "in_order", "s:P u:1 a:2"),
    ("s:0 u:1 a:2", "in_order", "s:0 u:1 a:2"),
    ("u:1 a:2", "reorder", "a:2 u:1"),
    ("s:0 u:1 a:2 u:3 a:4 u:5", "reorder", "s:0 a:2 u:1 a:4 u:3 u:5"),
    ("u:1 u:2 a:3", "auto", "s:P u:2 a:3"),
    ("u:1 a:2 a:3", "auto", "s:P u:1 a:2"),
    ("a:1 u:2", "auto", "a:1 u:2"),
    ("s:0 a:1 u:2", "auto", "s:0 a:1 u:2"),
    ("a:1 s:0 u:2", "auto", "s:0 a:1 u:2"),
    ("u:1 s:0 a:2", "auto", "s:0 a:2 u:1"),
    ("s:0 a:1 u:2", "reorder", "s:0 a:1 u:2"),
    ("s:0 a:1 u:2", "in_order", "s:0 u:2"),
    ("s:0 s:1 a:2 u:3", "auto", "s:1 u:3"),
])  # fmt: skip
def test_the_reverse_task_orders_messages(given, reverse, shown):
    assert short(conversation(row(given), "user", reverse=reverse)) == shown.replace("P", STATE_PREDICTOR)


def test_single_turn_is_judged_on_the_row_as_given_not_after_max_rounds():
    given = row("u:1 a:2 u:3 a:4")
    assert short(conversation(given, "user", max_rounds=1)) == f"s:{STATE_PREDICTOR} u:1 a:2"
    assert not is_single_turn(turns(row("s:0 s:1 u:2 a:3")))
    assert is_single_turn(turns(row("s:0 u:2 a:3")))


def test_an_unanswered_user_turn_stays_in_reverse_while_there_is_room_for_a_round():
    given = turns(row("u:1 a:2 u:3"))
    assert short(clean(given, 2, keep_unanswered=True)) == "u:1 a:2 u:3"
    assert short(clean(given, 1, keep_unanswered=True)) == "u:1 a:2"
    assert short(clean(given, 2)) == "u:1 a:2"


def test_the_reverse_changes_nothing_when_the_assistant_or_all_is_trained():
    assert short(conversation(row("u:1 a:2"), "assistant", reverse="reorder")) == "u:1 a:2"
    assert short(conversation(row("u:1 a:2 u:3"), "all")) == "u:1 a:2"


def test_alpaca_rows_are_a_question_with_its_input_and_an_answer():
    asked = {"role": "user", "content": "Spell it.\n\nfreind"}
    answer = {"role": "assistant", "content": "friend"}
    row = {"instruction": "Spell it.", "input": "freind", "output": "friend"}
    assert conversation(row) == [asked, answer]
    for blank in ({"input": ""}, {"input": " \n"}, {"input": None}):
        assert conversation({**row, **blank}) == [{"role": "user", "content": "Spell it."}, answer]
    with pytest.raises(RowRefused, match="no user turn with an answer"):
        conversation({**row, "output": " "})


def test_a_text_is_one_message_that_no_role_speaks():
    assert conversation({"text": " a\n", "source": "x"}) == [{"role": "text", "content": " a\n"}]
    with pytest.raises(RowRefused, match="plain text has no user turn"):
        conversation({"text": "a"}, "user")
    assert turns({"text": "a", "messages": [{"role": "user", "content": "b"}]})[0]["role"] == "user"
