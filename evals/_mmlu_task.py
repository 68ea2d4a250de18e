"""lm-eval's `mmlu` task on questions of our own: its prompt, its scoring, only the data replaced."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals._questions import LETTERS, Question

CHOICES = 4
"""lm-eval's prompt is written for as many; other questions get the same with as many lines as they have."""


@dataclass(frozen=True)
class Likelihoods:
    """What lm-eval found for one question."""

    prompt: str
    logprobs: tuple[float, ...]
    """Sum of the log-probabilities of " A", " B" and so on, in nats."""
    choice: int
    is_correct: bool
    """lm-eval's own verdict."""


class _Rows(list[dict[str, Any]]):
    """Rows as lm-eval wants a split: a sequence with `features`."""

    features = dict.fromkeys(("question", "choices", "answer", "subject"))


def score(
    lm: Any, questions: Sequence[Question], shots: Mapping[str, Sequence[Question]], count: int
) -> list[Likelihoods]:
    """Run lm-eval's task of every subject; in the order of the questions.

    `lm`: an `lm_eval.api.model.LM`; `shots`: subject -> the examples before its questions, of which the first `count`
    are shown.
    """
    from lm_eval.evaluator import evaluate

    by_subject: dict[str, list[int]] = {}
    for place, question in enumerate(questions):
        by_subject.setdefault(question.subject, []).append(place)
    tasks = {
        f"mmlu_{number}": _task([questions[i] for i in places], shots.get(subject, ()), subject, number, count)
        for number, (subject, places) in enumerate(by_subject.items())
    }
    # A progress bar for each of 57 subjects says nothing.
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        found = evaluate(lm=lm, task_dict={"tasks": tasks}, log_samples=True, bootstrap_iters=0)
    assert found is not None
    results: dict[int, Likelihoods] = {}
    for name, places in zip(tasks, by_subject.values(), strict=True):
        for sample in found["samples"][name]:
            logs = tuple(float(pair[0]) for pair in sample["filtered_resps"])
            results[places[sample["doc_id"]]] = Likelihoods(
                prompt=sample["arguments"][0][0],
                logprobs=logs,
                choice=max(range(len(logs)), key=lambda place: (logs[place], -place)),
                is_correct=bool(sample["acc"]),
            )
    return [results[place] for place in range(len(questions))]


def _task(questions: Sequence[Question], shots: Sequence[Question], subject: str, number: int, count: int) -> Any:
    from lm_eval.api.task import ConfigurableTask

    settings = settings_of(subject, [*questions, *shots[:count]])
    settings |= {"task": f"mmlu_{number}", "num_fewshot": count}

    class OnRows(ConfigurableTask):
        """The stock task with its download replaced."""

        def download(self, *_args: Any, **_kwargs: Any) -> None:
            rows = _Rows(_row(question) for question in questions)
            self.dataset = {settings["test_split"]: rows, settings["fewshot_split"]: _Rows(map(_row, shots))}

    return OnRows(config=settings)


def settings_of(subject: str, questions: Sequence[Question]) -> dict[str, Any]:
    """lm-eval's settings of the task of one subject, the number of choices apart."""
    from lm_eval import tasks
    from lm_eval.tasks._yaml_loader import load_yaml

    settings = dict(load_yaml(Path(str(tasks.__file__)).parent / "mmlu" / "default" / "_default_template_yaml"))
    about = subject.replace("_", " ")
    settings["description"] = f"The following are multiple choice questions (with answers) about {about}.\n\n"
    if any(len(question.choices) != CHOICES for question in questions):
        lines = f"{{% for choice in choices %}}\n{{{{ '{LETTERS}'[loop.index0] }}}}. {{{{ choice }}}}{{% endfor %}}"
        settings["doc_to_text"] = f"{{{{question.strip()}}}}{lines}\nAnswer:"
        settings["doc_to_choice"] = f"{{{{ {list(LETTERS)}[:choices|length] }}}}"
    return settings


def _row(question: Question) -> dict[str, Any]:
    return {
        "question": question.question,
        "choices": list(question.choices),
        "answer": question.answer,
        "subject": question.subject,
    }
