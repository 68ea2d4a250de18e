"""How much faster one tokenization a conversation is than one a prefix: `python bench/masking.py TOKENIZER DATA`.

Both give the same spans (they are compared). The prefix way is timed twice: each prefix tokenized once, and, as loops
over messages are often written, messages[:i] and messages[:i+1] both tokenized for every message.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

from trainables._encoding import writer_of
from trainables._rows import read_rows
from trainables._settings import DataSettings
from trainables._tokenizer import load_tokenizer
from trainables.core.conversations import Message, RowRefused, conversation


def one_pass(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Token counts n_0 ... n_k from one rendering."""
    writer = writer_of(tokenizer)
    rendering = writer.renderer(messages)
    return writer.counter.counts(rendering.text, writer.tokenize(rendering.text), rendering.prefixes)


def each_prefix(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """The same, every prefix rendered and tokenized once."""
    return [0, *(_length(tokenizer, messages[: stop + 1]) for stop in range(len(messages)))]


def both_ends(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """The same, both prefixes of every message rendered and tokenized."""
    ends = [
        (_length(tokenizer, messages[:at]) if at else 0, _length(tokenizer, messages[: at + 1]))
        for at in range(len(messages))
    ]
    return [0, *(stop for _, stop in ends)]


def _length(tokenizer: Any, messages: Sequence[Message]) -> int:
    return len(tokenizer.apply_chat_template(list(messages), tokenize=True, return_dict=False))


def seconds(count: Callable[[Any, Sequence[Message]], list[int]], tokenizer: Any, talks: list[list[Message]]) -> float:
    """Best of three passes over all conversations."""
    taken = []
    for _ in range(3):
        began = time.perf_counter()
        for messages in talks:
            count(tokenizer, messages)
        taken.append(time.perf_counter() - began)
    return min(taken)


def main() -> None:
    """Print seconds and ratios, over all conversations and over those of at least six messages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", help="folder or hub id of a tokenizer")
    parser.add_argument("data", nargs="+", help="files or folders of conversations")
    arguments = parser.parse_args()
    tokenizer = load_tokenizer(arguments.tokenizer)
    talks = []
    for path in arguments.data:
        for row in read_rows(DataSettings(path=path)):
            try:
                talks.append(conversation(row))
            except RowRefused:
                continue
    for name, some in (("all", talks), ("6 messages and more", [each for each in talks if len(each) >= 6])):
        if not some:
            continue
        differing = sum(one_pass(tokenizer, each) != each_prefix(tokenizer, each) for each in some)
        fast, slow, slower = (seconds(way, tokenizer, some) for way in (one_pass, each_prefix, both_ends))
        messages = sum(map(len, some)) / len(some)
        print(f"{name}: {len(some)} conversations of {messages:.1f} messages, {differing} differ")
        print(f"  one pass             {fast:7.3f} s")
        print(f"  each prefix once     {slow:7.3f} s  ratio {slow / fast:.2f}")
        print(f"  both prefixes of all {slower:7.3f} s  ratio {slower / fast:.2f}")


if __name__ == "__main__":
    main()
