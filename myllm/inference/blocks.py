"""Bookkeeping for a pool of blocks of keys and values: who uses a block, and which texts can share it."""

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256


class Blocks:
    """Which blocks of a pool are free, how many requests use each, and what full blocks hold.

    A full block is identified by a hash of its tokens and of the hash of the block before it, so that equal
    hashes mean equal texts from the beginning. A block without users keeps its contents until it is needed
    again, the least recently used first.

    Args:
        count: Blocks in the pool.
        size: Tokens in a block.
    """

    def __init__(self, count: int, size: int) -> None:
        self.size = size
        self._users = [0] * count
        self._free = deque(range(count))
        self._unused: OrderedDict[int, None] = OrderedDict()  # full, without users, least recently used first
        self._hashes: dict[int, bytes] = {}  # the hash of each full block
        self._of_hash: dict[bytes, int] = {}

    @property
    def available(self) -> int:
        """The number of blocks that `take` can give."""
        return len(self._free) + len(self._unused)

    def take(self) -> int:
        """A block for one new user: a free one or, if there is none, the least recently used."""
        if self._free:
            block = self._free.popleft()
        else:
            block, _ = self._unused.popitem(last=False)
            del self._of_hash[self._hashes.pop(block)]
        self._users[block] = 1
        return block

    def release(self, blocks: Iterable[int]) -> None:
        """Remove one user from each block."""
        for block in blocks:
            self._users[block] -= 1
            if self._users[block] == 0 and block in self._hashes:
                self._unused[block] = None
            elif self._users[block] == 0:
                self._free.append(block)

    def share(self, ids: Sequence[int]) -> list[int]:
        """The longest chain of full blocks that hold the beginning of a text; each gets one more user.

        At least one token of the text is left to compute, since only that gives logits.
        """
        found: list[int] = []
        for one in self._chain(ids[: (len(ids) - 1) // self.size * self.size]):
            if (block := self._of_hash.get(one)) is None:
                break
            self._users[block] += 1
            self._unused.pop(block, None)
            found.append(block)
        return found

    def remember(self, ids: Sequence[int], blocks: Sequence[int]) -> None:
        """Record what the full blocks of a text hold, so that others can share them."""
        for block, one in zip(blocks, self._chain(ids), strict=False):
            if block not in self._hashes and one not in self._of_hash:
                self._hashes[block], self._of_hash[one] = one, block

    def _chain(self, ids: Sequence[int]) -> Iterator[bytes]:
        last = b""
        for start in range(0, len(ids) - self.size + 1, self.size):
            block = ",".join(map(str, ids[start : start + self.size]))
            last = sha256(last + block.encode()).digest()
            yield last
