"""`Registry`: methods, tasks, model families and data formats by name, including those of other packages."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from formless.errors import UnknownNameError

E = TypeVar("E")


class Registry(Mapping[str, E], Generic[E]):
    """A mapping of entries by name: the package's own in the given order, then those of other packages.

    Entry points of other packages are loaded at the first use.

    Args:
        kind: What an entry is, for error messages, e.g. "method".
        group: The entry point group for other packages, e.g. "formless.methods".
        entry_type: The type of an entry.
        own: The entries of this package.
        name_of: Returns an entry's name; by default its attribute `name`.
    """

    def __init__(
        self,
        kind: str,
        group: str,
        entry_type: type[E],
        own: tuple[E, ...],
        *,
        name_of: Callable[[E], str] = lambda entry: str(vars(entry)["name"]),
    ) -> None:
        self.kind, self.group = kind, group
        self._type, self._name_of = entry_type, name_of
        self._own = {name_of(entry): entry for entry in own}

    @cached_property
    def _all(self) -> dict[str, E]:
        found = dict(self._own)
        for point in entry_points(group=self.group):
            entry = self._loaded(point, found)
            if entry is not None:
                found[self._name_of(entry)] = entry
        return found

    def _loaded(self, point: EntryPoint, known: Mapping[str, E]) -> E | None:
        """Return another package's entry, or None with a warning if it cannot be used."""
        package = point.dist.name if point.dist else "an unknown package"
        try:
            found = point.load()
        except Exception as error:  # another package's code may raise anything
            reason = f"it cannot be loaded: {type(error).__name__}: {' '.join(str(error).split())}"
        else:
            if not isinstance(found, self._type):
                reason = f"it is not a {self._type.__name__}"
            elif self._name_of(found) in known:
                reason = f"another {self.kind} has its name"
            else:
                return found
        warnings.warn(f"the {self.kind} {point.name!r} of {package} is left out: {reason}", stacklevel=2)
        return None

    def __getitem__(self, name: str) -> E:
        return self._all[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def get_known(self, name: str, *, where: object = None) -> E:
        """Return the entry with a name.

        Raises:
            UnknownNameError: There is no such entry; the nearest names are suggested.
        """
        if name not in self:
            raise UnknownNameError(self.kind, name, self, where=where)
        return self[name]
