"""Bars of what a changed input costs, with their intervals."""

from collections.abc import Iterable, Sequence

from orchestrator.record.records import Row
from orchestrator.show import formats
from orchestrator.show.metrics import bounds, metric_names
from orchestrator.show.svg import COLORS, INK, WIDTH, Figure, finish, style

MOST_TRIALS, MOST_SCORES = 8, 2
"""Trials that stand side by side, and scores that have a panel."""


def drop_names(names: Iterable[str]) -> list[str]:
    """The metrics among these that say how much worse a changed input makes a score."""
    found = [name for name in names if name.startswith("robustness/") and name.endswith("_drop")]
    # Bits per byte are the same loss in another unit.
    return [name for name in found if "_bits_per_byte_" not in name]


def drop_bars(rows: Sequence[Row], name: str) -> Figure | None:
    """What each change of the input costs these rows, with 95 % intervals: a panel a score, a group a change."""
    left_out = formats.some_of(MOST_TRIALS, len(rows))
    rows = rows[:MOST_TRIALS]
    metrics = drop_names(metric_names(rows))
    scores = list(dict.fromkeys(formats.score_of_input(metric) for metric in metrics))[:MOST_SCORES]
    if not scores:
        return None
    with style() as canvas_of:
        canvas = canvas_of(WIDTH * (1.0 if len(rows) > 1 else 0.7), 2.7 * len(scores) + 0.5)
        panels = canvas.subplots(len(scores), 1, squeeze=False)[:, 0]
        words = []
        for axes, score in zip(panels, scores, strict=True):
            own = [metric for metric in metrics if formats.score_of_input(metric) == score]
            width = 0.8 / len(rows) if len(rows) > 1 else 0.4
            for place, row in enumerate(rows):
                found = [(group, metric, row.metric(metric)) for group, metric in enumerate(own)]
                known = [(group, metric, value) for group, metric, value in found if value is not None]
                if not known:
                    continue
                spans = [bounds(metric, value) or (value.value, value.value) for _, metric, value in known]
                axes.bar(
                    [group + (place - (len(rows) - 1) / 2) * width for group, *_ in known],
                    [value.value for *_, value in known],
                    width=width * 0.92,
                    color=COLORS[6] if row.is_base else COLORS[place % 6],
                    hatch="///" if place > 6 else None,
                    yerr=[
                        [value.value - low for (*_, value), (low, _) in zip(known, spans, strict=True)],
                        [high - value.value for (*_, value), (_, high) in zip(known, spans, strict=True)],
                    ],
                    error_kw={"ecolor": INK, "elinewidth": 0.9, "capsize": 2},
                    label=formats.one_line(row.label, 30),
                )
                words += [
                    f"{row.label} under {formats.change_of_input(metric)} {formats.number(value.value, 3)}"
                    for _, metric, value in known
                ]
            axes.axhline(0, color=INK, linewidth=0.8)
            axes.set_xticks(range(len(own)), [formats.change_of_input(metric) for metric in own])
            axes.set_xlim(-0.6, len(own) - 0.4)
            axes.grid(visible=False, axis="x")
            of = f"{formats.one_line(rows[0].label, 34)}: " if len(rows) == 1 else ""
            axes.set_title(f"{of}loss of {score}", fontsize=9)
        handles, labels = panels[0].get_legend_handles_labels()
        if len(labels) > 1:
            canvas.legend(handles, labels, loc="outside upper right", ncols=min(4, len(labels)), fontsize=8)
        return finish(
            canvas,
            name,
            "How much worse a score becomes when the input's first token is dropped or replaced, or tokens are put in "
            "front; whiskers are 95 % intervals over items, and a bar below zero is a gain. A perplexity's loss is in "
            f"nats a token.{left_out}",
            f"Loss by change of the input: {'; '.join(words)}.",
        )
