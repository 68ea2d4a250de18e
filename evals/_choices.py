"""Which choice does an answer in words name? None is a refusal: an answer from which no choice can be told.

Decided without the right answer and by form alone. A letter counts where it stands as an answer does, not where it is
an article, part of a word or a name ("Vitamin C"); two different letters side by side ("A or C") name none.
"""

import re
import unicodedata
from collections.abc import Sequence

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SURE = r"(?:because|since|as|is|for|due|seems|would|must|should|it|the|which|was)"
"""Words that follow a letter that is the answer; behind an article they cannot stand."""
BEFORE = (
    "is|it's|its|be|was|so|therefore|thus|hence|think|believe|say|guess|but|probably|definitely|likely|maybe|perhaps|"
    "certainly|obviously|clearly|namely|choose|pick|select|with|then|answered|mark"
)
"""Words in front of a letter that is the answer."""
NAMES = r"(?:answers?|options?|choices?|letters?|solution)"
LINK = r"[\s:=\"'*>(\[{,\-\u2013\u2014\u2192]*"
DENIED = re.compile(r"(?:\bnot|n't|\bnever|\bexcept|\bnor|\bneither)(?: (?:a|an|the|in|to|at|by))?\s*$")
SHORT = 3
"""A choice's own text is looked for anywhere in an answer from this many characters on; a shorter one at its end."""


def parse_choice(answer: str, choices: Sequence[str], letters: Sequence[str] = LETTERS) -> int | None:
    """Place of the choice that an answer names, or None.

    In this order: the answer is a letter; it is a choice's text; it begins with a letter; it says what the answer is
    ("the correct option is (a)"; the last time, where it corrects itself); one letter alone stands in it as an answer;
    the text of one choice alone stands in it. A letter or text behind "not" does not count.
    """
    names = list(letters[: len(choices)])
    text = _plain(answer)
    whole = text.strip(" \t\r\n.,;:!?()[]{}<>\"'-\u2013\u2014#")
    for place, name in enumerate(names):
        if whole.lower() == name.lower():
            return place
    texts = [_words(choice) for choice in choices]
    if _words(answer) and texts.count(_words(answer)) == 1:
        return texts.index(_words(answer))
    mark = _Marks(names)
    text = mark.without_list(text)
    for find in (mark.leading, mark.stated, mark.lone):
        found = find(text, texts)
        if found is not None:
            return found if found >= 0 else None
    return _own_text(_words(text), texts)


AMBIGUOUS = -1
"""Several letters where one should be."""


