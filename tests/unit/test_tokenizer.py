"""Loading tokenizers in both modes, their templates, stop tokens and probe."""

import json

import pytest
from tiny_tokenizer import TEMPLATES, tiny_tokenizer

from trainables._tokenizer import (
    CHATML,
    PROBE,
    bos_id,
    edges,
    load_tokenizer,
    notes,
    probe,
    probe_difference,
    stop_token_ids,
    tokenizer_hash,
)

REAL = ["smollm2-135m-tokenizer", "phi-3-mini-tokenizer", "tinystories-656k"]
MESSAGES = [{"role": "user", "content": " hi \n"}, {"role": "assistant", "content": "yo"}]


def ids(tokenizer, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.fixture
def folder(tmp_path):
    """A saved tokenizer without a template."""
    tiny_tokenizer(None).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_chatml_has_no_default_system_message_no_bos_and_a_generation_prompt(folder):
    tokenizer = load_tokenizer(folder, "file")
    whole = "<|im_start|>user\n hi \n<|im_end|>\n<|im_start|>assistant\nyo<|im_end|>\n"
    assert tokenizer.chat_template == CHATML
    assert tokenizer.apply_chat_template(MESSAGES, tokenize=False) == whole
    prompt = tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    assert prompt == whole + "<|im_start|>assistant\n"


@pytest.mark.parametrize("mode", ["auto", "file"])
def test_the_models_own_template_goes_before_chatml_and_a_given_file_before_both(mode, tmp_path):
    tiny_tokenizer(TEMPLATES["closing"]).save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path, mode).chat_template == TEMPLATES["closing"]
    given = tmp_path / "given.jinja"
    given.write_text(TEMPLATES["inst"], encoding="utf-8")
    assert load_tokenizer(tmp_path, mode, chat_template=str(given)).chat_template == TEMPLATES["inst"]


def test_a_template_in_the_configuration_is_found_in_file_mode_also_among_several(folder):
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    for stored in ("{{ 1 }}", [{"name": "tool", "template": "x"}, {"name": "default", "template": "{{ 1 }}"}]):
        path.write_text(json.dumps({**config, "chat_template": stored}))
        assert load_tokenizer(folder, "file").chat_template == "{{ 1 }}"


def test_what_cannot_be_read_is_named(folder, tmp_path):
    with pytest.raises(ValueError, match=r"model.chat_template: cannot read the Jinja file 'no.jinja'"):
        load_tokenizer(folder, "file", chat_template="no.jinja")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"model.tokenizer: `file` needs a tokenizer.json"):
        load_tokenizer(tmp_path / "empty", "file")
    with pytest.raises(ValueError, match=r"model.path: cannot load the tokenizer of '.*empty'"):
        load_tokenizer(tmp_path / "empty", "auto")
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"model.path: cannot read '.*tokenizer.json'"):
        load_tokenizer(folder, "file")


def test_a_tokenizer_without_pad_pads_with_eos(tmp_path):
    tiny_tokenizer(None, special=["<s>", "</s>"]).save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path, "file")
    assert tokenizer.pad_token_id == tokenizer.eos_token_id is not None
    assert tokenizer.padding_side == "right"


@pytest.mark.parametrize("name, stops", [
    ("chatml", ["<|im_end|>", "</s>"]), ("closing", ["<|end|>", "</s>"]), ("inst", ["</s>"]), ("text", ["</s>"]),
    ("strict", ["<|im_end|>", "</s>"]), ("thinking", ["<|im_end|>", "</s>"]),
])  # fmt: skip
def test_generation_stops_at_the_templates_end_of_turn_and_at_eos(name, stops):
    tokenizer = tiny_tokenizer(TEMPLATES[name])
    assert tokenizer.convert_ids_to_tokens(stop_token_ids(tokenizer)) == stops


def test_chatml_that_is_not_in_the_vocabulary_is_said(tmp_path):
    tiny_tokenizer(None, special=["<s>", "</s>"]).save_pretrained(tmp_path)
    bare = load_tokenizer(tmp_path, "file")
    size = len(bare)
    assert any("<|im_start|> and <|im_end|> are not in its vocabulary" in note for note in notes(bare))
    assert len(bare) == size
    assert stop_token_ids(bare) == [bare.eos_token_id]


def test_a_tokenizer_that_knows_chatml_and_bos_has_nothing_to_say(folder):
    assert notes(load_tokenizer(folder, "file")) == []


