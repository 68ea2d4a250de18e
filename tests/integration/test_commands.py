"""The commands beside the sweep: what a user types, and what stands on the screen and on disk afterwards."""

import json

import pytest

from orchestrator import evaluate, report, sweep

LIMITS = ["--set", "evals.ifeval.limit=6", "--set", "evals.ifeval.max_new_tokens=16"]


def test_a_model_that_exists_is_scored_without_a_sweep_file_and_without_ray(tmp_path, capsys):
    arguments = ["builtin:mini", "--evals", "ifeval,perplexity", "--output", str(tmp_path / "out"), *LIMITS]
    assert evaluate.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "ifeval/prompt_level_strict_acc" in printed
    assert "perplexity/assistant" in printed
    journal = (tmp_path / "out" / "journal.jsonl").read_text()
    assert evaluate.main(arguments) == 0
    assert (tmp_path / "out" / "journal.jsonl").read_text() == journal
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize(
    "arguments, wrong",
    [
        (["builtin:mini", "--evals", "ifevl"], "Did you mean ifeval?"),
        (["./nowhere", "--evals", "ifeval"], "no such folder"),
        (["./nowhere", "--evals", "perplexity"], "--data: perplexity needs rows to score"),
        (["builtin:mini", "--evals", "ifeval", "--adapter", "./nowhere"], "adapter: no such folder"),
    ],
)
def test_a_wrong_request_gets_one_message_and_exit_code_2(arguments, wrong, tmp_path, capsys):
    assert evaluate.main([*arguments, "--output", str(tmp_path)]) == 2
    assert wrong in capsys.readouterr().err


def test_a_preview_shows_rows_as_trained(tmp_path, capsys, monkeypatch):
    from tests.conftest import ROOT

    monkeypatch.chdir(tmp_path)
    assert sweep.main([str(ROOT / "sweeps" / "masking.yaml"), "--preview", "1"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("first tokens:") == 4
    assert "⟦<|im_start|>assistant" in printed
    assert "⟦<|im_start|>user" in printed


def test_the_schema_is_json_and_names_every_method_and_eval(capsys):
    assert sweep.main(["--schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert "train" in schema["properties"]
    assert "ifeval" in json.dumps(schema)


def test_all_mistakes_of_a_file_come_at_once_before_ray(tmp_path, capsys):
    path = tmp_path / "bad.yaml"
    path.write_text(
        "name: bad\nmodel: builtin:mini\ndata: ./rows.jsonl\ntrain: {learning_rat: 1, epochs: many}\n"
        "search: {kind: grid, axes: {train.warmup_ratio: []}}\nevals: {ifeval: {}}\n"
        "objective: {metric: ifeval/strict}\n"
    )
    assert sweep.main([str(path), "--output", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr().err
    for place in ("learning_rat", "train.epochs", "train.warmup_ratio", "objective.metric", "./rows.jsonl"):
        assert place in printed
    assert "Did you mean" in printed
    assert not (tmp_path / "out" / "trials").exists()


def test_a_report_without_results_says_what_to_do(tmp_path, capsys):
    assert report.main([str(tmp_path)]) == 2
    assert "results.json" in capsys.readouterr().err
