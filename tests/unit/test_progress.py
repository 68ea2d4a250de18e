"""The display of a running sweep: live on a terminal, lines on a pipe."""

import io
from itertools import pairwise
from typing import Any

import pytest

from orchestrator.record.records import State
from orchestrator.show.formats import one_line
from orchestrator.show.live import layout
from orchestrator.show.progress import Line, Progress, advance, eta_seconds, plain, remaining_seconds, visible

ROWS = [("b", "base", True), ("a", "learning_rate=5e-05", False), ("c", "targets=[q_proj]\x1b[2J", False)]


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def _piped(**options: Any) -> tuple[Progress, io.StringIO, Clock]:
    out, clock = io.StringIO(), Clock()
    return Progress(ROWS, stream=out, clock=clock, **options), out, clock


def test_a_stream_that_is_no_terminal_gets_plain_lines() -> None:
    progress, out, _ = _piped()
    with progress:
        progress.update("a", state=State.TRAINING, steps=60)
    assert progress.interactive is False
    assert "learning_rate=5e-05: training" in out.getvalue()


def test_every_change_of_state_gets_one_line_with_how_many_have_ended() -> None:
    progress, out, _ = _piped()
    for state in (State.TRAINING, State.TRAINING, State.TRAINED, State.EVALUATING, State.DONE):
        progress.update("a", state=state)
    lines = out.getvalue().splitlines()
    assert [line.split(": ")[1] for line in lines] == ["training", "trained", "evaluating", "done"]
    assert lines[0].startswith("[0 s] 0/3 ")
    assert lines[-1].startswith("[0 s] 1/3 ")


def test_steps_get_a_line_only_so_often() -> None:
    progress, out, clock = _piped(line_seconds=10)
    progress.update("a", state=State.TRAINING, steps=100)
    for step in range(1, 101):
        clock.now += 0.5
        progress.update("a", step=step, loss=1.0)
    steps = [line for line in out.getvalue().splitlines() if "step" in line]
    assert len(steps) == 5
    assert "step 20/100, loss 1.000" in steps[0]


def test_lines_hold_no_control_characters_whatever_a_label_or_an_error_holds() -> None:
    progress, out, _ = _piped()
    with progress:
        progress.update("c", state=State.FAILED, note="out of\nmemory\x1b[31m\r\u2028x")
        progress.message("a warning\x07 of two\nlines")
    text = out.getvalue()
    assert all(char == "\n" or char.isprintable() for char in text)
    assert "out of memory [31m x" in text
    assert len(text.splitlines()) == 3


def test_a_pipe_that_is_not_utf_8_or_is_closed_does_not_stop_the_sweep() -> None:
    raw = io.BytesIO()
    ascii_stream = io.TextIOWrapper(raw, encoding="ascii")
    with Progress([("a", "größe=1", False)], stream=ascii_stream) as progress:
        progress.update("a", state=State.TRAINING)
    assert b"gr??e=1: training" in raw.getvalue()
    closed = io.StringIO()
    progress = Progress(ROWS, stream=closed, interactive=False)
    closed.close()
    with progress:
        progress.update("a", state=State.TRAINING)


def test_an_unknown_fact_is_refused_and_an_unknown_trial_is_added() -> None:
    progress, out, _ = _piped()
    with pytest.raises(TypeError):
        progress.update("a", losss=1.0)
    progress.update("later", state="training")
    assert "later: training" in out.getvalue()
    assert len(progress.lines) == 4


@pytest.mark.parametrize("size", [(200, 50), (80, 24), (40, 6), (12, 3), (1, 1)])
def test_a_terminal_of_any_size_is_drawn_and_the_last_table_is_whole(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(size[0]))
    monkeypatch.setenv("LINES", str(size[1]))
    out = io.StringIO()
    with Progress(ROWS, stream=out, interactive=True) as progress:
        progress.update("a", state=State.TRAINING, steps=60, step=12, loss=1.25, tokens_per_second=12345.6)
        progress.message("a warning [x]")
        progress.update("c", state=State.FAILED, note="out of memory")
    text = out.getvalue()
    assert "\x1b[" in text
    assert "\x1b[2J" not in text
    if size[0] >= 80:
        last = text[text.rindex("trial") :]
        for expected in ("base", "learning_rate=5e-05", "12/60", "1.250", "failed", "targets=[q_proj]"):
            assert expected in last
    assert text.endswith("\x1b[?25h") or "\x1b[?25h" in text


