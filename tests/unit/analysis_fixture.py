"""Tables as the analysis evals write them, made from a seed, for a small model of 4 layers and 4 heads."""

import math
import random

from orchestrator.record.records import Objective, Results, Row, State
from tests.unit.results_fixture import curves, perplexity_samples, record_of, settings

LAYERS, HEADS, POSITIONS = 4, 4, 24


def attention_tables(sink=0.6, seed=0, norm=8.0, base=None, layers=LAYERS, heads=HEADS, positions=POSITIONS):
    """Tables of the eval `attention`: heads of later layers give the first token about `sink` of their attention."""
    luck = random.Random(seed)
    alpha = [
        [min(0.99, max(0.01, sink * layer / (layers - 1) + luck.uniform(-0.08, 0.08))) for _ in range(heads)]
        for layer in range(layers)
    ]
    norms = {
        "embeddings": [[norm, *(4 + luck.random() for _ in range(positions - 1))]],
        "hidden": [
            [norm * (layer + 1) ** 2, *(5 + luck.random() for _ in range(positions - 1))] for layer in range(layers)
        ],
        "keys": [[6 + luck.random() for _ in range(positions)] for _ in range(layers)],
        "values": [[0.4, *(3 + luck.random() for _ in range(positions - 1))] for _ in range(layers)],
    }
    return {
        "texts": 16, "position": 0, "eps": 0.3, "layers": layers, "heads": heads, "positions": positions,
        "alpha": alpha, "sink": [[float(value > 0.3) for value in line] for line in alpha],
        "mass": {"first": alpha, "diagonal": [[0.1] * heads] * layers, "rest": [[0.3] * heads] * layers},
        "entropy": [[1.5] * heads] * layers, "norms": norms,
        "maps": {"0.0": attention_map(0.1, positions), f"{layers - 1}.0": attention_map(sink, positions)},
        **({"base": base, "distance": [[0.2] * heads] * layers} if base else {}),
    }  # fmt: skip


def attention_map(sink, positions):
    """Rows that give `sink` to the first key and share the rest among the others up to their own."""
    rows = []
    for query in range(positions):
        weights = [0.0 if key > query else math.exp(-(query - key) / 6) for key in range(positions)]
        weights[0] = 0.0 if query else 1.0
        rest = sum(weights)
        rows.append(
            [sink if key == 0 and query else (1 - sink if query else 1) * w / rest for key, w in enumerate(weights)]
        )
    return rows


def weights_moved(most=2, scale=0.02, layers=LAYERS):
    """Entries of `weights_moved` of an adapter on all linear layers, of which layer `most` moved furthest."""
    kinds = {"q": 1.2, "k": 0.8, "v": 1.0, "o": 1.1, "gate": 0.6, "up": 0.7, "down": 0.9, "norm": 0.0}
    return [
        {
            "module": f"model.layers.{layer}.{kind}", "layer": layer, "kind": kind,
            "relative": scale * share * (2.0 if layer == most else 1.0 + 0.1 * layer),
        }
        for layer in range(layers)
        for kind, share in kinds.items()
    ] + [{"module": "model.embed_tokens", "layer": None, "kind": "embed", "relative": 0.0}]  # fmt: skip


def position_gradients(first=0.0, steps=(1, 5, 10), positions=17, layers=LAYERS):
    """What train.json has of `train.log_position_gradients`; `first`: the norm at position 0 of the embedding."""
    rows = ["embedding", "embedding as the layers get it", *(f"layer {number}" for number in range(layers))]
    entries = [
        {
            "step": step,
            "norms": [
                [first if row == 0 else 3.0 / (row + 1), *(0.05 / (1 + place) / step for place in range(positions - 1))]
                for row in range(len(rows))
            ],
        }
        for step in steps
    ]
    return {"position_gradients": entries, "position_gradient_rows": rows}


def attention_samples(alpha, n=16, seed=0):
    """Samples of the eval `attention` around a mean alpha."""
    luck = random.Random(seed)
    return [
        {
            "key": str(key),
            "paired": True,
            "scores": {"attention/alpha_first": {"sum": alpha + luck.uniform(-0.03, 0.03), "count": 1}},
        }
        for key in range(n)
    ]