class _Marks:
    """The patterns of some letters."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.places = {name.lower(): place for place, name in enumerate(names)}
        either = "|".join(sorted((re.escape(name) for name in names), key=len, reverse=True))
        # Not part of a word, a number, C++, B-cell, A.M. or D's.
        self.letter = rf"(?<![\w.'\u2019\-])(?P<x>(?i:{either}))(?![\w'\u2019+#]|-\w|[.,]\w)"
        self.several = re.compile(
            rf"^[\s)\].\"']*(?:(?:or|and|nor|vs\.?|maybe|perhaps|possibly|even|also|either|"
            rf"option|[/&,])[\s(\[\"']*)+(?P<y>(?i:{either}))(?![\w'\u2019])(?!\s+{SURE}\b)"
        )
        # Also "(A)(B)" and "A. B. C."
        self.listed = re.compile(
            rf"^(?:[)\]]\s*[(\[](?P<y>(?i:{either}))[)\]]|(?P<stop>[.):])\s+(?P<z>(?i:{either}))(?P=stop))"
        )
        self.negated = re.compile(
            rf"\b(?:not|cannot be|can't be|isn't|is not|never|except|neither|nor|rule out|exclude)\s+"
            rf"(?:(?i:the|option|answer|choice|letter)\s+)*[(\[\"']*(?P<x>(?i:{either}))(?![\w'\u2019])"
        )
        self.denied_before = re.compile(self.negated.pattern + r"$")
        self.wrong = re.compile(
            r"[)\]\"'.]*\s+(?:(?:is|was)(?:\s+not|n't)|cannot|can't|(?:is|was)\s+(?:wrong|incorrect|false|out))\b"
        )
        self.begin = re.compile(rf"^[\s\-\u2013\u2014>#]*[(\[\"']*{self.letter}")
        self.said = (
            re.compile(
                rf"\b(?i:{NAMES})\b(?:\s+(?i:to|of|for|here)\b[^.\n?!]{{0,60}}?(?=\s(?i:is)\b|:))?{LINK}"
                rf"(?i:(?:is|are|was|would be|should be|must be|will be|has to be|that|therefore|then|most likely|"
                rf"probably|definitely|clearly|likely|again|the|letter|option|choice|number){LINK})*{self.letter}"
            ),
            re.compile(
                rf"{self.letter}[)\]\"'.]*\s+(?i:is|was|must be|would be|should be|seems|looks)\s+"
                rf"(?:(?i:the|most|to be)\s+)*(?i:correct|right|best|true|accurate|answer)\b"
            ),
            re.compile(
                rf"\b(?i:choose|chose|pick|picked|select|selected|go with|going with|opt for|say|guess)\s+"
                rf"(?:(?i:the|option|answer|choice|letter)\s+)*[(\[\"']*{self.letter}"
            ),
        )
        self.bare = re.compile(r"^(?i:options?|choices?|letters?)\s+[(\[\"']*$")
        self.alone = (
            re.compile(rf"(?<!\w)[(\[\"]{self.letter}[)\]\"]"),
            re.compile(rf"\b(?i:{BEFORE})[\s:,]+(?:(?i:the)\s+)?{self.letter}"),
            re.compile(rf"(?:^|[\n:;.!?,\u2014=>\u2192]\s*){self.letter}(?=\s*(?:[.):!;]|$|\n))"),
        )
        self.list = re.compile(
            rf"^\s*\(?{re.escape(names[0])}[.):].*\n\s*\(?{re.escape(names[1])}[.):].*(?:\n\s*\(?(?:{either})[.):].*)*"
        )

    def without_list(self, text: str) -> str:
        """The text without the choices at its head, where the answer first repeats them."""
        return self.list.sub("", text, count=1)

    def leading(self, text: str, texts: Sequence[str]) -> int | None:
        """The letter that the answer begins with."""
        match = self.begin.match(text)
        if match is None or not self._is_answer(match, text, texts, in_words=False):
            return None
        return self._one(match, text)

    def stated(self, text: str, texts: Sequence[str]) -> int | None:
        """What the answer says the answer is; the last of several statements."""
        # The one furthest to the right: a correction comes after what it corrects.
        found = [match for pattern in self.said for match in pattern.finditer(text)]
        kept = [match for match in found if self._is_answer(match, text, texts, in_words=True)]
        if not kept:
            return None
        # "Option C" says of what the answer speaks; where it also says what the answer is, that counts.
        plain = [match for match in kept if not self.bare.search(text[match.start() : match.start("x")])]
        if not plain and len({self.places[match["x"].lower()] for match in kept}) > 1:
            return AMBIGUOUS
        kept = plain or kept
        last = max(kept, key=lambda match: match.start("x"))
        # "Option A and option B": the last is one of several that are named together.
        for match in found:
            beside = self.several.match(text[match.end("x") :])
            same = self.places[match["x"].lower()] == self.places[last["x"].lower()]
            if beside and not same and match.end("x") + beside.end() >= last.end("x") > match.end("x"):
                return AMBIGUOUS
        return self._one(last, text)

    def lone(self, text: str, texts: Sequence[str]) -> int | None:
        """The one letter that stands as an answer does, leaving out those that are denied."""
        denied = {self.places[match["x"].lower()] for match in self.negated.finditer(text)}
        found: set[int] = set()
        for pattern in self.alone:
            for match in pattern.finditer(text):
                if self._is_answer(match, text, texts, in_words=True):
                    found.add(self._one(match, text))
        found -= denied
        return None if not found else found.pop() if len(found) == 1 else AMBIGUOUS

    def _one(self, match: re.Match[str], text: str) -> int:
        own, behind = self.places[match["x"].lower()], text[match.end("x") :]
        while beside := self.several.match(behind) or self.listed.match(behind):
            group = "y" if beside["y"] is not None else "z"
            if self.places[beside[group].lower()] != own:
                return AMBIGUOUS
            # The same letter again, as in "B. B.", takes nothing back.
            behind = behind[beside.end(group) :]
        return own

    def _is_answer(self, match: re.Match[str], text: str, texts: Sequence[str], in_words: bool) -> bool:
        """Whether a letter is one, and not the article "a", the pronoun "I" or the first word of a sentence."""
        behind = text[match.end("x") :]
        letter = match["x"]
        is_word = letter.lower() in ("a", "i")
        if self.wrong.match(behind) or self.denied_before.search(text[: match.end("x")]):
            return False
        before = text[: match.start("x")]
        if before.rstrip().endswith(("(", "[", '"')) and behind.lstrip().startswith((")", "]", '"')):
            return True
        if not re.match(r"[ \t]+\w", behind):
            return True  # a sign, the end of a line or of the text
        own = texts[self.places[match["x"].lower()]]
        if own and _words(behind).startswith(own):
            return True
        if not is_word and in_words:
            return True
        return bool(re.match(rf"\s+{SURE}\b", behind)) and (letter.isupper() or not is_word)


def _plain(answer: str) -> str:
    """The answer without marks of Markdown, LaTeX, HTML and reasoning; compatibility forms of letters made plain."""
    text = unicodedata.normalize("NFKC", answer)
    text = text.rpartition("</think>")[2]
    text = re.sub(r"\\(?:boxed|text|mathrm|textbf|mathbf)\s*\{([^{}]*)\}", r"(\1)", text)
    text = re.sub(r"\\(?:boxed|text|mathrm|textbf|mathbf)\s*\{([^{}]*)\}", r"(\1)", text)
    # An answer that is nothing but a tag, as <B>, is no tag.
    without = re.sub(r"</?[A-Za-z][^<>]*>", " ", text)
    text = re.sub(r"[*_`$]+", "", without if without.strip() else text)
    return text.translate({0x2019: "'", 0x201C: '"', 0x201D: '"'}).strip()


def _words(text: str) -> str:
    """Words alone, in lower case, for comparing what is said."""
    plain = unicodedata.normalize("NFKC", text).lower().replace("\u2019", "'")
    return " ".join(re.findall(r"[\w'.+\-/%]*\w[\w'+%]*", plain))


def _own_text(said: str, texts: Sequence[str]) -> int | None:
    """The one choice whose text stands in the answer; a text inside a longer one that stands there does not count."""
    found: list[tuple[int, int, int]] = []
    for place, text in enumerate(texts):
        if len(text) < SHORT:
            if text and re.search(rf"\b(?:is|answer|be) {re.escape(text)}$", said):
                found.append((len(said) - len(text), len(said), place))
            continue
        for match in re.finditer(rf"(?<!\w){re.escape(text)}(?!\w)", said):
            if not DENIED.search(said[: match.start()]):
                found.append((match.start(), match.end(), place))
    outer = [a for a in found if not any(b[0] <= a[0] and a[1] <= b[1] and b[1] - b[0] > a[1] - a[0] for b in found)]
    places = {place for _, _, place in outer}
    return places.pop() if len(places) == 1 else None
