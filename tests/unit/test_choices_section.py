"""What a report says of multiple-choice questions, from records of the real eval."""

import json

import pytest

from evals.mmlu import Config, run
from orchestrator.record.records import EvalRecord, MetricRecord, Objective, Results, Row, State
from orchestrator.show.formats import metric_label
from orchestrator.show.page import write_report
from tests.tiny_subject import tiny_subject

CSV = "Which?,calm,loud,red,dry,C\nAnd?,one,two,three,four,A\nThen?,a,b,c,d,A\n"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Base and two trials on two subjects, which random models answer in words that name no choice."""
    root = tmp_path_factory.mktemp("quiz")
    for split in ("val", "test"):
        (root / split).mkdir()
        for name in ("anatomy", "sociology"):
            (root / split / f"{name}_{split}.csv").write_text(CSV)
    config = Config(temperatures=(0.0, 0.7), max_new_tokens=6, bins=5)
    rows = []
    for seed, name in enumerate(("base", "one", "two")):
        found = run(tiny_subject(seed=seed), config, root, root)
        metrics = {
            key: MetricRecord(value=m.value, direction=m.direction, n=m.n, stderr=m.stderr, chance=m.chance)
            for key, m in found.metrics.items()
        }
        record = EvalRecord(
            id=f"e{seed}", trial_id=name, eval="mmlu", config=config.model_dump(mode="json"), version=1, harness="h",
            data_hash="d", metrics=metrics, tables=json.loads(json.dumps(found.tables)),
        )  # fmt: skip
        rows.append(
            Row(
                id=name,
                label=name,
                is_base=seed == 0,
                base_id=None if seed == 0 else "base",
                state=State.DONE,
                overrides={"x": name} if seed else {},
                evals={"mmlu": record},
                samples={"mmlu": json.loads(json.dumps(found.samples))},
            )
        )
    objective = Objective(metric="mmlu/val_acc", direction="max")
    return Results(name="quiz", question="Which?", profile="demo", objective=objective, rows=rows)


def test_the_report_tells_ranked_and_reported_splits_apart(results, tmp_path):
    write_report(results, tmp_path)
    text = (tmp_path / "report.md").read_text()
    chosen = max(results.rows[1:], key=lambda row: row.metric("mmlu/val_acc").value)
    tested = chosen.metric("mmlu/test_acc").value
    assert f"On test, by which nothing was chosen, its MMLU accuracy (test) is {100 * tested:.1f} %" in text
    assert "Trials are ranked on val and reported on test." in text
    part = text[text.index("## Multiple choice") :]
    lines = [line.split("|")[1].strip(" *") for line in part.splitlines() if line.startswith("|")]
    assert [line for line in lines if line in ("all", "social sciences", "stem")] == [
        "all",
        "social sciences",
        "stem",
    ] * 2
    assert "guessing gives 25.0 %, always A 66.7 %" in part
    assert "66.7 % A" in part
    assert "Accuracy against temperature. base: " in part
    assert "expected calibration error" in part
    assert "nats on average" in part
    assert "| trial | temperature | right | wrong | refusals |" in part
    unparsed = chosen.evals["mmlu"].tables["unparsed"]
    assert ("No choice told" in part) == bool(unparsed)
    assert "<h2" in (tmp_path / "report.html").read_text()


def test_the_trials_table_shows_the_split_that_ranks_alone(results, tmp_path):
    write_report(results, tmp_path)
    part = (tmp_path / "report.md").read_text().partition("Every trial on val, with standard errors.")[2]
    heads = part.strip().splitlines()[0]
    assert "(val)" in heads
    assert "(test)" not in heads


@pytest.mark.parametrize(
    ("metric", "label"),
    [
        ("mmlu/val_acc", "MMLU accuracy (val)"),
        ("mmlu/test_t0.4_refusal_rate", "MMLU refusals at temperature 0.4 (test)"),
        ("mmlu/test_social_sciences_acc", "MMLU accuracy (test, social sciences)"),
        ("mmlu/test_lm_eval_macro_acc", "MMLU accuracy by lm-eval, mean of subjects (test)"),
        ("mmlu/auxiliary_train_acc", "MMLU accuracy (auxiliary train)"),
    ],
)
def test_metrics_are_named_in_words(metric, label):
    assert metric_label(metric) == label