def analysis_record(eval_name, row_id, samples, tables, direction="min"):
    """A record with tables."""
    return record_of(eval_name, row_id, samples, direction).model_copy(update={"tables": tables})


def robustness_samples(plain, drops, n=40, seed=0):
    """Samples of the eval `robustness` of perplexity: a mean drop (nats a token) for each variant."""
    luck = random.Random(seed)
    samples = []
    for key in range(n):
        own = random.Random(key).uniform(-0.1, 0.1)
        scores = {"robustness/perplexity_all_none": {"sum": 20 * (plain + own), "count": 20, "scale": "exp"}}
        for variant, drop in drops.items():
            more = drop + luck.uniform(-0.05, 0.05)
            scores[f"robustness/perplexity_all_{variant}"] = {
                "sum": 20 * (plain + own + more),
                "count": 20,
                "scale": "exp",
            }
            scores[f"robustness/perplexity_all_{variant}_drop"] = {"sum": 20 * more, "count": 20}
        samples.append({"key": str(key), "paired": True, "scores": scores})
    return samples


def analysed(row_id, label, alpha, drops, nll, base=None, moved=None, **fields):
    """A row that every analysis eval looked at."""
    tables = attention_tables(alpha, seed=len(row_id), norm=fields.pop("norm", 8.0), base=base)
    looked = attention_samples(alpha / 2)
    robust = robustness_samples(nll, drops, seed=len(label))
    scored = perplexity_samples(nll, role="all")
    evals = {
        "attention": analysis_record("attention", row_id, looked, tables),
        "robustness": analysis_record("robustness", row_id, robust, {"of": "perplexity"}),
        "perplexity": analysis_record("perplexity", row_id, scored, {}),
    }
    if moved is not None:
        evals["matrices"] = analysis_record("matrices", row_id, [], {"weights_moved": moved})
    samples = {"attention": looked, "robustness": robust, "perplexity": scored}
    return Row(id=row_id, label=label, state=State.DONE, evals=evals, samples=samples, **fields)


def chosen(method="lora", **scaling):
    """Settings of a trial with a LoRA adapter or none, and a scaling where one is given."""
    blocks = {} if method == "sft" else {"lora": {"rank": 4}}
    blocks |= {"bos_zero": {"factor": 0.0, "positions": [0], "when": "both", **scaling}} if scaling else {}
    return {**settings(), "method": method, "blocks": blocks}


def study_results(**changes):
    """A sweep of scalings: base, plain LoRA, full fine-tuning, LoRA at factor 0 and 0.05, and one at two positions."""
    base = analysed("base0", "base", 0.7, {"drop_first": 0.30, "shift_1": 0.01}, 2.0, is_base=True)
    known = base.evals["attention"].tables

    def trial(row_id, label, alpha, drop, nll, moved, settings, **more):
        drops = {"drop_first": drop, "shift_1": 0.01}
        return analysed(
            row_id, label, alpha, drops, nll, known, moved, base_id="base0", settings=settings,
            overrides={"name": label}, train={**curves(nll), **more.pop("train", {})}, **more,
        )  # fmt: skip

    rows = [
        base,
        trial("t0", "plain LoRA", 0.66, 0.28, 1.5, weights_moved(1), chosen(), train=position_gradients(2.0)),
        trial("t1", "full", 0.6, 0.25, 1.4, weights_moved(0), chosen("sft")),
        trial(
            "t2", "factor 0", 0.2, 0.02, 1.5, weights_moved(2, 0.04), chosen("bos_zero", factor=0.0), norm=0.0,
            train=position_gradients(0.0),
        ),
        trial("t3", "factor 0.05", 0.6, 0.2, 1.5, weights_moved(2, 0.03), chosen("bos_zero", factor=0.05), norm=0.4),
        trial("t4", "positions", 0.3, 0.1, 1.6, weights_moved(3), chosen("bos_zero", factor=0.0, positions=[0, 1])),
    ]  # fmt: skip
    values = {
        "name": "bos_zero", "question": "What does a model do without its first token?", "profile": "demo",
        "objective": Objective(metric="perplexity/all", direction="min"), "rows": rows,
    }  # fmt: skip
    return Results(**{**values, **changes})
