"""What the command line of `orchestrator.evaluate` amounts to."""

import json

import pytest

from orchestrator.errors import UserError
from orchestrator.evaluate import base_document, document, parser


def evals_of(*arguments):
    return document(parser().parse_args(["some/model", *arguments]))["evals"]


def test_one_file_goes_to_every_eval_that_reads_held_out_rows():
    found = evals_of("--evals", "ifeval,perplexity,samples", "--data", "rows.jsonl")
    assert found == {"ifeval": {}, "perplexity": {"data": "rows.jsonl"}, "samples": {"data": "rows.jsonl"}}


def test_each_eval_may_have_a_file_of_its_own():
    named = ("--data", "perplexity=a=b.jsonl", "--data", "ifeval=prompts.jsonl", "--data", "rows.jsonl")
    found = evals_of("--evals", "ifeval,perplexity,samples", *named)
    assert {name: block["data"] for name, block in found.items()} == {
        "ifeval": "prompts.jsonl",
        "perplexity": "a=b.jsonl",
        "samples": "rows.jsonl",
    }


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["--evals", "perplexity"], "--data: perplexity needs rows to score, and 'some/model' is no trial's export"),
        (["--evals", "perplexity", "--data", "a", "--data", "b"], "say which eval reads which file"),
        (["--evals", "ifeval", "--data", "perplexity=a"], "names perplexity, which is not among --evals"),
        (["--evals", "ifeval", "--data", "a"], "none of ifeval reads held-out rows"),
    ],
)
def test_rows_that_are_missing_or_that_no_eval_reads_are_told(arguments, told):
    with pytest.raises(UserError, match=told):
        evals_of(*arguments)


def test_a_folder_that_the_export_command_wrote_needs_rows_to_be_named(tmp_path):
    exported = {
        "kind": "full", "dtype": "float32", "attention": "auto", "trust_remote_code": False, "bos": "always",
        "base": {"path": "some/model", "revision": None, "hash": None},
    }  # fmt: skip
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "export.json").write_text(json.dumps(exported))
    asked = [str(folder), "--evals", "perplexity"]
    with pytest.raises(UserError, match="--data: perplexity needs rows to score"):
        document(parser().parse_args(asked))
    named = document(parser().parse_args([*asked, "--data", "rows.jsonl"]))
    assert named["evals"] == {"perplexity": {"data": "rows.jsonl"}}
    assert named["data"]["bos"] == "always"
    (tmp_path / "settings.json").write_text(json.dumps({"data": {"path": "mine.jsonl", "heldout": 3}}))
    known = document(parser().parse_args(asked))
    assert (known["data"]["path"], known["evals"]) == ("mine.jsonl", {"perplexity": {}})


def test_the_base_of_a_trials_own_export_is_known_to_evals_that_compare_with_it(tmp_path):
    exported = {
        "kind": "full", "dtype": "float32", "attention": "auto", "trust_remote_code": False, "bos": "always",
        "base": {"path": "some/model", "revision": None, "hash": None},
    }  # fmt: skip
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "export.json").write_text(json.dumps(exported))

    def base_of(evals):
        return base_document(document(parser().parse_args([str(folder), "--evals", evals])), folder)

    assert base_of("attention") is None, "what the export command wrote does not say how its base was read"
    model = {"path": "some/model", "tokenizer": "auto", "dtype": "auto"}
    (tmp_path / "settings.json").write_text(json.dumps({"model": model, "data": {"path": "mine.jsonl"}}))
    found = base_of("ifeval,attention")
    assert (found["model"], found["data"]["bos"], found["method"]) == (model, "always", "none")
    assert base_of("ifeval") is None


def test_an_adapter_is_scored_under_the_bos_rule_that_it_was_trained_with(tmp_path):
    asked = ["some/model", "--evals", "ifeval", "--adapter", str(tmp_path)]
    assert "data" not in document(parser().parse_args(asked))
    (tmp_path / "export.json").write_text(json.dumps({"kind": "adapter", "bos": "always", "bos_token": "<|end|>"}))
    found = document(parser().parse_args(asked))["data"]
    assert (found["bos"], found["bos_token"]) == ("always", "<|end|>")
