"""Questions asked under the chat template: the probability of each choice at the one answer position, and answers in
words."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evals._questions import LETTERS, Question
from evals._types import DataError, Subject

OTHER_LETTERS = (tuple(LETTERS), tuple("abcdefghij"), tuple("123456789"), tuple("PQRSTUVWXYZ"))
"""What choices are called where the letters asked for are not one token each."""
Shots = Mapping[str, Sequence[Question]]
"""Subject -> the examples before its questions."""


@dataclass(frozen=True)
class Prompt:
    """A question as tokens."""

    ids: list[int]
    choices: list[int]
    """The token of each choice."""
    shots: int
    """Examples that are in it."""
    is_cut: bool
    """It was too long even without examples, and lost tokens on its left."""


@dataclass(frozen=True)
class Chosen:
    """What the model takes for the answer."""

    choice: int
    """The most probable choice; the first of equals."""
    probabilities: list[float]
    """Of the choices, among the choices alone."""
    mass: float
    """Of all choices together, in the whole vocabulary."""


class Asker:
    """Asks questions of one subject, with letters that are one token each under its tokenizer."""

    def __init__(
        self,
        subject: Subject,
        letters: Sequence[str] | None = None,
        instruction: str | None = None,
        shots: Shots | None = None,
        count: int = 0,
        reserve: int = 1,
    ) -> None:
        """`letters`: None takes the subject's own, or others where those are not one token each. `count`: examples
        before each question; `reserve`: tokens of the context to leave for the answer."""
        self.subject, self.instruction = subject, instruction
        self.shots, self.count = shots or {}, count
        self.room = max(1, subject.max_length - reserve)
        self._asked = None if letters is None else tuple(letters)
        self._names: dict[int, tuple[tuple[str, ...], str]] = {}

    def letters(self, count: int) -> tuple[str, ...]:
        """What the choices of a question with so many are called."""
        return self._fitting(count)[0]

    def prompt(self, question: Question) -> Prompt:
        """The question's tokens, with as many of its examples as there is room for. Raises DataError where a choice is
        not one token."""
        from evals._forward import cut_left

        letters, _ = self._fitting(len(question.choices))
        examples = list(self.shots.get(question.subject, ()))[: self.count]
        while True:
            text = self._text(question, letters, examples)
            ids = self.subject.tokenize(text)
            if len(ids) <= self.room or not examples:
                break
            examples.pop()
        try:
            choices = self.subject.choice_ids(text, letters)
        except ValueError as error:
            raise DataError(f"question {question.key!r}: {error}.") from error
        kept = cut_left(list(ids), self.room, getattr(self.subject.tokenizer, "bos_token_id", None))
        return Prompt(kept, choices, len(examples), len(kept) < len(ids))

    def _text(self, question: Question, letters: Sequence[str], examples: Sequence[Question]) -> str:
        # Examples may have more choices than this question.
        most = max(len(letters), *(len(example.choices) for example in examples)) if examples else len(letters)
        names, lead_in = self._fitting(most)
        return self.subject.question(
            question.question,
            question.choices,
            letters=[*letters, *names[len(letters) :]],
            instruction=self.instruction,
            shots=[(example.question, example.choices, example.answer) for example in examples],
            lead_in=lead_in,
        )

    def _fitting(self, count: int) -> tuple[tuple[str, ...], str]:
        """Letters and lead-in under which each of so many choices is one token."""
        if count not in self._names:
            self._names[count] = self._search(count)
        return self._names[count]

    def _search(self, count: int) -> tuple[tuple[str, ...], str]:
        own = self.subject.lead_in
        first: ValueError | None = None
        wanted = (self._asked,) if self._asked else (tuple(self.subject.letters), *OTHER_LETTERS)
        for names in dict.fromkeys(wanted):
            for lead_in in dict.fromkeys((own, f"{own} " if own.strip() else own)):
                letters = names[:count]
                try:
                    if len(letters) < count:
                        raise ValueError(f"{count} choices need as many letters (got {', '.join(names)})")
                    text = self.subject.question("?", letters, letters=letters, lead_in=lead_in)
                    self.subject.choice_ids(text, letters)
                except ValueError as error:
                    first = first or error
                else:
                    return letters, lead_in
        raise DataError(f"mmlu.letters: no letters are one token each for {count} choices ({first}).")


def choose(subject: Subject, prompts: Sequence[Prompt], batch_size: int) -> list[Chosen]:
    """The probabilities of the choices at the answer position of each prompt; one forward pass a batch, whose logits
    are computed at that position alone."""
    import math

    from evals._calibration import softmax
    from evals._score import Request, token_logprobs

    # The token behind the prompt is only a place holder: what is looked up stands in `tokens`.
    requests = [
        Request([*prompt.ids, prompt.choices[0]], [len(prompt.ids)] * len(prompt.choices), prompt.choices)
        for prompt in prompts
    ]
    found = []
    for scored in token_logprobs(subject, requests, batch_size):
        logs = scored.logprobs
        choice = max(range(len(logs)), key=lambda place: (logs[place], -place))
        mass = min(1.0, math.fsum(math.exp(value) for value in logs))
        found.append(Chosen(choice, softmax(logs), mass))
    return found


def shuffled(question: Question, seed: int, times: int) -> tuple[Question, list[int]]:
    """The question with its choices in an order of its own for each seed and number, never the order as given where
    there is another; and place -> the choice that stands there."""
    places = list(range(len(question.choices)))
    source = random.Random(f"shuffle {seed} {times} {question.key}")
    while places == sorted(places):
        source.shuffle(places)
    choices = tuple(question.choices[place] for place in places)
    moved = Question(
        question.question, choices, places.index(question.answer), question.subject, question.key, question.split
    )
    return moved, places


def stability(
    subject: Subject, asker: Asker, questions: Sequence[Question], chosen: Sequence[int], seed: int, times: int,
    batch_size: int,
) -> list[float]:  # fmt: skip
    """For each question the share of `times` shuffled orders under which the same choice is taken as in the order
    given; `chosen`: that choice."""
    same = [0] * len(questions)
    for number in range(times):
        moved = [shuffled(question, seed, number) for question in questions]
        found = choose(subject, [asker.prompt(question) for question, _ in moved], batch_size)
        for i, ((_, places), answer) in enumerate(zip(moved, found, strict=True)):
            same[i] += places[answer.choice] == chosen[i]
    return [count / times for count in same]


def say(
    subject: Subject,
    prompts: Sequence[Prompt],
    keys: Sequence[str],
    temperature: float,
    seed: int,
    max_new_tokens: int,
    batch_size: int,
) -> list[str]:
    """An answer in words to each prompt, drawn with a seed of its own."""
    from evals._generate import sampled

    seeds = [f"answer {seed} {temperature:g} {key}" for key in keys]
    ids = [prompt.ids for prompt in prompts]
    return [answer.text for answer in sampled(subject, ids, max_new_tokens, temperature, seeds, batch_size)]