def test_without_a_bos_the_eos_and_then_the_pad_stands_for_it():
    assert bos_id(tiny_tokenizer(None)) == tiny_tokenizer(None).bos_token_id
    without = tiny_tokenizer(None, special=["</s>", "<pad>"])
    assert bos_id(without) == without.eos_token_id
    assert any("takes '</s>'" in note for note in notes(without))


def test_only_tokens_that_always_cut_a_text_are_edges():
    from tokenizers import AddedToken
    from tokenizers.normalizers import Lowercase

    tokenizer = tiny_tokenizer(None, special=["<s>"])
    for index, flags in enumerate([{"lstrip": True}, {"single_word": True}, {"normalized": True}]):
        tokenizer.backend_tokenizer.add_tokens([AddedToken(f"<{index}>", **{"normalized": False, **flags})])
    assert set(edges(tokenizer).values()) == {"<s>", "<2>"}
    tokenizer.backend_tokenizer.normalizer = Lowercase()
    assert set(edges(tokenizer).values()) == {"<s>"}


def test_the_hash_follows_tokenizer_template_and_special_tokens():
    tokenizer = tiny_tokenizer(TEMPLATES["chatml"])
    first = tokenizer_hash(tokenizer)
    tokenizer("abc", truncation=True, max_length=2)
    assert tokenizer_hash(tokenizer) == first == tokenizer_hash(tiny_tokenizer(TEMPLATES["chatml"]))
    tokenizer.eos_token = "<|end|>"
    assert tokenizer_hash(tokenizer) != first


# -- real tokenizers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REAL)
def test_file_mode_gives_the_ids_of_tokenizer_json_as_it_stands(name, shared_file):
    from tokenizers import Tokenizer

    plain = Tokenizer.from_file(str(shared_file(f"{name}/tokenizer.json")))
    loaded = load_tokenizer(shared_file(name), "file")
    for piece in (*PROBE, "<|im_start|>user\nx<|im_end|>\n<|end|>\n y"):
        assert ids(loaded, piece) == plain.encode(piece, add_special_tokens=False).ids


@pytest.mark.parametrize("name", REAL)
def test_auto_mode_gives_the_ids_of_transformers(name, shared_file):
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(shared_file(name))
    loaded = load_tokenizer(shared_file(name), "auto")
    for piece in PROBE:
        assert ids(loaded, piece) == ids(theirs, piece)
    assert loaded.bos_token == theirs.bos_token
    assert loaded.eos_token == theirs.eos_token


@pytest.mark.parametrize("name, differs", [("smollm2-135m-tokenizer", True), ("tinystories-656k", True)])
def test_the_probe_tells_auto_from_file(name, differs, shared_file):
    folder = shared_file(name)
    said = probe_difference(folder)
    assert (said is not None) == differs
    assert "`auto` and `file` give other ids" in said
    hashes = {probe(load_tokenizer(folder, mode))["ids_hash"] for mode in ("auto", "file")}
    assert len(hashes) == 2


@pytest.mark.parametrize("name, stops", [
    ("smollm2-135m-tokenizer", ["<|im_end|>", "<|endoftext|>"]), ("phi-3-mini-tokenizer", ["<|end|>", "<|endoftext|>"]),
    ("tinystories-656k", ["<|end_story|>"]),
])  # fmt: skip
def test_real_stop_tokens_are_found(name, stops, shared_file):
    tokenizer = load_tokenizer(shared_file(name))
    assert tokenizer.convert_ids_to_tokens(stop_token_ids(tokenizer)) == stops


@pytest.mark.parametrize("mode", ["auto", "file"])
@pytest.mark.parametrize("name", REAL)
def test_a_saved_tokenizer_read_as_a_file_gives_the_ids_and_the_template_it_had(name, mode, shared_file, tmp_path):
    tokenizer = load_tokenizer(shared_file(name), mode)
    tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path, "file")
    assert probe(again) == probe(tokenizer)
    assert again.chat_template == tokenizer.chat_template
    assert stop_token_ids(again) == stop_token_ids(tokenizer)
    assert (again.bos_token_id, again.pad_token_id) == (tokenizer.bos_token_id, tokenizer.pad_token_id)


def test_a_turn_that_ends_in_plain_text_stops_generation_by_that_text(shared_file):
    from trainables._tokenizer import load_tokenizer, stop_strings

    without_chatml = load_tokenizer(shared_file("tinystories-656k"), "file")
    assert stop_strings(without_chatml) == ("<|im_end|>",)
    with_chatml = load_tokenizer(shared_file("smollm2-135m-tokenizer"))
    assert stop_strings(with_chatml) == ()
