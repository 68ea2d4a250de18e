"""A small study of the first token through real Ray: what its report answers, and the pictures in MLflow's runs."""

import json
import textwrap

import pytest

from orchestrator.sweep import main

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

FILE = """
    name: study
    question: What does a model do without its first token?
    method: bos_zero
    model: builtin:mini
    data: {path: "builtin:alpaca", max_rows: 60, max_length: 128, bos: always, heldout: 0.1}
    train: {learning_rate: 5e-3, epochs: 1, global_batch: 8, max_steps: 3, log_position_gradients: true}
    lora: {rank: 4}
    search: {kind: list, trials: [{name: plain, method: lora}, {name: zero}]}
    evals:
      perplexity: {}
      attention: {texts: 3}
      representations: {texts: 3}
      matrices: {max_texts: 1}
      robustness: {of: {perplexity: {}}, variants: [drop_first]}
    objective: {metric: perplexity/assistant}
"""


@pytest.fixture(scope="module")
def finished(cluster, tmp_path_factory):
    """The folder of the study after its run, and its exit code."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "study.yaml").write_text(textwrap.dedent(FILE))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        code = main([str(folder / "study.yaml"), "--output", str(folder / "outputs")])
        yield folder, code


def test_the_report_answers_the_research_questions_from_the_records(finished):
    folder, code = finished
    assert code == 0
    text = (folder / "outputs" / "sweeps" / "study" / "report.md").read_text()
    assert "This was not measured." not in text
    assert "The answers speak of “zero”, held against “plain”" in text
    assert "No gradient reached the embedding at position 0 while “zero” was trained" in text
    for title in ("How the model compensates", "How attention redistributes", "How robust it becomes"):
        assert f"## {title}" in text


def test_every_run_of_an_eval_that_looks_inside_holds_its_pictures_and_so_does_the_trials(finished):
    from mlflow import MlflowClient

    folder, _ = finished
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("study")
    runs = {run.info.run_name: run.info.run_id for run in client.search_runs([experiment.experiment_id])}

    def pictures(name, inside="plots"):
        return {file.path.rpartition("/")[2] for file in client.list_artifacts(runs[name], inside)}

    for trial in ("plain", "zero"):
        assert pictures(f"{trial}: attention") == {"sink.png", "maps.png", "norms.png"}
        assert pictures(f"{trial}: matrices") == {"weights_moved.png"}
        assert pictures(f"{trial}: representations") == {"likeness.png"}
        assert pictures(f"{trial}: robustness") == {"drops.png"}
        assert pictures(trial, "plots/attention") == pictures(f"{trial}: attention")
        assert pictures(trial, "plots/training") == {"position_gradients.png"}
        assert pictures(f"{trial}: perplexity") == set()
    assert pictures("base: attention") == {"sink.png", "maps.png", "norms.png"}


def test_the_numbers_say_what_a_factor_of_zero_does_to_layer_0(finished):
    folder, _ = finished
    results = json.loads((folder / "outputs" / "sweeps" / "study" / "results.json").read_text())
    rows = {row["label"]: row for row in results["rows"]}
    norms = {name: row["evals"]["attention"]["tables"]["norms"] for name, row in rows.items()}
    assert norms["zero"]["embeddings"][0][0] == norms["zero"]["values"][0][0] == 0.0
    assert norms["plain"]["embeddings"][0][0] == norms["base"]["embeddings"][0][0] > 0
    gradients = rows["zero"]["train"]["position_gradients"]
    assert [entry["norms"][0][0] for entry in gradients] == [0.0] * 3
    assert all(entry["norms"][1][0] > 0 for entry in gradients)
