"""Searches over text prompts: which hand-written prompt answers most questions, at what cost in answers.

Pure: whoever calls brings a scorer, and every draw comes from a seed. A score is of one prompt on one question.
"""

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Literal

Way = Literal["all", "random", "halving", "mcts"]
SENTENCE_ENDS = (". ", "? ", "! ")
EXPLORATION = 0.7
"""How much a tree search is drawn to what it has seldom tried; scores lie between 0 and 1."""


@dataclass(frozen=True)
class Prompt:
    """A text prompt: who answers, what is asked for, and how many examples stand before the question."""

    persona: str = ""
    instruction: str = ""
    shots: int = 0

    @property
    def text(self) -> str:
        """Persona and instruction as they stand before the examples and the question."""
        return "\n\n".join(part for part in (self.persona.strip(), self.instruction.strip()) if part)


@dataclass(frozen=True)
class Answer:
    """What came of one question under a prompt."""

    right: bool
    loss: float
    """Negative log-likelihood of the right letter, in nats: it breaks ties between prompts with as many right."""


Scorer = Callable[[Prompt, Sequence[int]], Sequence[Answer]]
"""(a prompt, places of questions) -> what came of each."""


@dataclass
class Tally:
    """What is known of one prompt so far."""

    prompt: Prompt
    answers: dict[int, Answer] = field(default_factory=dict)
    """By the place of the question."""

    @property
    def accuracy(self) -> float:
        """Share of right answers; 0 before there is any."""
        return sum(answer.right for answer in self.answers.values()) / len(self.answers) if self.answers else 0.0

    @property
    def loss(self) -> float:
        """Mean loss; infinite before there is any answer, and where one is not finite."""
        total = sum(answer.loss for answer in self.answers.values())
        return total / len(self.answers) if self.answers and math.isfinite(total) else math.inf

    @property
    def rank(self) -> tuple[float, float]:
        """Larger is better."""
        return self.accuracy, -self.loss


@dataclass(frozen=True)
class Found:
    """The outcome of a search."""

    best: Prompt
    accuracy: float
    """Of the best, over all the questions: what it was chosen by."""
    loss: float
    tried: tuple[Tally, ...]
    """Every prompt that was scored, the best first."""
    scored: int
    """Answers that it took."""
    way: Way


