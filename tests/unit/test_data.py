"""From files to batches: reading, the held-out rows, the cache, collating, the preview."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_tokenizer import TEMPLATES, tiny_tokenizer

from trainables import _data
from trainables._cache import Entry, fetch
from trainables._data import collate, format_preview, heldout_conversations, heldout_split, prepare, preview
from trainables._rows import DataError, read_rows
from trainables._settings import DataSettings
from trainables.core.masking import Marked

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "rows.json"


def row(*texts: str) -> dict:
    roles = ["user", "assistant"] * len(texts)
    return {"conversations": [{"role": r, "content": t} for r, t in zip(roles, texts, strict=False)]}


def write(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    return path


def read(path: Path, **changes) -> list:
    return list(read_rows(DataSettings(path=str(path), **changes)))


@pytest.fixture
def tokenizer():
    return tiny_tokenizer(TEMPLATES["chatml"])


@pytest.fixture
def chat(tmp_path) -> DataSettings:
    rows = [row(f"he {n}", f"hello {n}") for n in range(40)]
    return DataSettings(path=str(write(tmp_path / "chat.jsonl", rows)), heldout=0.1)


# -- reading ---------------------------------------------------------------------------------------------------------


def test_every_layout_of_file_gives_the_same_rows(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [row("a\u2028b", "é"), row("c", "d")]
    (tmp_path / "array.json").write_text(json.dumps(rows), encoding="utf-8")
    (tmp_path / "data.json").write_text(json.dumps({"data": rows}), encoding="utf-8")
    write(tmp_path / "lines.json", rows)
    (tmp_path / "bom.json").write_text(json.dumps(rows), encoding="utf-8-sig")
    lines = "\n\n".join(json.dumps(each, ensure_ascii=False) for each in rows)
    (tmp_path / "lines.jsonl").write_text(lines, encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "table.parquet")
    for path in sorted(tmp_path.iterdir()):
        assert read(path) == rows, path.name


def test_a_folder_is_read_file_by_file_in_the_order_of_names(tmp_path):
    write(tmp_path / "b.jsonl", [{"n": 2}])
    write(tmp_path / "a.jsonl", [{"n": 0}, {"n": 1}])
    (tmp_path / "LICENSE").write_text("text")
    (tmp_path / ".hidden.jsonl").write_text("not json")
    assert [each["n"] for each in read(tmp_path)] == [0, 1, 2]
    assert [each["n"] for each in read(tmp_path, max_rows=2)] == [0, 1]
    (tmp_path / "deep").mkdir()
    write(tmp_path / "deep" / "c.jsonl", [{"n": 3}])
    assert [each["n"] for each in read(tmp_path / "deep")] == [3]


@pytest.mark.parametrize("name, content, said", [
    ("x.jsonl", '{"a": 1}\n{"a": \n', r"x.jsonl, line 2: is not valid JSON"),
    ("x.json", '[\n{"a": 1},\n{"a" 2}]', r"x.json, line 3: is not valid JSON"),
    ("x.json", '{"a": 1}\n{"a" 2}', r"x.json, line 2: is not valid JSON"),
    ("x.json", "3", r"x.json: must hold a list of rows \(got int\)"),
    ("x.parquet", "PAR?", r"x.parquet: is not a readable Parquet file"),
    ("x.csv", "a,b", r"must be a .json, .jsonl, .ndjson, .parquet file"),
])  # fmt: skip
def test_an_unreadable_file_is_named_with_its_line(tmp_path, name, content, said):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=said):
        read(tmp_path / name)


def test_text_in_another_encoding_is_named(tmp_path):
    (tmp_path / "x.jsonl").write_bytes('{"a": "é"}'.encode("latin-1"))
    with pytest.raises(DataError, match=r"x.jsonl: is not UTF-8 text"):
        read(tmp_path / "x.jsonl")


@pytest.mark.parametrize("path", ["./no.jsonl", "/no/such/folder", "no.parquet", "a/b/c", "builtin:nothing"])
def test_a_path_that_is_not_there_is_no_hub_data_set(path):
    with pytest.raises(DataError, match=r"there is no file or folder"):
        read(Path(path) if not path.startswith("./") else path)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"holds no \.json"):
        read(tmp_path)


def test_a_hub_data_set_that_cannot_be_had_is_one_error_naming_it():
    code = (
        "from trainables._rows import *; from trainables._settings import DataSettings\n"
        "try: list(read_rows(DataSettings(path='some-org/some-set', revision='abc')))\n"
        "except DataError as error: print(error)"
    )
    environment = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "PATH": "", "HOME": "/nonexistent"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=GOLDEN.parents[2]
    )
    assert done.stdout.startswith(
        "data.path: cannot read the hub data set 'some-org/some-set' (split 'train', revision"
    )
    assert "Name a file or folder on disk" in done.stdout


# -- held-out rows ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows, share, count", [
    (100, 0.05, 5), (40, 0.05, 2), (3, 0.05, 1), (2, 0.9, 1), (1, 0.5, 0), (9, 0.0, 0), (0, 0.5, 0),
])  # fmt: skip
def test_the_split_holds_out_its_share_and_loses_no_row(rows, share, count):
    train, heldout = heldout_split(rows, share, 0)
    assert len(heldout) == count
    assert sorted(train + heldout) == list(range(rows))


def test_the_split_depends_on_its_seed_alone():
    assert heldout_split(100, 0.1, 0) == heldout_split(100, 0.1, 0)
    assert heldout_split(100, 0.1, 0) != heldout_split(100, 0.1, 1)


def test_trials_hold_out_the_same_rows_whatever_they_drop(tmp_path, tokenizer):
    rows = [row(f"he {n}", "hello " * (1 + n % 7)) if n % 3 else row(f"he {n}") for n in range(60)]
    rows[5] = {"other": "no conversation"}
    data = DataSettings(path=str(write(tmp_path / "x.jsonl", rows)), heldout=0.3)
    kept = {json.dumps(each["conversations"]) for each in heldout_conversations(data)}
    numbers = set()
    for change in ({"train_on": "user"}, {"max_length": 30}, {"mask_span": "content"}, {"max_rounds": 1}):
        settings = data.model_copy(update=change)
        heldout = prepare(settings, tokenizer, tmp_path / "cache").heldout
        numbers |= {int(number) for number in heldout.numbers}
    assert len(numbers) == len(kept)
    assert numbers == {n for n, each in enumerate(rows) if json.dumps(each.get("conversations")) in kept}


def test_rows_are_held_out_of_those_that_hold_a_conversation(tmp_path):
    rows = [{"other": "none"}] * 30 + [row("a", "b"), row("c", "d")]
    data = DataSettings(path=str(write(tmp_path / "x.jsonl", rows)), heldout=0.05)
    for seed in range(5):
        heldout = heldout_conversations(data.model_copy(update={"heldout_seed": seed}))
        assert len(heldout) == 1
        assert len(heldout[0]["conversations"]) == 2


def test_a_heldout_row_says_whether_it_was_single_turn_and_keeps_the_turns_of_one_that_was(tmp_path):
    rows = ["au", "uua", "uaua"]
    roles = {"u": "user", "a": "assistant"}
    for number, names in enumerate(rows):
        given = [{"role": roles[name], "content": f"{name}{i}"} for i, name in enumerate(names)]
        data = DataSettings(path=str(write(tmp_path / f"{number}.jsonl", [{"messages": given}] * 2)), max_rounds=1)
        kept = given if names == "au" else given[-2:] if names == "uua" else given[:2]
        assert heldout_conversations(data) == [{"conversations": kept, "single_turn": names == "au"}]


# -- prepared rows ---------------------------------------------------------------------------------------------------


def test_prepared_rows_are_counted(tmp_path, tokenizer):
    rows = [row("he", "hello")] * 8 + [
        row("he"),
        row("hello " * 30, "x"),
        {"messages": [{"role": "x", "content": "y"}]},
    ]
    data = DataSettings(path=str(write(tmp_path / "x.jsonl", rows)), max_length=60, heldout=0.2)
    done = prepare(data, tokenizer, tmp_path / "cache")
    assert done.rows == {
        "read": 11, "kept": 8, "train": len(done.train), "heldout": len(done.heldout),
        "dropped": {"no user turn with an answer": 1, "no target within max_length": 1, "unknown role 'x'": 1},
    }  # fmt: skip
    assert len(done.train) + len(done.heldout) == 8
    assert done.tokens == sum(len(each) for each in done.train) == int(done.train.lengths.sum())
    assert done.targets == sum(int(each.targets.sum()) for each in done.train) == int(done.train.target_counts.sum())
    assert done.train[0].ids.dtype == np.int32
    assert done.train[0].targets.dtype == np.bool_
    assert len(done.train[-1]) == done.train.lengths[-1]
    with pytest.raises(IndexError):
        done.train[len(done.train)]


def test_data_without_a_usable_row_is_one_error_with_the_reasons(tmp_path, tokenizer):
    data = DataSettings(path=str(write(tmp_path / "x.jsonl", [{"other": "a"}, {"other": "b"}])))
    with pytest.raises(
        DataError, match=r"no row .*\(2 read; 2 x no `conversations`, `messages`, `instruction` or `text`.*Rows need"
    ):
        prepare(data, tokenizer, tmp_path / "cache")
    strict = tiny_tokenizer(TEMPLATES["strict"])
    turned = DataSettings(path=str(write(tmp_path / "y.jsonl", [row("a", "b")])), train_on="user")
    with pytest.raises(DataError, match=r"the chat template refuses it: roles must alternate"):
        prepare(turned, strict, tmp_path / "cache")


def test_the_second_time_nothing_is_encoded(chat, tokenizer, tmp_path, monkeypatch):
    first = prepare(chat, tokenizer, tmp_path / "cache")
    monkeypatch.setattr(_data, "_encode_all", lambda *given: pytest.fail("encoded again"))
    again = prepare(chat, tokenizer, tmp_path / "cache")
    assert again.rows == first.rows
    assert again.notes == first.notes
    for one, other in zip([*first.train, *first.heldout], [*again.train, *again.heldout], strict=True):
        assert one.ids.tolist() == other.ids.tolist()
        assert one.targets.tolist() == other.targets.tolist()
        assert one.roles.tolist() == other.roles.tolist()
    moved = Path(chat.path).rename(tmp_path / "elsewhere.jsonl")
    assert prepare(chat.model_copy(update={"path": str(moved)}), tokenizer, tmp_path / "cache").rows == first.rows


@pytest.mark.parametrize("change", ["content", "settings", "template", "tokenizer", "version"])
def test_whatever_decides_the_rows_is_part_of_the_key(change, chat, tokenizer, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    prepare(chat, tokenizer, cache)
    if change == "content":
        path = Path(chat.path)
        path.write_text(path.read_text().replace("hello 7", "hello 8"))
    elif change == "settings":
        chat = chat.model_copy(update={"bos": "always"})
    elif change == "template":
        tokenizer.chat_template = tokenizer.chat_template + "{# #}"
    elif change == "tokenizer":
        tokenizer.add_tokens(["hello"])
    else:
        monkeypatch.setattr(_data, "VERSION", 99)
    prepare(chat, tokenizer, cache)
    assert len(list((cache / "rows").glob("*.safetensors"))) == 2


def test_padding_that_another_caller_asked_for_is_no_part_of_the_key(chat, tokenizer, tmp_path):
    prepare(chat, tokenizer, tmp_path / "cache")
    tokenizer(["a", "bcd"], padding=True, truncation=True, max_length=2)
    prepare(chat, tokenizer, tmp_path / "cache")
    assert len(list((tmp_path / "cache" / "rows").glob("*.safetensors"))) == 1


# -- the cache -------------------------------------------------------------------------------------------------------


def entry() -> Entry:
    return Entry({"ids": np.arange(5, dtype=np.int32)}, {"rows": {"read": 1}})


@pytest.mark.parametrize("damage", ["half", "byte", "empty", "text"])
def test_a_damaged_entry_is_built_again(damage, tmp_path):
    fetch(tmp_path, "key", entry)
    path = tmp_path / "key.safetensors"
    whole = path.read_bytes()
    flipped = whole[:-1] + bytes([whole[-1] ^ 1])
    path.write_bytes({"half": whole[: len(whole) // 2], "byte": flipped, "empty": b"", "text": b"x" * 99}[damage])
    built = []
    found = fetch(tmp_path, "key", lambda: built.append(1) or entry())
    assert built == [1]
    assert found.arrays["ids"].tolist() == [0, 1, 2, 3, 4]
    assert fetch(tmp_path, "key", lambda: pytest.fail("built twice")).about == {"rows": {"read": 1}}


def test_nothing_is_left_behind_when_building_fails(tmp_path):
    with pytest.raises(RuntimeError):
        fetch(tmp_path, "key", lambda: (_ for _ in ()).throw(RuntimeError()))
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
    assert fetch(tmp_path, "key", entry).arrays["ids"].tolist() == [0, 1, 2, 3, 4]


def test_of_two_processes_that_ask_at_once_one_builds(tmp_path):
    code = (
        "import sys, time, pathlib, numpy as np\n"
        "from trainables._cache import Entry, fetch\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "def build():\n"
        "    with open(folder / 'built', 'a') as file: file.write('x')\n"
        "    time.sleep(0.5)\n"
        "    return Entry({'ids': np.arange(100_000, dtype=np.int32)}, {})\n"
        "(folder / f'ready{sys.argv[2]}').touch()\n"
        "while len(list(folder.glob('ready*'))) < 2: time.sleep(0.005)\n"
        "print(int(fetch(folder / 'cache', 'key', build).arrays['ids'].sum()))\n"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), name],
            stdout=subprocess.PIPE, text=True, cwd=GOLDEN.parents[2],
        )
        for name in "ab"
    ]  # fmt: skip
    said = [process.communicate(timeout=60)[0].strip() for process in started]
    assert said == [str(sum(range(100_000)))] * 2
    assert (tmp_path / "built").read_text() == "x"


def test_no_pickle_is_written(chat, tokenizer, tmp_path):
    prepare(chat, tokenizer, tmp_path / "cache")
    kinds = {path.suffix for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert kinds == {".safetensors", ".lock"}


# -- batches ---------------------------------------------------------------------------------------------------------


def marked(ids, targets) -> Marked:
    return Marked(np.array(ids, np.int32), np.array(targets, np.bool_), np.zeros(len(ids), np.uint8))


def test_a_batch_is_padded_on_the_right_to_its_longest_row():
    batch = collate([marked([5, 6, 7], [0, 0, 1]), marked([8, 9], [1, 1]), None], pad_id=9)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, 9], [9, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0], [1, 0, 0]]
    assert batch["labels"].tolist() == [[-100, -100, 7], [-100, 9, -100], [-100, -100, -100]]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_a_batch_of_fillers_is_one_token_wide_and_has_no_target():
    batch = collate([None, None], pad_id=3)
    assert batch["input_ids"].tolist() == [[3], [3]]
    assert batch["attention_mask"].tolist() == [[1], [1]]
    assert batch["labels"].tolist() == [[-100], [-100]]


# -- the preview -----------------------------------------------------------------------------------------------------


def test_the_preview_shows_a_row_as_it_is_trained(chat, tokenizer, tmp_path):
    always = chat.model_copy(update={"bos": "always", "heldout": 0.0})
    shown = preview(prepare(always, tokenizer, tmp_path / "cache"), tokenizer, 2)
    assert json.loads(json.dumps(shown)) == shown
    assert len(shown) == 2
    one = shown[0]
    assert one["text"] == ("<s><|im_start|>user\nhe 0<|im_end|>\n⟦<|im_start|>assistant\nhello 0<|im_end|>\n⟧")
    assert one["bos"] == {"id": tokenizer.bos_token_id, "token": "<s>", "position": 0, "label": -100}
    assert [token["token"] for token in one["first_tokens"][:3]] == ["<s>", "<|im_start|>", "u"]
    assert len(one["first_tokens"]) == 10
    assert one["roles"]["user"]["targets"] == 0
    assert one["roles"]["assistant"]["targets"] == one["roles"]["assistant"]["tokens"] == one["targets"]
    assert sum(count["tokens"] for count in one["roles"].values()) == one["tokens"]
    text = format_preview(shown)
    assert "BOS: <s> (id " in text
    assert "label -100" in text
    assert f"{one['tokens']} tokens, {one['targets']} targets" in text


def test_the_preview_says_when_no_bos_stands_in_front(chat, tokenizer, tmp_path):
    shown = preview(prepare(chat, tokenizer, tmp_path / "cache"), tokenizer, 1)
    assert shown[0]["bos"] is None
    assert "BOS: none" in format_preview(shown)


# -- golden ----------------------------------------------------------------------------------------------------------


def test_rows_move_only_with_the_version_of_core(tmp_path):
    """Trial ids hold core's VERSION: when this fails on purpose, raise VERSION and write the file anew."""
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert golden["version"] == _data.VERSION
    data = DataSettings(path=str(write(tmp_path / "x.jsonl", golden["rows"])), heldout=golden["heldout"])
    for case in golden["cases"]:
        settings = data.model_copy(update=case["data"])
        done = prepare(settings, tiny_tokenizer(TEMPLATES[case["template"]]), tmp_path / "cache")
        for name in ("train", "heldout"):
            part = getattr(done, name)
            found = [[int(n), one.ids.tolist(), one.targets.astype(int).tolist()]
                     for n, one in zip(part.numbers, part, strict=True)]  # fmt: skip
            assert found == case[name], case["data"]
