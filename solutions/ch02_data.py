"""Chapter 2, Data: the exercises. Replace each ``raise NotImplementedError`` with your answer."""

import random
from typing import Any

import torch
from torch import Tensor

from myllm.grading import exercise


@exercise("02.1", "Fix the windows", points=6, minutes=20, difficulty=2, section="windows")
def scoring_windows(tokens: Tensor, block_size: int, stride: int) -> tuple[Tensor, Tensor]:
    """Debug overlapping windows for scoring a text: some targets count twice, others never.

    A model predicts better with a longer context. So a text is scored with windows that overlap, and in each
    window, only those targets count that were in no earlier window; the others are replaced by -100, which
    PyTorch's cross-entropy ignores. Windows of T tokens begin at 0, ``stride``, 2 * ``stride`` and so on, as
    long as the window and its last target lie in the text. If targets are left at the end, there is one more
    window, whose last target is the last token. This version has five mistakes::

        x, y = [], []
        for start in range(0, len(tokens) - block_size - 1, stride):
            x.append(tokens[start : start + block_size])
            y.append(tokens[start + 1 : start + block_size + 1])
            y[-1][:stride] = -100
        return torch.stack(x), torch.stack(y)

    Args:
        tokens: (N,) int64, the text; N is T + 1 or more. Ids may be as large as 2**40. It is not changed.
        block_size: T, 1 or more.
        stride: From 1 to T.

    Returns:
        ``(x, y)``, both (W, T) int64, with a row for each window, in the order of the text: what the model
        reads, and the targets. Each token but the first counts as a target exactly once.

    Example:
        The windows begin at 0 and 2; the third would lack a last target at 4, so it begins at 3.

        >>> x, y = scoring_windows(torch.tensor([10, 11, 12, 13, 14, 15, 16]), 3, 2)
        >>> x
        tensor([[10, 11, 12],
                [12, 13, 14],
                [13, 14, 15]])
        >>> y
        tensor([[  11,   12,   13],
                [-100,   14,   15],
                [-100, -100,   16]])
    """
    # SOLUTION
    last = len(tokens) - 1 - block_size  # where a window may begin at the latest
    starts = [*range(0, last + 1, stride)]
    if starts[-1] < last:
        starts.append(last)
    x, y, done = list[Tensor](), list[Tensor](), 0  # done: the place of the last target that has counted
    for start in starts:
        target = tokens[start + 1 : start + block_size + 1].clone()
        target[: done - start] = -100
        x.append(tokens[start : start + block_size])
        y.append(target)
        done = start + block_size
    return torch.stack(x), torch.stack(y)
    # END SOLUTION