class _Scores:
    """Asks the scorer for what is not known yet."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer, self.scored = scorer, 0
        self.tallies: dict[Prompt, Tally] = {}

    def ask(self, prompt: Prompt, questions: Iterable[int]) -> Tally:
        tally = self.tallies.setdefault(prompt, Tally(prompt))
        new = [place for place in questions if place not in tally.answers]
        if new:
            tally.answers.update(zip(new, self.scorer(prompt, new), strict=True))
            self.scored += len(new)
        return tally


def candidates(personas: Sequence[str], instructions: Sequence[str], shots: Sequence[int] = (0,)) -> list[Prompt]:
    """Every persona with every instruction and every number of examples, in the order of the lists, each once."""
    return list(dict.fromkeys(Prompt(*each) for each in product(personas or ("",), instructions or ("",), shots)))


def search(
    prompts: Sequence[Prompt],
    scorer: Scorer,
    questions: int,
    *,
    way: Way = "all",
    budget: int | None = None,
    seed: int = 0,
    fits: Callable[[Prompt], bool] = lambda prompt: True,
) -> Found:
    """The best of the prompts, or of what edits make of them (`mcts`), by accuracy on `questions` questions.

    `budget`: answers that it may take, at least one whole pass for the winner; for `all` it is not looked at. `random`:
    as many prompts as the budget has whole passes for. `halving`: all prompts on few questions, the better half on
    twice as many, and so on (Karnin et al. 2013; Jamieson and Talwalkar 2016, arXiv:1502.07943); some of the prompts
    where the budget is too small for one question each. `mcts`: a tree of edits, walked by UCB1 (Kocsis and Szepesvari
    2006); an edit for which `fits` is false, since it leaves no room for a question, is left out. The winner is scored
    on all questions in every case. Raises ValueError without a prompt or a question.
    """
    if not prompts or questions < 1:
        raise ValueError(f"a search needs prompts and questions (got {len(prompts)} and {questions}).")
    scores = _Scores(scorer)
    if way == "halving":
        finalists = _halving(list(prompts), scores, questions, budget, seed)
    elif way == "mcts":
        finalists = _tree(list(prompts), scores, questions, budget or 4 * len(prompts) * questions, seed, fits)
    else:
        chosen = list(prompts)
        if way == "random":
            random.Random(f"prompts {seed}").shuffle(chosen)
            chosen = chosen[: max(1, (budget or len(chosen) * questions) // questions)]
        finalists = chosen
    whole = [scores.ask(prompt, range(questions)) for prompt in finalists]
    order = sorted(whole, key=lambda tally: tally.rank, reverse=True)
    rest = sorted(
        (tally for tally in scores.tallies.values() if tally not in order),
        key=lambda tally: (len(tally.answers), tally.rank),
        reverse=True,
    )
    best = order[0]
    return Found(best.prompt, best.accuracy, best.loss, (*order, *rest), scores.scored, way)


def _halving(prompts: list[Prompt], scores: _Scores, questions: int, budget: int | None, seed: int) -> list[Prompt]:
    """The one or two prompts that are left when samples have grown to all questions. A sample holds the smaller ones
    before it, so that nothing is asked twice."""
    places = list(range(questions))
    random.Random(f"halving {seed}").shuffle(places)
    rounds = max(1, math.ceil(math.log2(len(prompts))))
    # Round i has n / 2^i prompts; with samples that double, each round asks about as much as any other.
    size = max(1, min(questions, questions // 2**rounds))
    if budget is not None:
        while size > 1 and _halving_cost(len(prompts), size, questions) > budget:
            size -= 1
        count = len(prompts)
        while count > 1 and _halving_cost(count, size, questions) > budget:
            count -= 1
        prompts = prompts if count == len(prompts) else random.Random(f"prompts {seed}").sample(prompts, count)
    while len(prompts) > 1:
        ranked = sorted((scores.ask(prompt, places[:size]) for prompt in prompts), key=lambda t: t.rank, reverse=True)
        prompts = [tally.prompt for tally in ranked[: -(-len(ranked) // 2)]]
        if size >= questions:
            break
        size = min(questions, 2 * size)
    return prompts


def _halving_cost(count: int, size: int, questions: int) -> int:
    """Answers that halving `count` prompts takes, from samples of `size` to the whole passes of those that are left."""
    cost, known = 0, 0
    while count > 1:
        cost, known, count = cost + count * (size - known), size, -(-count // 2)
        if size >= questions:
            break
        size = min(questions, 2 * size)
    return cost + count * (questions - known)


@dataclass
class _Node:
    prompt: Prompt
    parent: "_Node | None" = None
    children: list["_Node"] = field(default_factory=list)
    untried: list[Prompt] = field(default_factory=list)
    visits: int = 0
    reward: float = 0.0


FINALISTS = 3
"""Prompts of a tree search that are scored on all questions."""


def _tree(
    prompts: list[Prompt],
    scores: _Scores,
    questions: int,
    budget: int,
    seed: int,
    fits: Callable[[Prompt], bool],
) -> list[Prompt]:
    """The prompts that looked best while the budget lasted, which keeps enough for `FINALISTS` whole passes."""
    draw = random.Random(f"mcts {seed}")
    root = _Node(Prompt(), untried=list(prompts)[::-1])
    batch = max(1, min(questions, questions // 8 or 1))
    pool = tuple(
        dict.fromkeys(part for prompt in prompts for part in (*_sentences(prompt.instruction), prompt.persona) if part)
    )
    seen = set(prompts)
    while scores.scored + batch + FINALISTS * questions <= budget or root.visits == 0:
        before, node = scores.scored, root
        while not node.untried and node.children:
            total = node.visits
            node = max(node.children, key=lambda child: _ucb(child, total))
        if node.untried:
            child = _Node(node.untried.pop(), parent=node)
            node.children.append(child)
            node = child
            new = [prompt for prompt in edits(node.prompt, pool, draw) if prompt not in seen]
            seen.update(new)
            node.untried = [prompt for prompt in new if fits(prompt)]
        known = scores.tallies.get(node.prompt)
        open_places = [place for place in range(questions) if known is None or place not in known.answers]
        asked = draw.sample(open_places, min(batch, len(open_places)))
        tally = scores.ask(node.prompt, asked)
        reward = tally.accuracy
        step: _Node | None = node
        while step is not None:
            step.visits, step.reward, step = step.visits + 1, step.reward + reward, step.parent
        if scores.scored == before and not any(each.untried for each in _nodes(root)):
            break  # every edit is made and scored whole
    ranked = sorted(scores.tallies.values(), key=lambda tally: (_lower(tally), -tally.loss), reverse=True)
    return [tally.prompt for tally in ranked[:FINALISTS]]


def _nodes(root: _Node) -> Iterable[_Node]:
    yield root
    for child in root.children:
        yield from _nodes(child)


def _ucb(node: _Node, total: int) -> float:
    return node.reward / node.visits + EXPLORATION * math.sqrt(math.log(max(total, 2)) / node.visits)


def _lower(tally: Tally) -> float:
    """Accuracy less a standard error, so that a prompt which was asked little does not win by luck."""
    n = len(tally.answers)
    return tally.accuracy - math.sqrt((tally.accuracy * (1 - tally.accuracy) + 1 / n) / n)


def edits(prompt: Prompt, pool: Sequence[str], draw: random.Random) -> list[Prompt]:
    """What one edit makes of a prompt, in a drawn order: a sentence left out, two swapped, one of the pool put first or
    last, the persona left out or changed for one of the pool, one example more or less."""
    parts = _sentences(prompt.instruction)
    texts = [" ".join(parts[:place] + parts[place + 1 :]) for place in range(len(parts)) if len(parts) > 1]
    texts += [
        " ".join([*parts[:place], parts[place + 1], parts[place], *parts[place + 2 :]])
        for place in range(len(parts) - 1)
    ]
    for part in pool:
        if part not in prompt.text:
            texts += [" ".join([part, *parts]), " ".join([*parts, part])]
    made = [replace(prompt, instruction=text) for text in texts]
    made += [replace(prompt, persona=part) for part in ("", *pool) if part != prompt.persona and part not in parts]
    made += [replace(prompt, shots=count) for count in (prompt.shots - 1, prompt.shots + 1) if 0 <= count <= 5]
    draw.shuffle(made)
    return list(dict.fromkeys(made))


def _sentences(text: str) -> list[str]:
    """The sentences of a text, with their ends."""
    for end in SENTENCE_ENDS:
        text = text.replace(end, f"{end.rstrip()}\n")
    return [part.strip() for part in text.splitlines() if part.strip()]