def test_a_narrow_terminal_loses_columns_in_a_fixed_order_and_never_the_trial() -> None:
    natural = {"trial": 30, "state": 10, "step": 16, "loss": 5, "tokens/s": 8, "eval": 14, "ETA": 10, "note": 40}
    kept = [set(layout(natural, width)) for width in range(10, 200)]
    assert all(small <= large for small, large in pairwise(kept))
    assert kept[0] >= {"trial", "state"}
    assert kept[-1] == set(natural)
    wide = layout(natural, 199)
    assert wide["trial"] == 30
    assert sum(item + 3 for item in wide.values()) <= 199


def test_a_low_terminal_shows_what_is_active_and_what_failed_before_what_waits() -> None:
    lines = [Line(str(i), str(i), state=State.DONE, ended=float(i)) for i in range(10)]
    lines += [Line("run", "run", state=State.TRAINING), Line("bad", "bad", state=State.FAILED, ended=3.0)]
    lines += [Line(f"p{i}", f"p{i}") for i in range(5)]
    assert [line.id for line in visible(lines, 3)] == ["9", "run", "bad"]
    assert visible(lines, 100) == lines


def test_time_left_comes_from_the_steps_seen_since_this_attempt_began() -> None:
    line = advance(Line("a", "a"), 0.0, {"state": State.TRAINING, "steps": 100})
    assert remaining_seconds(line, 5.0) is None
    # Start-up took 20 s and the first step seen is 40, as after a resume: neither counts into the rate.
    line = advance(line, 20.0, {"step": 40})
    line = advance(line, 30.0, {"step": 60})
    assert remaining_seconds(line, 30.0) == pytest.approx(20.0)
    assert remaining_seconds(line, 35.0) == pytest.approx(15.0)
    assert remaining_seconds(line, 99.0) == 0.0
    assert remaining_seconds(advance(line, 31.0, {"state": State.TRAINED}), 31.0) is None


def test_a_new_attempt_forgets_the_rate_of_the_old_one() -> None:
    line = Line("a", "a", state=State.TRAINING, steps=100, first=(1, 0.0), last=(50, 10.0), started=0.0)
    again = advance(advance(line, 11.0, {"state": State.FAILED}), 20.0, {"state": State.TRAINING})
    assert (again.first, again.last, again.started, again.ended) == (None, None, 20.0, None)


def test_the_sweeps_time_left_counts_waiting_trials_by_the_mean_of_ended_ones() -> None:
    done = Line("a", "a", state=State.DONE, started=0.0, ended=30.0)
    waiting = [Line("b", "b"), Line("c", "c")]
    assert eta_seconds([done, *waiting], 30.0) == pytest.approx(60.0)
    training = Line("d", "d", state=State.TRAINING, steps=10, started=20.0, first=(0, 30.0), last=(5, 40.0))
    # 10 s are left of d; its whole time of 30 s and a's 30 s make the mean of 30 s for b and c; one runs at a time.
    assert eta_seconds([done, training, *waiting], 40.0) == pytest.approx(70.0)
    assert eta_seconds(waiting, 40.0) is None
    assert eta_seconds([done], 40.0) == 0.0


def test_two_trials_at_once_halve_the_time_left_but_not_below_the_longest() -> None:
    one = Line("a", "a", state=State.TRAINING, steps=10, started=0.0, first=(0, 0.0), last=(5, 10.0))
    two = Line("b", "b", state=State.TRAINING, steps=100, started=0.0, first=(0, 0.0), last=(10, 10.0))
    assert eta_seconds([one, two], 10.0) == pytest.approx(90.0)
    assert eta_seconds([one, one, Line("c", "c")], 10.0) == pytest.approx((10 + 10 + 20) / 2)


def test_a_plain_line_says_the_step_the_loss_and_the_rate() -> None:
    line = Line("a", "lr=1", state=State.TRAINING, step=3, steps=9, loss=0.5, tokens_per_second=12345.6)
    assert plain(line) == "lr=1: training, step 3/9, loss 0.500, 12,346 tokens/s"
    assert one_line("a" * 10, 5) == "aaaa…"
