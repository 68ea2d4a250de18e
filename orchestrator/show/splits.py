"""The split of multiple-choice questions whose score is reported, and what was chosen by it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.record.records import EvalRecord, Results, Row
from orchestrator.show import formats
from orchestrator.show.metrics import setting, trained

EVAL = "mmlu"
CHANGED = f"robustness/{EVAL}_"
"""How the same scores under changed inputs begin, as in robustness/mmlu_test_acc_none."""
VALIDATION = "val"
"""Split that questions validate on where a trial names none."""


@dataclass(frozen=True)
class Split:
    """The reported split of an eval."""

    name: str
    metric: str
    """The score on it that is like the objective, or the accuracy."""
    standing: str
    """What was chosen by it, as in `by which nothing was chosen`; empty where the records do not tell."""

    @property
    def opening(self) -> str:
        """`On test, by which nothing was chosen,`: how a sentence about a score on it begins."""
        return ", ".join(("On " + self.name, *([self.standing] if self.standing else []))) + ","


def reported_split(results: Results, record: EvalRecord) -> Split | None:
    """None where an eval's record has no score on such a split."""
    splits: Mapping[str, Any] = record.tables.get("splits", {})
    name, own = _one_name(splits.get("score_on")), results.objective.metric
    ranked = ranked_split(results, record)
    leaf = own.removeprefix(f"{EVAL}/{ranked}_")
    metric = next(
        (one for item in (leaf, "acc", "lm_eval_acc") if (one := f"{EVAL}/{name}_{item}") in record.metrics), ""
    )
    return Split(name, metric, _standing(results, record, name, ranked)) if metric else None


def ranked_split(results: Results, record: EvalRecord) -> str:
    """The split that the objective is a score on; empty where it is a score of something else."""
    own, splits = results.objective.metric, record.tables.get("splits", {})
    start = next((start for start in (f"{EVAL}/", CHANGED) if own.startswith(start)), None)
    if start is None:
        return ""
    known = {*record.tables.get("overall", {}), *map(_one_name, (splits.get("select_on"), splits.get("score_on")))}
    # Where both test and test_easy are splits, mmlu/test_easy_acc is a score on the second.
    return max((name for name in known if name and own.startswith(f"{start}{name}_")), key=len, default="")


def _standing(results: Results, record: EvalRecord, name: str, ranked: str) -> str:
    splits: Mapping[str, Any] = record.tables.get("splits", {})
    if ranked and _overlap(ranked, name):
        return "by which trials were ranked"
    validated = [row for row in trained(results) if _overlap(_validation(row), name)]
    if validated:
        # Rows that trained on other data may have a split of that name too.
        same = any(setting(row, "data.path") == record.config.get("data") for row in validated)
        return "by which it was chosen what is exported" if same else ""
    if splits.get("allow_selection_on_test"):
        return ""
    shared = splits.get("shared")
    if shared:
        return f"{formats.count(shared, 'question')} of which {'stands' if shared == 1 else 'stand'} in both splits"
    return "by which nothing was chosen"


def _validation(row: Row) -> str:
    """The split that chose a trial's best step or text prompt; empty where it was not trained on questions."""
    asked = row.settings.get("blocks", {}).get("questions")
    if asked is None and setting(row, "method") != "soft_prompt":
        return ""
    return _one_name(setting(row, "questions.validation_split") or VALIDATION)


def _overlap(one: str, other: str) -> bool:
    from evals._questions import EVERY

    return bool(one and other) and (one == other or EVERY in (one, other))


def _one_name(split: Any) -> str:
    from evals._questions import split_name

    return split_name(split) if isinstance(split, str) else ""
