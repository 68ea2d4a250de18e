"""A byte-level tokenizer with a few merges, and chat templates of the kinds that are in use."""

from typing import Any

MERGES = [("h", "e"), ("l", "l"), ("Ċ", "Ċ"), ("Ġ", "t"), ("he", "ll"), ("hell", "o"), ("Ġ", "Ġ"), (".", "Ċ")]
SPECIAL = ["<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>", "<|user|>", "<|assistant|>", "<|end|>"]


def tiny_tokenizer(template: str | None, *, rstrip: bool = False, special: list[str] = SPECIAL) -> Any:
    """GPT-2's way in small: bytes, a few merges, added tokens; `rstrip`: they swallow the blanks behind them."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*alphabet, *(left + right for left, right in MERGES)]
    tokenizer = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, rstrip=rstrip) for text in special])
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{k: v for k, v in names.items() if v in special})
    made.chat_template = template
    return made


LOOP = "{% for message in messages %}"
END = "{% endfor %}"

TEMPLATES = {
    # Header and end marker are special tokens.
    "chatml": (
        LOOP
        + "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
        + END
        + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    # BOS in front, contents stripped, no text between the messages.
    "trimmed": (
        "{{ bos_token }}"
        + LOOP
        + "{{ '<|im_start|>' + message['role'] + '\n\n' + message['content'] | trim + '<|im_end|>' }}"
        + END
    ),
    # Closes every text with EOS: no prefix is a prefix of the whole.
    "closing": (
        LOOP
        + "{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}"
        + END
        + "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
    ),
    # Plain text markers, the system message inside the first user message.
    "inst": (
        "{% set ns = namespace(system='') %}{{ bos_token }}"
        + LOOP
        + "{% if message['role'] == 'system' %}{% set ns.system = message['content'] + '\n\n' %}"
        + "{% elif message['role'] == 'user' %}{{ '[INST] ' + ns.system + message['content'] + ' [/INST]' }}"
        + "{% set ns.system = '' %}{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}"
        + END
    ),
    # Only ordinary text, and blank lines that merge across the border.
    "text": LOOP + "{{ '### ' + message['role'] + ':\n\n' + message['content'] + '\n\n' }}" + END,
    # A default system message where there is none.
    "default_system": (
        "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}"
        + LOOP
        + "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
        + END
    ),
    # Adds a block to the last message only, and cuts reasoning out of the others.
    "thinking": (
        LOOP
        + "{% set text = message['content'] %}{% if not loop.last %}{% set text = text.split('</think>')[-1] %}"
        + "{% endif %}{{ '<|im_start|>' + message['role'] + '\n' }}"
        + "{% if loop.last and message['role'] == 'assistant' %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
        + "{{ text + '<|im_end|>\n' }}"
        + END
    ),
    # Refuses system messages, and any order but user, assistant.
    "strict": (
        "{{ bos_token }}"
        + LOOP
        + "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}"
        + "{% endif %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] | trim + '<|im_end|>\n' }}"
        + END
    ),
    # Refuses a conversation in which nobody asked anything yet.
    "needs_user": (
        "{% if messages | selectattr('role', 'equalto', 'user') | list | length == 0 %}"
        + "{{ raise_exception('no user query') }}{% endif %}"
        + LOOP
        + "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
        + END
    ),
}
