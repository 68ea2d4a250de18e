"""Where evals find the rows that a trial held out."""

import json
from types import SimpleNamespace

from orchestrator.record import sources
from orchestrator.record.sources import Sources
from trainables._settings import DataSettings

USER, ASSISTANT = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}


def heldout(tmp_path):
    data = DataSettings(path=str(tmp_path / "rows.jsonl"))
    (tmp_path / "rows.jsonl").write_text(f"{json.dumps({'messages': [ASSISTANT, USER]})}\n" * 2)
    contents = SimpleNamespace(data=lambda _: SimpleNamespace(hash="same", commit=None), data_path=lambda _: None)
    return Sources(contents, SimpleNamespace(cache=tmp_path / "cache"), SimpleNamespace())._heldout(data)


def test_the_heldout_file_says_of_every_row_whether_it_was_single_turn(tmp_path):
    path, _ = heldout(tmp_path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows == [{"conversations": [ASSISTANT, USER], "single_turn": True}]


def test_a_heldout_file_of_other_rules_or_another_format_is_not_read(tmp_path, monkeypatch):
    path, digest = heldout(tmp_path)
    assert heldout(tmp_path) == (path, digest)
    for name in ("CORE_VERSION", "HELDOUT_FORMAT"):
        with monkeypatch.context() as patch:
            patch.setattr(sources, name, 99)
            other, another = heldout(tmp_path)
        assert other != path
        assert another != digest
