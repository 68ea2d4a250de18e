"""What one sees while a sweep runs: a live table on a terminal, plain lines on a pipe."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import IO, Any

from orchestrator.record.records import State
from orchestrator.show.formats import duration, loss, number, one_line

ENDED = frozenset({State.DONE, State.FAILED, State.STOPPED})
ACTIVE = frozenset({State.TRAINING, State.TRAINED, State.EVALUATING})
STYLES = {
    State.PLANNED: "dim",
    State.TRAINING: "cyan",
    State.TRAINED: "cyan",
    State.EVALUATING: "magenta",
    State.DONE: "green",
    State.FAILED: "bold red",
    State.STOPPED: "yellow",
}
LINE_SECONDS = 10.0
"""On a pipe, a trial whose state does not change gets a line at most this often."""
REFRESH_SECONDS = 0.2
"""On a terminal, the table is drawn at most this often."""


@dataclass(frozen=True)
class Line:
    """All that is shown of one trial. Times are seconds of the display's clock."""

    id: str
    label: str
    is_base: bool = False
    state: State = State.PLANNED
    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    tokens_per_second: float | None = None
    eval: str = ""
    note: str = ""
    started: float | None = None
    ended: float | None = None
    first: tuple[int, float] | None = None
    """The first step that was seen of this run of the trial, and when: the rate is measured from there, so that
    start-up and the steps of an earlier attempt do not count."""
    last: tuple[int, float] | None = None
    """The newest step and when it was seen."""


def remaining_seconds(line: Line, now: float) -> float | None:
    """Seconds until the training of one trial ends, from its own rate of steps; None while that is unknown."""
    if line.state is not State.TRAINING or line.steps is None or line.first is None or line.last is None:
        return None
    done, span = line.last[0] - line.first[0], line.last[1] - line.first[1]
    if done <= 0 or span <= 0:
        return None
    return max(0.0, (line.steps - line.last[0]) * span / done - (now - line.last[1]))


def eta_seconds(lines: Sequence[Line], now: float) -> float | None:
    """Seconds until all trials have ended; None while too little is known.

    A trial that has not started is taken to need the mean time of those that ended with training in this run, or of
    those that are training (time so far and remaining); so many at a time as are active now. A base row, which does not
    train, is taken to need the mean time of the ended base rows, or nothing where there is none.
    """
    active = [line for line in lines if line.state in ACTIVE]
    waiting = [line for line in lines if line.state is State.PLANNED]
    if not active and not waiting:
        return 0.0
    spent = {
        line.id: line.ended - line.started for line in lines if line.ended is not None and line.started is not None
    }
    known = [spent[o.id] for o in lines if o.id in spent and not o.is_base and o.state is not State.FAILED]
    left: list[float] = []
    for line in active:
        rest = remaining_seconds(line, now)
        if rest is not None:
            left.append(rest)
            if line.started is not None:
                known.append(now - line.started + rest)
    trials = [line for line in waiting if not line.is_base]
    if not known and (trials or not left):
        return None
    mean = sum(known) / len(known) if known else 0.0
    for line in active:
        if remaining_seconds(line, now) is None and not line.is_base:
            begun = now - line.started if line.started is not None else 0.0
            left.append(max(0.0, mean - begun))
    base = [spent[line.id] for line in lines if line.id in spent and line.is_base]
    base_mean = sum(base) / len(base) if base else 0.0
    work = sum(left) + mean * len(trials) + base_mean * (len(waiting) - len(trials))
    return max(max(left, default=0.0), work / max(1, len(active)))


def advance(line: Line, now: float, changes: dict[str, Any]) -> Line:
    """The line after an update at `now`; None among the changes means unchanged. Raises TypeError for unknown ones."""
    changes = {name: item for name, item in changes.items() if item is not None}
    if "state" in changes:
        changes["state"] = State(changes["state"])
        if changes["state"] is not line.state:
            if changes["state"] is State.TRAINING:
                changes = {"first": None, "last": None, **changes}
            if changes["state"] in ACTIVE and (line.started is None or line.state in ENDED):
                changes |= {"started": now, "ended": None}
            if changes["state"] in ENDED and line.started is not None:
                changes["ended"] = now
    for name in ("eval", "note"):
        if name in changes:
            changes[name] = one_line(str(changes[name]))
    result = replace(line, **changes)
    if "step" in changes:
        seen = (int(changes["step"]), now)
        if result.first is None or seen[0] < result.first[0]:
            result = replace(result, first=seen)
        result = replace(result, last=seen)
    return result


def plain(line: Line) -> str:
    """One line of text about a trial, without control characters: `learning_rate=5e-05  training  step 12/60 ...`."""
    parts = [f"{line.label}: {line.state.value}"]
    if line.state in (State.TRAINING, State.TRAINED) and line.step is not None:
        parts.append(f"step {line.step}/{line.steps}" if line.steps else f"step {line.step}")
    if line.state is not State.PLANNED and line.loss is not None:
        parts.append(f"loss {loss(line.loss)}")
    if line.state is State.TRAINING and line.tokens_per_second is not None:
        parts.append(f"{number(round(line.tokens_per_second))} tokens/s")
    if line.eval:
        parts.append(line.eval)
    if line.note:
        parts.append(line.note)
    return one_line(", ".join(parts))


