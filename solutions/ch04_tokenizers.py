"""Chapter 4, Published tokenizers: exercises. Replace each ``raise NotImplementedError`` with your answer."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from myllm.grading import exercise


@exercise("04.1", "Publish a tokenizer", points=6, minutes=20, difficulty=2, section="byte-table")
def publish(merges: list[tuple[int, int]], special: list[str]) -> tuple[dict[str, int], list[str]]:
    """Write a tokenizer of your own in the format of GPT-2's two files.

    In yours, the bytes have the ids 0 to 255, and merge number k, counted from 0, has the id 256 + k. In
    GPT-2's files every byte is written as one visible character. A byte whose own character ``chr(byte)`` is
    visible keeps it. These bytes lie in three inclusive ranges: ``"!"`` to ``"~"``, ``"¡"`` to ``"¬"`` and
    ``"®"`` to ``"ÿ"``. All other bytes, in order, take the characters from code point 256 on. The published
    ids count the visible bytes first, then the others, then the merges, then the special tokens.

    Args:
        merges: The two ids that each merge joins, in the order of learning; possibly none.
        special: The names of the special tokens: any strings that differ from the written form of every other
            token. The files hold them unchanged.

    Returns:
        The published id for each token as the files write it, in a dict of any order; and the lines of the
        list of merges, each with the two tokens that it joins and a space between them.

    The functions of `myllm.tokenizers` and of other tokenizer libraries may not be used.

    Example:
        A space and ``t`` are joined, then the result and ``h``.

        >>> vocabulary, lines = publish([(32, 116), (256, 104)], ["<|end|>"])
        >>> lines
        ['Ġ t', 'Ġt h']
        >>> [vocabulary[token] for token in ("!", "Ġ", "Ġt", "Ġth", "<|end|>")]
        [0, 220, 256, 257, 258]
    """
    # SOLUTION
    visible = [byte for first, last in ("!~", "¡¬", "®ÿ") for byte in range(ord(first), ord(last) + 1)]
    others = [byte for byte in range(256) if byte not in visible]
    symbols = {byte: chr(byte) for byte in visible} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    lines: list[str] = []
    for new_id, (left, right) in enumerate(merges, start=256):
        symbols[new_id] = symbols[left] + symbols[right]
        lines.append(f"{symbols[left]} {symbols[right]}")
    return {token: i for i, token in enumerate([*symbols.values(), *special])}, lines
    # END SOLUTION


@exercise("04.2", "Fix the targets of a chat", points=7, minutes=25, difficulty=3, section="chat")
def chat_batch(
    chats: list[list[dict[str, str]]],
    encode: Callable[[str], list[int]],
    special: dict[str, int],
    pad_id: int,
) -> tuple[Tensor, Tensor]:
    r"""Debug the batch that a chat model is trained on: the model learns, but the wrong things.

    A message becomes the id of ``<|im_start|>``; the ids of its role with a line feed, ``"user\n"``, encoded
    as one string; the ids of its content, encoded as one string, just as it is; the id of ``<|im_end|>``; and
    the ids of a line feed. No string is searched for special tokens. The model learns to write the content
    of each message whose role is exactly ``"assistant"``, and the ``<|im_end|>`` after it, and nothing else.
    This version has seven faults; find and fix them::

        rows, masks = [], []
        for chat in chats:
            ids, mask = [], []
            for message in chat:
                head = [special["<|im_start|>"], *encode(message["role"] + "\n")]
                body = [*encode(message["content"].strip()), special["<|im_end|>"], *encode("\n")]
                ids += head + body
                learned = message["role"] != "user"
                mask += [learned] * len(head) + [learned] * len(body)
            rows.append(ids)
            masks.append(mask)
        longest = max(len(row) for row in rows)
        x = torch.full((len(rows), longest), pad_id)
        y = torch.full((len(rows), longest), -100)
        for b, (ids, mask) in enumerate(zip(rows, masks)):
            x[b, : len(ids)] = torch.tensor(ids)
            y[b, : len(ids)] = torch.where(torch.tensor(mask), torch.tensor(ids), -100)
        y[y == pad_id] = -100
        return x, y

    Args:
        chats: B chats of any number of messages, each with its ``"role"`` and ``"content"``, any strings. B
            may be 0, and a chat may be empty.
        encode: Turns a string into ids, none of them special; an empty string gives no ids.
        special: The ids of the special tokens; each may be any int64 value.
        pad_id: The id that pads short rows on the right. It may also occur in the text, for example as
            the id of ``<|im_end|>``; there, treat it like any other id.

    Returns:
        ``(x, y)``, both (B, T) int64: T is one less than the number of ids in the longest chat, but not
        less than 0.
        ``x`` holds the ids of each chat without its last one, then padding. ``y`` holds at each place the id
        that follows in the chat if the model learns to write it, and -100 everywhere else, which PyTorch's
        cross-entropy ignores.

    The functions of `myllm.tokenizers` may not be used.

    Example:
        This ``encode`` puts the length of a string before its bytes, so the ids show what was encoded as one
        string. The checks use the same.

        >>> def encode(text):
        ...     return [len(text), *text.encode()] if text else []
        >>> special = {"<|im_start|>": 300, "<|im_end|>": 301}
        >>> x, y = chat_batch([[{"role": "assistant", "content": "ok"}]], encode, special, 301)
        >>> x[0, 11:]
        tensor([ 10,   2, 111, 107, 301,   1])
        >>> y[0, 11:]
        tensor([   2,  111,  107,  301, -100, -100])
    """
    # SOLUTION
    rows: list[list[int]] = []
    targets: list[list[int]] = []
    for chat in chats:
        ids: list[int] = []
        target: list[int] = []
        for message in chat:
            head = [special["<|im_start|>"], *encode(message["role"] + "\n")]
            body = [*encode(message["content"]), special["<|im_end|>"]]
            tail = encode("\n")
            ids += head + body + tail
            learned = message["role"] == "assistant"
            target += [-100] * len(head) + (body if learned else [-100] * len(body)) + [-100] * len(tail)
        rows.append(ids[:-1])
        targets.append(target[1:])
    longest = max((len(row) for row in rows), default=0)
    x = torch.full((len(rows), longest), pad_id, dtype=torch.int64)
    y = torch.full((len(rows), longest), -100)
    for b, (row, target) in enumerate(zip(rows, targets, strict=True)):
        x[b, : len(row)] = torch.tensor(row, dtype=torch.int64)
        y[b, : len(row)] = torch.tensor(target, dtype=torch.int64)
    return x, y
    # END SOLUTION


@exercise("04.3", "Defuse special tokens", points=6, minutes=20, difficulty=3, section="chat")
def defuse(text: str, names: list[str], back: bool) -> str:
    """Design a reversible way to escape text so that no special token occurs in it.

    A server takes a whole chat as one string and recognizes special tokens wherever they occur. What users
    write must survive the round trip unchanged, but must never act as a special token. How you rewrite the
    text is up to you; with ``e(t)`` for ``defuse(t, names, False)`` and ``d(t)`` for
    ``defuse(t, names, True)``, it has to obey these rules:

    1. None of ``names`` occurs in ``e(t)``.
    2. ``d(e(t)) == t``, for every text, even one that looks as if it had already been rewritten.
    3. A text without the character ``<`` stays as it is: ``e(t) == d(t) == t``.
    4. Texts may be cut anywhere and joined: none of ``names`` occurs in ``e(s) + e(t)``, however a name is
       spread over the two, and ``d(e(s) + e(t)) == s + t``.
    5. ``e(t)`` is at most four times as long as the text.

    Args:
        text: With ``back`` false, any text; with ``back`` true, an output of ``e``, several of them joined,
            or a text without ``<``.
        names: The special tokens, of the form ``<|name|>`` with letters, digits and underscores between the
            bars; possibly none.
        back: Whether the text is to be restored, not rewritten.

    Returns:
        The text, rewritten or restored.

    The functions of `myllm.tokenizers` may not be used.

    Example:
        >>> defuse("2 > 1", ["<|im_end|>"], False)
        '2 > 1'
        >>> text = "stop<|im_end|>"
        >>> defuse(defuse(text, ["<|im_end|>"], False), ["<|im_end|>"], True) == text
        True
    """
    # SOLUTION
    # Every "<" gets a "." behind it, so "<|" cannot occur, and "<." always means "<".
    return text.replace("<.", "<") if back else text.replace("<", "<.")
    # END SOLUTION


@exercise("04.4", "Choose a tokenizer", points=7, minutes=25, difficulty=3, section="language-cost")
def choose_tokenizer(
    rows: list[dict[str, Any]],
    sample: dict[str, int],
    traffic: dict[str, int],
    width: int,
    budget: int,
    most: float,
) -> tuple[str | None, dict[str, str], int]:
    """Choose the tokenizer that serves a mixture of languages best, and say why the others were rejected.

    The same text was encoded in several languages. Only the languages of ``traffic`` count. The rules, in
    this order:

    1. ``"loss"``: drop a tokenizer that does not restore the text in every language.
    2. ``"memory"``: drop it if its embeddings take more than ``budget`` bytes. The model has a row of
       ``width`` numbers of 2 bytes for each id, and the number of rows is rounded up to a multiple of 64.
    3. ``"language"``: drop it if the text takes more than ``most`` times as many tokens in one language as in
       another.
    4. ``"tokens"``: of what is left, choose the one that needs the fewest tokens for the traffic, at its
       bytes per token in each language; if several do, the first in the table. Drop the others.

    Args:
        rows: A table, in which each row is a dict: ``name``; ``size``, the number of ids; ``tokens``, how
            many tokens the text takes in each language, 1 or more; and ``restored``, for each language
            whether decoding gave the text back.
        sample: Bytes of the text in each language, 1 or more.
        traffic: Bytes a day in each language that is served, at least one language.
        width: C, the numbers in an embedding.
        budget: Bytes of memory.
        most: The largest ratio that is accepted, 1 or more.

    Returns:
        The name of the chosen tokenizer, or None if rules 1 to 3 drop all; a dict that maps every
        other name to the rule that dropped it; and the bytes of the chosen one's unused rows, which belong to
        no id, 0 if none is chosen.

    Example:
        For 64 ids 64 rows are needed, for 65 ids 128. Of 128 rows 63 are unused, each of 2 * 8 bytes.

        >>> few = {"name": "few", "size": 64, "tokens": {"en": 10}, "restored": {"en": True}}
        >>> more = {"name": "more", "size": 65, "tokens": {"en": 9}, "restored": {"en": True}}
        >>> choose_tokenizer([few, more], {"en": 20}, {"en": 1000}, 8, 5000, 2.0)
        ('more', {'few': 'tokens'}, 1008)
    """
    # SOLUTION
    reasons: dict[str, str] = {}
    kept: list[dict[str, Any]] = []

    def needed(row: dict[str, Any]) -> float:
        return sum(n * row["tokens"][language] / sample[language] for language, n in traffic.items())

    for row in rows:
        counts = [row["tokens"][language] for language in traffic]
        if not all(row["restored"][language] for language in traffic):
            reasons[row["name"]] = "loss"
        elif -(-row["size"] // 64) * 64 * width * 2 > budget:
            reasons[row["name"]] = "memory"
        elif max(counts) > most * min(counts):
            reasons[row["name"]] = "language"
        else:
            kept.append(row)
    if not kept:
        return None, reasons, 0
    chosen = min(kept, key=needed)
    reasons |= {row["name"]: "tokens" for row in kept if row is not chosen}
    return chosen["name"], reasons, -chosen["size"] % 64 * width * 2
    # END SOLUTION
