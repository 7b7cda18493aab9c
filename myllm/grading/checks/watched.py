"""Arguments that count how much of them an answer reads, for cost checks without torch."""

from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from typing import Any, SupportsIndex


class WatchedTuple(tuple[int, ...]):
    """A tuple that counts, for all of its kind together, the entries that were read."""

    read = 0

    def __iter__(self) -> Iterator[int]:
        """Read all."""
        WatchedTuple.read += len(self)
        return super().__iter__()

    def __getitem__(self, key: SupportsIndex | slice) -> Any:
        """Read one or a slice."""
        found: Any = super().__getitem__(key)
        WatchedTuple.read += len(found) if isinstance(key, slice) else 1
        return found


class WatchedDict(dict[tuple[int, int], int]):
    """A dict that counts the entries that were gone through; looking one up is free."""

    read = 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Go through the keys."""
        self.read += len(self)
        return super().__iter__()

    def keys(self) -> KeysView[tuple[int, int]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Go through the keys."""
        self.read += len(self)
        return super().keys()

    def values(self) -> ValuesView[int]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Go through the values."""
        self.read += len(self)
        return super().values()

    def items(self) -> ItemsView[tuple[int, int], int]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Go through both."""
        self.read += len(self)
        return super().items()

    def __deepcopy__(self, memo: object) -> "WatchedDict":
        """Copy; that does not count."""
        return WatchedDict({key: self[key] for key in super().__iter__()})