@exercise("02.2", "Files and steps", points=6, minutes=20, difficulty=2, section="tokens-on-disk")
def plan(
    lengths: list[int], vocab_size: int, shard_tokens: int, block_size: int, batch_size: int, epochs: int
) -> tuple[list[int], int]:
    """Count the bytes of a corpus on disk and the steps of a training run, before anything is encoded.

    The files are the arrays of the chapter; the small index beside them is not counted. A shard holds whole
    documents and ends with the document that brings it to ``shard_tokens`` tokens or more; an id takes two
    bytes in a vocabulary of at most 65,536 ids, else four. The last file says where each document begins and
    where the last one ends, in eight bytes each. Every file begins with a header of 128 bytes.

    A step reads ``batch_size`` windows. Windows of T tokens follow one another through one long
    text, regardless of where documents or shards end. Epoch follows epoch without a break, so that a batch
    may hold the last windows of one and the first windows of the next.

    Args:
        lengths: The number of tokens of each document, from 1 to 10**15. There is at least one document.
        vocab_size: The number of ids, from 1 to 2**32.
        shard_tokens: 1 or more.
        block_size: T, 1 or more.
        batch_size: 1 or more.
        epochs: How often each window is to be read, 0 or more.

    Returns:
        The bytes of each file, first the shards in their order, then the file of documents; and the smallest
        number of steps after which each window was read at least ``epochs`` times, 0 if there is no window.

    Example:
        The shards hold 4 + 2 and 5 tokens; the last file holds three beginnings and one end. The 11 tokens
        make 3 windows of 3 tokens with all their targets, so two epochs are six windows.

        >>> plan([4, 2, 5], 256, 6, 3, 4, 2)
        ([140, 138, 160], 2)
    """
    # SOLUTION
    size = 2 if vocab_size <= 1 << 16 else 4
    files, tokens = list[int](), 0
    for length in lengths:
        tokens += length
        if tokens >= shard_tokens:
            files.append(128 + size * tokens)
            tokens = 0
    if tokens:
        files.append(128 + size * tokens)
    files.append(128 + 8 * (len(lengths) + 1))
    windows = max(0, (sum(lengths) - 1) // block_size)
    return files, -(-epochs * windows // batch_size)
    # END SOLUTION


@exercise("02.3", "Documents in a row", points=6, minutes=15, difficulty=2, section="packing")
def documents_and_positions(lengths: list[int], block_size: int) -> tuple[Tensor, Tensor]:
    """For each position of a packed row, say which document its token belongs to, and where in that document.

    The documents lie in the row one after the other, in the order given; what is left at the end is padding.

    Args:
        lengths: The number of tokens of each document; there may be none or hundreds of documents. A document
            may be empty, or longer than 65,536 tokens.
        block_size: T, the length of the row, 1 or more.

    Returns:
        ``(document, position)``, both (T,) int64. Documents are numbered from 0 in the order of ``lengths``;
        an empty one takes no room, but keeps its number. Positions begin at 0 in each document. On padding
        the document is -1 and the position 0.

    Raises:
        ValueError: The documents together are longer than the row.

    Example:
        Document 0 has two tokens, document 1 none, document 2 three; one place is left.

        >>> document, position = documents_and_positions([2, 0, 3], 6)
        >>> document
        tensor([ 0,  0,  2,  2,  2, -1])
        >>> position
        tensor([0, 1, 0, 1, 2, 0])
    """
    # SOLUTION
    if sum(lengths) > block_size:
        raise ValueError(f"{sum(lengths)} tokens do not fit into a row of {block_size}")
    document = torch.full((block_size,), -1)
    position = torch.zeros(block_size, dtype=torch.int64)
    start = 0
    for number, length in enumerate(lengths):
        document[start : start + length] = number
        position[start : start + length] = torch.arange(length)
        start += length
    return document, position
    # END SOLUTION


@exercise("02.4", "Shuffle with few files open", points=7, minutes=30, difficulty=3, section="resuming")
def epoch_order(
    sizes: list[int], open_files: int, seed: int, epoch: int, rank: int, world: int
) -> list[tuple[int, int]]:
    """Design a random order of an epoch that reads from a few files at a time.

    A shuffle over all windows of a corpus jumps from file to file. If each file has to be fetched first,
    only a few files should be open at a time. You may choose any order that meets these requirements:

    1. Each window of each file occurs exactly once in an epoch.
    2. A file is open from the first of its windows to the last. At no time are more than ``open_files`` open.
    3. The order depends on the arguments alone, not on other random numbers or on the process, and it differs
       from epoch to epoch and from seed to seed: seed 1 in epoch 2 is not seed 2 in epoch 1.
    4. The windows of a file are not read in the order of the file. If several files may be open, their
       windows are mixed: if the files have equal sizes and their number is a multiple of ``open_files``, at
       least a third of all windows follow a window of another file.
    5. Which files are first, and which are open together, changes from epoch to epoch.
    6. Of ``world`` processes, the one with the number ``rank`` gets the windows ``rank``, ``rank + world``,
       ``rank + 2 * world`` … of the epoch's order, so that together they get all. Rules 2 and 4 apply to
       the whole order.

    Rules 3 to 5 are for files of a dozen windows or more: with fewer, there may be no other order.

    Args:
        sizes: The windows of each file, at least one file; a size may be 0.
        open_files: 1 or more.
        seed: 0 or more.
        epoch: 0 or more.
        rank: The number of this process, from 0 to ``world - 1``.
        world: How many processes there are, 1 or more.

    Returns:
        The windows of this process in the order in which it reads them, each as (file, place in the file);
        both are counted from 0.

    Example:
        The only window is the first one of file 1.

        >>> epoch_order([0, 1, 0], 2, 5, 0, 0, 1)
        [(1, 0)]
    """
    # SOLUTION
    generator = random.Random(f"seed {seed}, epoch {epoch}")
    files = [*range(len(sizes))]
    generator.shuffle(files)
    order = list[tuple[int, int]]()
    for first in range(0, len(files), open_files):
        group = [(file, i) for file in files[first : first + open_files] for i in range(sizes[file])]
        generator.shuffle(group)
        order += group
    return order[rank::world]
    # END SOLUTION


@exercise("02.5", "Choose a threshold", points=7, minutes=25, difficulty=3, section="minhash")
def choose_threshold(
    candidates: list[dict[str, Any]],
    pairs: list[tuple[float, bool, int]],
    n_hashes: int,
    max_missed: float,
    max_lost: float,
) -> tuple[str | None, dict[str, str]]:
    """Choose a search for near-duplicates, using pairs that people have judged, and give the reasons.

    A search cuts signatures into ``bands`` bands of ``rows`` entries each. Two documents of similarity s
    agree in an entry with probability s, independently, and *meet* if they agree in all entries of some band.
    Those that meet are compared, and one of them is removed if s is at least ``threshold``. The rules, in
    this order:

    1. ``"hashes"``: drop a search if its bands need more than ``n_hashes`` entries.
    2. ``"missed"``: drop a search if more than the share ``max_missed`` of all copies is expected to stay: a
       copy stays if it does not meet or lies below the threshold.
    3. ``"lost"``: drop a search if it is expected to remove more than ``max_lost`` pairs that are not copies.
    4. ``"work"``: of what is left, choose the search with the fewest expected comparisons, over all pairs. If
       several have the fewest, choose the first. Drop the others.

    Args:
        candidates: The searches, each a dict: ``name``, ``threshold``, ``bands`` and ``rows``.
        pairs: What people found, as (similarity, whether such a pair is a copy, how many such pairs there
            are). Similarities are between 0 and 1. If there are no copies, none is missed.
        n_hashes: The entries of a signature.
        max_missed: From 0 to 1.
        max_lost: A number of pairs, 0 or more.

    Returns:
        The name of the chosen search, or None if rules 1 to 3 drop all, and a dict that maps the name of
        every other search to the rule that dropped it.

    Example:
        A pair of similarity 0.5 meets in at least one of two bands of one entry with probability 0.75, so
        of four copies one is expected to stay. A band of two entries finds only a quarter.

        >>> short = {"name": "short", "threshold": 0.5, "bands": 2, "rows": 1}
        >>> long = {"name": "long", "threshold": 0.5, "bands": 1, "rows": 2}
        >>> choose_threshold([short, long], [(0.5, True, 4)], 2, 0.3, 0)
        ('short', {'long': 'missed'})
    """
    # SOLUTION
    reasons, work = dict[str, str](), dict[str, float]()
    copies = sum(count for _, copy, count in pairs if copy)
    for row in candidates:
        name, met, found, lost = row["name"], 0.0, 0.0, 0.0
        for similarity, copy, count in pairs:
            meet = count * (1 - (1 - similarity ** row["rows"]) ** row["bands"])
            met += meet
            if similarity >= row["threshold"]:
                found, lost = (found + meet, lost) if copy else (found, lost + meet)
        if row["bands"] * row["rows"] > n_hashes:
            reasons[name] = "hashes"
        elif copies - found > max_missed * copies:
            reasons[name] = "missed"
        elif lost > max_lost:
            reasons[name] = "lost"
        else:
            work[name] = met
    chosen = min(work, key=lambda name: work[name], default=None)
    return chosen, reasons | {name: "work" for name in work if name != chosen}
    # END SOLUTION
