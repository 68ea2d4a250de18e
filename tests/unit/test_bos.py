"""Exactly one BOS in front of every row: which token it is, and that nothing writes a second one."""

import pytest

from tests.unit.tiny_tokenizer import SPECIAL, TEMPLATES, tiny_tokenizer
from trainables._encoding import Encoder, encode_conversation
from trainables._export import with_bos
from trainables._preview import format_preview, preview_row
from trainables._settings import DataSettings
from trainables._tokenizer import bos_id, leading_ids, load_tokenizer, notes
from trainables.core.formats import parse_format

TALK = [{"role": "user", "content": "he"}, {"role": "assistant", "content": "hello"}]
NAMED = "<|end|>"


def encoder(tokenizer, **data):
    return Encoder(tokenizer, DataSettings(**{"path": "", "bos": "always", "max_length": 64, **data}))


@pytest.mark.parametrize("token", ["auto", NAMED])
@pytest.mark.parametrize("name", ["chatml", "trimmed", "inst"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_every_row_begins_with_exactly_one_bos_that_is_no_target(name, token, side):
    tokenizer = tiny_tokenizer(TEMPLATES[name])
    front = tokenizer.convert_tokens_to_ids("<s>" if token == "auto" else token)
    for length in (64, 12):
        made = encoder(tokenizer, bos_token=token, truncation_side=side, max_length=length, train_on="all").encode(TALK)
        ids = made.ids.tolist()
        assert ids[0] == front
        assert len(ids) <= length
        assert not made.targets[0]
        # The template's own BOS gives way, and no other stands behind it.
        assert tokenizer.bos_token_id not in ids[1:]
        assert front not in ids[1:2]


@pytest.mark.parametrize("token", ["auto", NAMED])
def test_a_text_without_roles_has_one_too(token):
    tokenizer = tiny_tokenizer(None)
    tokenizer.add_bos_token = True
    front = tokenizer.convert_tokens_to_ids("<s>" if token == "auto" else token)
    ids = encoder(tokenizer, bos_token=token).encode([{"role": "text", "content": "<s>hello"}]).ids.tolist()
    assert ids[0] == front
    assert tokenizer.bos_token_id not in ids[1:]


@pytest.mark.parametrize("token", ["auto", NAMED])
def test_a_format_has_one_too(token):
    tokenizer = tiny_tokenizer(None)
    form = parse_format("Q: {q}\nA: {a}")
    tokenizer.chat_template = form.template(True)
    row = form.messages({"q": "he", "a": "hello"})
    ids = encoder(tokenizer, bos_token=token, format="Q: {q}\nA: {a}").encode(row).ids.tolist()
    assert ids[0] == tokenizer.convert_tokens_to_ids("<s>" if token == "auto" else token)
    assert tokenizer.bos_token_id not in ids[1:]


def test_auto_takes_bos_then_eos_then_pad_and_says_so():
    for special, expected in ((SPECIAL, "<s>"), (SPECIAL[1:], "</s>"), (SPECIAL[2:], "<pad>")):
        tokenizer = tiny_tokenizer(TEMPLATES["chatml"], special=special)
        assert bos_id(tokenizer) == tokenizer.convert_tokens_to_ids(expected)
        said = [note for note in notes(tokenizer) if note.startswith("bos: ")]
        assert bool(said) == (expected != "<s>")
        assert all(repr(expected) in note for note in said)
    assert "bos: '<|end|>' (id" in " ".join(notes(tiny_tokenizer(TEMPLATES["chatml"]), NAMED))


@pytest.mark.parametrize("text", ["hello there", "<|nothing|>", "é"])
def test_a_text_that_is_not_one_token_is_refused(text):
    with pytest.raises(ValueError, match=r"data\.bos_token: .* is not one token .* \(it gives .*<s>.* or use auto"):
        bos_id(tiny_tokenizer(TEMPLATES["chatml"]), text)
    assert bos_id(tiny_tokenizer(TEMPLATES["chatml"]), "hello") is not None


def test_a_token_without_bos_always_would_be_ignored():
    with pytest.raises(ValueError, match=r"bos_token would be ignored with bos: template"):
        DataSettings(path="x", bos_token=NAMED)


@pytest.mark.parametrize(
    "ids, expected",
    [([5, 6], [9, 5, 6]), ([9, 5], [9, 5]), ([1, 5], [9, 5]), ([9, 1, 9, 5, 1], [9, 5, 1]), ([], [9])],
)
def test_a_prompt_of_an_eval_has_one_in_the_place_of_all_that_stand_there(ids, expected):
    assert with_bos(ids, (9, 1), "always") == expected
    assert with_bos(ids, (9, 1), "template") == ids


@pytest.mark.parametrize("token", ["auto", "<|end_story|>"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_of_a_real_tokenizer_it_is_never_doubled_and_never_cut_off(shared_file, token, side):
    tokenizer = load_tokenizer(shared_file("tinystories-656k"), "file")
    front = bos_id(tokenizer, token)
    said = "Once upon a time there was a dog. " * 5
    talks = [
        [{"role": "user", "content": said}, {"role": "assistant", "content": said}],
        [{"role": "text", "content": tokenizer.convert_ids_to_tokens(front) + said}],
    ]
    for talk in talks:
        for length in (512, 24):
            made = encoder(tokenizer, bos_token=token, truncation_side=side, max_length=length, train_on="all").encode(
                talk
            )
            ids = made.ids.tolist()
            assert ids[0] == front
            assert not made.targets[0]
            assert not {front, tokenizer.bos_token_id} & set(ids[1:2])
            assert 1 < len(ids) <= length
    assert len(ids) == 24


def test_the_study_of_phi_3_is_reproduced_by_naming_its_token(shared_file):
    tokenizer = load_tokenizer(shared_file("phi-3-mini-tokenizer"), "file")
    assert (bos_id(tokenizer), bos_id(tokenizer, "<|endoftext|>")) == (1, 32000)
    assert leading_ids(tokenizer, "<|endoftext|>") == (32000, 1)
    for token, front in (("auto", 1), ("<|endoftext|>", 32000)):
        found = encode_conversation(TALK, tokenizer, bos="always", bos_token=token).input_ids
        assert found[0] == front
        assert not {1, 32000} & set(found[1:2])


def test_the_preview_shows_the_token_that_stands_in_front():
    tokenizer = tiny_tokenizer(TEMPLATES["trimmed"])
    made = encoder(tokenizer, bos_token=NAMED).encode(TALK)
    row = preview_row(made, tokenizer, 0, bos=bos_id(tokenizer, NAMED))
    assert row["bos"] == {"id": bos_id(tokenizer, NAMED), "token": NAMED, "position": 0, "label": -100}
    assert f"BOS: {NAMED} (id {row['bos']['id']}), label -100" in format_preview([row])