def visible(lines: Sequence[Line], room: int) -> list[Line]:
    """At most `room` lines in their own order: active ones first of all, then failed, planned, and the newest ended."""
    if len(lines) <= room:
        return list(lines)

    def rank(entry: tuple[int, Line]) -> tuple[int, float]:
        place, line = entry
        if line.state in ACTIVE:
            return 0, place
        if line.state is State.FAILED:
            return 1, -(line.ended or 0.0)
        if line.state is State.PLANNED:
            return 3, place
        return 2 if line.ended is not None else 4, -(line.ended or 0.0)

    chosen = sorted(enumerate(lines), key=rank)[: max(1, room)]
    return [line for _, line in sorted(chosen, key=lambda entry: entry[0])]


def summary(lines: Sequence[Line], now: float, begun: float) -> str:
    """`3 of 7 done, 1 failed, 1 training; 1 min 12 s, about 2 min 30 s left`."""
    done = sum(line.state is State.DONE for line in lines)
    parts = [f"{done} of {len(lines)} done"]
    for state in (State.FAILED, State.STOPPED, State.TRAINING, State.EVALUATING):
        many = sum(line.state is state for line in lines)
        if many:
            parts.append(f"{many} {state.value}")
    left = eta_seconds(lines, now)
    rest = "" if left == 0 else f", about {duration(left)} left" if left is not None else ""
    return f"{', '.join(parts)}; {duration(round(now - begun))}{rest}"


@dataclass
class Progress:
    """The display. Use as a context manager; `update` may be called from any thread, as often as one likes.

    `rows` are (id, label, is base). `interactive` None asks the stream whether it is a terminal. A display must never
    break the work it shows: a stream that cannot be written to silences it.
    """

    rows: Iterable[tuple[str, str, bool]]
    stream: IO[str] | None = None
    interactive: bool | None = None
    clock: Callable[[], float] = time.monotonic
    line_seconds: float = LINE_SECONDS
    _lines: dict[str, Line] = field(default_factory=dict, init=False)
    _spoken: dict[str, float] = field(default_factory=dict, init=False)
    _live: Any = field(default=None, init=False)
    _silent: bool = field(default=False, init=False)
    _whole: bool = field(default=False, init=False)
    _drawn: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self.stream = self.stream if self.stream is not None else sys.stdout
        if self.interactive is None:
            try:
                self.interactive = bool(self.stream.isatty()) and os.environ.get("TERM") not in ("dumb", "unknown")
            except (AttributeError, ValueError):
                self.interactive = False
        self._lines = {id_: Line(id_, one_line(label), is_base) for id_, label, is_base in self.rows}
        self._begun = self.clock()
        self._lock = threading.RLock()

    def __enter__(self) -> "Progress":
        self._begun = self.clock()
        if self.interactive:
            self._guard(self._start)
        return self

    def __exit__(self, *_: object) -> None:
        live = self._live
        if live is not None:
            # What stays on the screen afterwards is the whole table, however high the terminal is.
            live.vertical_overflow = "visible"
            self._whole = True
            self._guard(live.stop)
            self._live = None
        elif not self.interactive:
            self._say(summary(self.lines, self.clock(), self._begun))

    @property
    def lines(self) -> list[Line]:
        """What is known of every trial, in the order of the rows."""
        with self._lock:
            return list(self._lines.values())

    def update(self, trial_id: str, **facts: Any) -> None:
        """Take what is new of one trial: state, step, steps, loss (nats per target), tokens_per_second, eval, note.

        None leaves a fact as it is, "" clears a text. An id that is not among the rows is added. Raises TypeError for
        an unknown fact.
        """
        now = self.clock()
        with self._lock:
            before = self._lines.get(trial_id) or Line(trial_id, trial_id)
            after = advance(before, now, facts)
            self._lines[trial_id] = after
            told = (after.state, after.eval, after.note) != (before.state, before.eval, before.note)
            if self.interactive:
                if self._live is not None and (told or now - self._drawn >= REFRESH_SECONDS):
                    self._drawn = now
                    self._guard(self._live.refresh)
            elif told or now - self._spoken.get(trial_id, self._begun) >= self.line_seconds:
                self._spoken[trial_id] = now
                ended = sum(line.state in ENDED for line in self._lines.values())
                self._say(f"[{duration(round(now - self._begun))}] {ended}/{len(self._lines)} {plain(after)}")

    def message(self, text: str) -> None:
        """One line beside the display, such as a warning."""
        if self._live is not None:
            from rich.text import Text

            self._guard(lambda: self._live.console.print(Text(one_line(text))))
        else:
            self._say(one_line(text))

    def _say(self, text: str) -> None:
        def write() -> None:
            assert self.stream is not None
            # A stream that is not UTF-8 gets question marks rather than an error.
            code = getattr(self.stream, "encoding", None) or "utf-8"
            self.stream.write(text.encode(code, "replace").decode(code) + "\n")
            self.stream.flush()

        self._guard(write)

    def _guard(self, action: Callable[[], Any]) -> None:
        if self._silent:
            return
        try:
            action()
        except (OSError, ValueError):
            self._silent = True

    def _start(self) -> None:
        from rich.console import Console
        from rich.live import Live

        console = Console(file=self.stream, force_terminal=True)
        self._live = Live(
            console=console,
            get_renderable=self._table,
            refresh_per_second=2,
            vertical_overflow="crop",
            transient=False,
        )
        self._live.start(refresh=True)

    def _table(self) -> Any:
        from orchestrator.show.live import table

        live = self._live
        width, height = live.console.size if live is not None else (120, 40)
        return table(self.lines, self.clock(), self._begun, width, None if self._whole else height)
