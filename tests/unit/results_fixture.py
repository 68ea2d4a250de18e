"""Realistic results of small sweeps: base row and trials with curves, samples and records, made from a seed."""

import math
import random
from typing import Any

from orchestrator.record.records import (
    EvalRecord,
    Failure,
    MetricRecord,
    Objective,
    Results,
    Row,
    State,
    TrialRecord,
)

STRICT = "ifeval/prompt_level_strict_acc"
TYPES = (
    "punctuation:no_comma",
    "change_case:english_lowercase",
    "detectable_format:title",
    "startend:quotation",
    "keywords:existence",
    "length_constraints:number_words",
)
BASELINE = {
    "learning_rate": 2e-5,
    "epochs": 3,
    "global_batch": 128,
    "warmup_ratio": 0.1,
    "lr_schedule": "cosine",
}


def settings(**train: Any) -> dict[str, Any]:
    """Resolved settings of a trial with these values in its `train` block."""
    return {
        "method": "sft",
        "model": {"path": "builtin:mini", "tokenizer": "auto", "attention": "auto", "dtype": "auto"},
        "data": {"path": "builtin:chat", "train_on": "assistant", "mask_span": "message", "max_length": 2048},
        "train": {**BASELINE, **train},
        "seed": 0,
    }


def curves(
    end: float, heldout: list[float] | None = None, steps: int = 30, start: float = 3.0, **summary: Any
) -> dict[str, Any]:
    """train.json of a trial whose loss falls from `start` to `end`, with these held-out losses at the epochs' ends."""
    held = [start * 0.6, end * 1.2, end * 1.1] if heldout is None else heldout
    epochs = max(1, len(held))
    random_ = random.Random(int(end * 1e6))
    points = []
    for step in range(1, steps + 1):
        share = step / steps
        loss = end + (start - end) * math.exp(-5 * share) + random_.uniform(-0.02, 0.02)
        rate = summary.get("learning_rate", 2e-5) * 0.5 * (1 + math.cos(math.pi * share))
        points.append(
            {
                "step": step,
                "epoch": share * epochs,
                "loss": loss,
                "learning_rate": rate,
                "grad_norm": 1.0 / step,
                "tokens": 4096 * step,
                "targets": 1000,
                "seconds": 0.25 * step,
            }
        )
    return {
        "trial_id": "x",
        "method": "sft",
        "seed": 0,
        "steps": points,
        "heldout": [
            {"step": steps * (i + 1) // epochs, "epoch": i + 1, "loss": value, "targets": 500}
            for i, value in enumerate(held)
        ],
        "metrics": {"train/loss": end, **({"train/heldout_loss": held[-1]} if held else {})},
        "rows": {"read": 640, "kept": 632, "train": 600, "heldout": 32, "dropped": {"no target": 8}},
        "tokens": 4096 * steps,
        "targets": 1000 * steps,
        "seconds": 8.2,
        "tokens_per_second": 15000.0,
        "peak_memory_bytes": 812_000_000,
        "checkpoint": None,
        "summary": {
            "device": "cpu",
            "dtype": "float32",
            "precision": "float32",
            "attention": "sdpa",
            "workers": 1,
            "micro_batch": 16,
            "accumulation": 8,
            "global_batch": 128,
            "learning_rate": 2e-5,
            "epochs": 3,
            "total_steps": steps,
            "max_length": 2048,
            "warmup_ratio": 0.1,
            "warmup_steps": 3,
            "lr_schedule": "cosine",
            "trainable_parameters": 869504,
            "total_parameters": 869504,
            **summary,
        },
        "versions": {"torch": "2.13.0", "transformers": "5.23.0"},
    }


def ifeval_samples(skill: float, n: int = 120, tag: str = "", seed: int = 7) -> list[dict[str, Any]]:
    """IFEval samples of a model that follows an instruction with about this probability; a prompt that a weaker model
    passes is mostly passed by a stronger one too."""
    samples = []
    for key in range(n):
        luck = random.Random(f"{seed}-{key}")
        names = [TYPES[(key + i * 2) % len(TYPES)] for i in range(1 + key % 3)]
        instructions = []
        for name in names:
            hard = 0.5 if name.startswith("length") else 0.0
            strict = luck.random() < skill - hard * skill
            instructions.append({"id": name, "kwargs": {}, "strict": strict, "loose": strict or luck.random() < 0.05})
        strict, loose = all(i["strict"] for i in instructions), all(i["loose"] for i in instructions)
        samples.append(
            {
                "key": str(1000 + key),
                "prompt": f"Tell me about person {key}. Follow {', '.join(names)}.",
                "answer": f"{tag} answers prompt {key} and {'follows' if strict else 'misses'} it.",
                "paired": key != 5,
                "strict": strict,
                "loose": loose,
                "instructions": instructions,
                "scores": {
                    STRICT: {"sum": int(strict), "count": 1},
                    "ifeval/prompt_level_loose_acc": {"sum": int(loose), "count": 1},
                    "ifeval/inst_level_strict_acc": {
                        "sum": sum(i["strict"] for i in instructions),
                        "count": len(instructions),
                    },
                    "ifeval/inst_level_loose_acc": {
                        "sum": sum(i["loose"] for i in instructions),
                        "count": len(instructions),
                    },
                },
            }
        )
    return samples


def record_of(
    eval_name: str, trial_id: str, samples: list[dict[str, Any]], direction: str = "max", **config: Any
) -> EvalRecord:
    """The eval record that these samples add up to."""
    names = list(dict.fromkeys(name for sample in samples for name in sample["scores"]))
    metrics = {}
    for name in names:
        scores = [sample["scores"][name] for sample in samples if name in sample["scores"]]
        count = sum(score["count"] for score in scores)
        value = sum(score["sum"] for score in scores) / count
        n = len(scores)
        spread = sum((score["sum"] - value * score["count"]) ** 2 for score in scores)
        stderr = math.sqrt(n / (n - 1) * spread) / count if n > 1 else None
        if scores[0].get("scale") == "exp":
            value = math.exp(value)
            stderr = None if stderr is None else stderr * value
        metrics[name] = MetricRecord(value=value, direction=direction, n=count, stderr=stderr)  # type: ignore[arg-type]
    return EvalRecord(
        id=f"e-{eval_name}-{trial_id}",
        trial_id=trial_id,
        eval=eval_name,
        config=config,
        version=1,
        harness="lm-eval 0.4.13" if eval_name == "ifeval" else "",
        data_hash="d" * 16,
        metrics=metrics,
        samples=f"evals/{eval_name}/samples.jsonl",
        seconds=3.5,
        environment={"device": "cpu"},
    )


def row(id: str, label: str, skill: float | None, *, n: int = 120, is_base: bool = False, **fields: Any) -> Row:
    """A row scored by IFEval; `skill` None leaves it unscored."""
    samples = ifeval_samples(skill, n, tag=f"model {id}") if skill is not None else []
    defaults: dict[str, Any] = {
        "id": id,
        "label": label,
        "is_base": is_base,
        "base_id": None if is_base else "base0",
        "state": State.DONE if skill is not None else State.PLANNED,
        "settings": settings() if not is_base else {**settings(), "method": "none"},
        "evals": {"ifeval": record_of("ifeval", id, samples)} if samples else {},
        "samples": {"ifeval": samples} if samples else {},
    }
    return Row(**{**defaults, **fields})


def trial(
    id: str, label: str, skill: float | None, overrides: dict[str, Any], train: dict[str, Any], **fields: Any
) -> Row:
    """A trained row that overrides some of the baseline's `train` settings (dotted keys)."""
    changed = {key.split(".")[1]: value for key, value in overrides.items() if key.startswith("train.")}
    chosen = settings(**changed)
    record = TrialRecord(id=id, state="trained", settings=chosen, export="export", export_hash="e" * 16)
    given = {
        "overrides": overrides,
        "settings": chosen,
        "train": {**train, "trial_id": id},
        "record": record,
        "checkpoint": f"/store/trials/{id}/checkpoints/step_30",
        **fields,
    }
    return row(id, label, skill, **given)


def tuning_results(n: int = 120, **changes: Any) -> Results:
    """One-at-a-time tuning: a base row and six trials; t3 is best, t4 overfits, t5 failed."""
    lr = "train.learning_rate"
    slow = curves(1.50, [1.9, 1.7, 1.62], learning_rate=2.5e-6)
    fast = curves(0.45, [0.9, 0.62, 0.60], learning_rate=5e-5)
    longer = curves(0.38, [0.9, 0.7, 0.57, 0.56], epochs=4)
    over = curves(0.23, [0.8, 0.7, 0.95], lr_schedule="linear")
    rows = [
        row("base0", "base", 0.22, n=n, is_base=True),
        trial("t0", "baseline", 0.70, {}, curves(0.76, [1.5, 0.95, 0.90]), n=n),
        trial("t1", "learning_rate=2.5e-06", 0.25, {lr: 2.5e-6}, slow, n=n),
        trial("t2", "learning_rate=5e-05", 0.82, {lr: 5e-5}, fast, n=n),
        trial("t3", "epochs=4", 0.90, {"train.epochs": 4}, longer, n=n),
        trial("t4", "lr_schedule=linear", 0.74, {"train.lr_schedule": "linear"}, over, n=n),
        trial(
            "t5",
            "global_batch=256",
            None,
            {"train.global_batch": 256},
            {},
            state=State.FAILED,
            record=None,
            checkpoint=None,
            failure=Failure(kind="OutOfMemoryError", message="tried to allocate 2 GiB [cpu]", deterministic=False),
        ),
    ]
    values: dict[str, Any] = {
        "name": "sft_tune",
        "question": "Which learning rate, batch and schedule lift IFEval?",
        "profile": "demo",
        "objective": Objective(metric=STRICT, direction="max", target=0.22),
        "axes": {
            lr: [2e-5, 2.5e-6, 5e-5],
            "train.epochs": [3, 4],
            "train.global_batch": [128, 256],
            "train.lr_schedule": ["cosine", "linear"],
        },
        "baseline_id": "t0",
        "rows": rows,
        "seconds": 187.0,
    }
    return Results(**{**values, **changes})


def perplexity_samples(nll: float, n: int = 40, seed: int = 3, role: str = "user") -> list[dict[str, Any]]:
    """Perplexity samples around this mean negative log-likelihood per token."""
    random_ = random.Random(seed)
    samples = []
    for key in range(n):
        tokens = random_.randint(5, 30)
        total = tokens * (nll + random_.uniform(-0.3, 0.3))
        scores = {f"perplexity/{role}": {"sum": total, "count": tokens, "scale": "exp"}}
        samples.append({"key": str(key), "paired": True, "scores": scores})
    return samples


def turn_samples(label: str, n: int = 5) -> list[dict[str, Any]]:
    """Generated next user turns beside the real ones."""
    return [
        {
            "key": str(key),
            "paired": True,
            "prompt": f"assistant: answer {key}",
            "role": "user",
            "answer": f"{label} guesses turn {key}",
            "reference": f"the real turn {key}",
            "scores": {"samples/answered": {"sum": 1, "count": 1}},
        }
        for key in range(n)
    ]


def masking_results() -> Results:
    """The masking sweep: a list of trials ranked by the perplexity of user turns, the lowest first."""
    rows = []
    for id_, label, nll, train_on in (
        ("base0", "base", 2.0, "assistant"),
        ("m0", "assistant", 1.9, "assistant"),
        ("m1", "user", 1.2, "user"),
    ):
        scored, turns = perplexity_samples(nll), turn_samples(label)
        chosen = settings()
        chosen["data"] = {**chosen["data"], "train_on": train_on}
        rows.append(
            Row(
                id=id_,
                label=label,
                is_base=id_ == "base0",
                base_id=None if id_ == "base0" else "base0",
                overrides={} if id_ == "base0" else {"data.train_on": train_on},
                settings=chosen if id_ != "base0" else {**chosen, "method": "none"},
                state=State.DONE,
                train={} if id_ == "base0" else curves(nll),
                evals={
                    "perplexity": record_of("perplexity", id_, scored, "min"),
                    "samples": record_of("samples", id_, turns),
                },
                samples={"perplexity": scored, "samples": turns},
            )
        )
    return Results(
        name="masking",
        question="What does it change to train on the user's turns?",
        profile="demo",
        objective=Objective(metric="perplexity/user", direction="min"),
        rows=rows,
    )
