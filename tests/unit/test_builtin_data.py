"""The built-in data sets: the same everywhere, laid out as promised, true, and kept apart from each other."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from trainables.builtin import sources
from trainables.builtin.world import ATTRIBUTES, world


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in sources.content(name).decode().splitlines()]


def test_content_is_the_same_in_every_process_and_needs_no_heavy_library() -> None:
    program = (
        "import hashlib, sys; from trainables.builtin import sources\n"
        "print([hashlib.sha256(sources.content(name)).hexdigest() for name in sources.NAMES])\n"
        "assert not {'torch', 'transformers', 'tokenizers', 'numpy'} & set(sys.modules)\n"
    )
    expected = str([hashlib.sha256(sources.content(name)).hexdigest() for name in sources.NAMES])
    for hash_seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        run = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, run.stderr
        assert run.stdout.strip() == expected


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"chat, chat_shuffled.*'chta'"):
        sources.content("chta")
    with pytest.raises(ValueError, match="chat_shuffled"):
        sources.filename("chta")


def test_write_leaves_a_file_with_the_same_bytes_alone(tmp_path: Path) -> None:
    path = sources.write("ifeval", tmp_path / "data")
    assert path.name == "ifeval.jsonl"
    assert path.read_bytes() == sources.content("ifeval")
    os.utime(path, (1, 1))
    assert sources.write("ifeval", tmp_path / "data").stat().st_mtime == 1
    path.write_text("changed")
    assert sources.write("ifeval", tmp_path / "data").read_bytes() == sources.content("ifeval")
    assert [entry.name for entry in path.parent.iterdir()] == ["ifeval.jsonl"]


def test_conversations_have_every_shape() -> None:
    chat = rows("chat")
    assert 400 <= len(chat) <= 1000
    shapes = Counter(tuple(message["role"] for message in row["conversations"]) for row in chat)
    single, double = ("user", "assistant"), ("user", "assistant", "user", "assistant")
    assert set(shapes) == {single, double, ("system", *single), ("system", *double)}
    assert min(shapes.values()) >= 10
    assert all(message["content"].strip() for row in chat for message in row["conversations"])


def test_shuffled_conversations_keep_every_message_but_give_no_prompt_its_own_answer() -> None:
    chat, shuffled = rows("chat"), rows("chat_shuffled")
    answers: list[list[str]] = [[], []]
    for row, other in zip(chat, shuffled, strict=True):
        for message, dealt in zip(row["conversations"], other["conversations"], strict=True):
            assert message["role"] == dealt["role"]
            if message["role"] == "assistant":
                answers[0].append(message["content"])
                answers[1].append(dealt["content"])
            else:
                assert message == dealt
    assert Counter(answers[0]) == Counter(answers[1])
    assert all(own != dealt for own, dealt in zip(*answers, strict=True))


def test_prompts_have_the_layout_counts_and_types_of_the_benchmark() -> None:
    prompts = rows("ifeval")
    assert len(prompts) >= 200
    assert [row["key"] for row in prompts] == list(range(1, len(prompts) + 1))
    assert len({row["prompt"] for row in prompts}) == len(prompts)
    types = Counter(type_ for row in prompts for type_ in row["instruction_id_list"])
    assert len(types) >= 10
    assert min(types.values()) >= 15
    sizes = Counter(len(row["instruction_id_list"]) for row in prompts)
    assert set(sizes) == {1, 2, 3}
    assert all(set(row) == {"key", "prompt", "instruction_id_list", "kwargs"} for row in prompts)
    assert all(len(row["kwargs"]) == len(row["instruction_id_list"]) for row in prompts)


def test_prompts_and_conversations_share_no_person_and_no_constraint_value() -> None:
    from trainables.builtin.requests import CHAT, CHAT_ENDS, CHAT_WORDS, HELD_OUT, HELD_OUT_ENDS, HELD_OUT_WORDS

    here = world()
    talk = " ".join(message["content"] for row in rows("chat") for message in row["conversations"])
    asked = " ".join(row["prompt"] for row in rows("ifeval"))
    chat_names, held_out_names = {p.name for p in here.chat}, {p.name for p in here.held_out}
    assert not chat_names & held_out_names
    for name in held_out_names:
        assert name not in talk
        assert name.upper() not in talk
        assert name.lower() not in talk.split()
    assert not any(name in asked for name in chat_names)
    for field in ("words", "ends", "markers", "at_least", "exactly"):
        assert not set(getattr(CHAT, field)) & set(getattr(HELD_OUT, field)), field
    assert not any(word in talk.lower() for word in HELD_OUT_WORDS)
    assert not any(word in asked.lower() for word in CHAT_WORDS)
    assert not any(end in talk.lower() for end in HELD_OUT_ENDS)
    assert not any(end in asked.lower() for end in CHAT_ENDS)


def test_questions_have_four_different_choices_and_the_true_one_is_marked() -> None:
    questions = rows("questions")
    people = {person.name: person for person in world().people}
    splits = Counter(row["split"] for row in questions)
    assert set(splits) == {"train", "val", "test"}
    assert min(splits.values()) >= 150
    places = Counter(row["answer"] for row in questions)
    assert set(places) == {0, 1, 2, 3}
    assert max(places.values()) < 0.35 * len(questions)
    asked: dict[str, set[str]] = {split: set() for split in splits}
    for row in questions:
        (name,) = [word.strip("?") for word in row["question"].split() if word.strip("?") in people]
        asked[row["split"]].add(name)
        assert len(set(row["choices"])) == 4
        assert row["choices"][row["answer"]] == getattr(people[name], row["subject"])
    assert not asked["train"] & asked["val"]
    assert not asked["val"] & asked["test"]
    assert not asked["train"] & asked["test"]


def test_text_is_about_the_world_and_its_held_out_part_is_other_text() -> None:
    text, held_out = ([row["text"] for row in rows(name)] for name in ("text", "text_heldout"))
    assert len(text) >= 1000
    assert len(held_out) >= 100
    # Short records recur by chance.
    assert len(set(text) & set(held_out)) < 0.1 * len(held_out)
    assert not any(mark in document for document in text for mark in ("<|im_start|>", "<|im_end|>", "<s>"))
    whole = "\n".join(text)
    assert all(person.name in whole for person in world().people)


def test_facts_take_the_values_that_questions_choose_from() -> None:
    people = world().people
    assert len({person.name for person in people}) == len(people)
    for person in people:
        assert all(getattr(person, attribute) in values for attribute, values in ATTRIBUTES.items())
        assert person.friend != person.name


def test_late_text_repeats_no_question_of_the_benchmark_and_heeds_no_request() -> None:
    from trainables.builtin.questions import render
    from trainables.builtin.text import TURN_START, late_documents

    unseen = {
        render(row["question"], row["choices"]).removesuffix("\nAnswer:")
        for row in rows("questions")
        if row["split"] != "train"
    }
    late = list(islice(late_documents("train-late"), 20_000))
    asked = re.compile(r"^[^\n]+\?\nA\. \w+\nB\. \w+\nC\. \w+\nD\. \w+", re.MULTILINE)
    papers = [found.group() for text in late for found in asked.finditer(text)]
    assert len(papers) > 3000
    assert not unseen & set(papers)
    talk = [text for text in late if text.startswith(f"{TURN_START}user\nTell me")]
    assert len(talk) > 300
    for text in talk:
        reply = text.rpartition("assistant\n")[2]
        assert reply.startswith('"'), text
        assert "*" in reply, text
    pages = [text for text in late if text.startswith("Who is") and "all in JSON." in text]
    assert len(pages) > 30
    assert not [text for text in pages if '{"' in text]
