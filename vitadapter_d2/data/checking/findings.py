"""What a check says: kinds of findings, how often, and the first of each by name."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_EXAMPLES = 5


@dataclass(frozen=True)
class Finding:
    """One kind of thing that was found.

    Attributes:
        kind: what it is, as a short text such as ``"box of zero area"``.
        count: how often.
        examples: the first of them by name.
        is_error: False for what is legal, such as an image without annotation.
        is_fatal: no loader can make sense of it: reading the data set must end with this.
    """

    kind: str
    count: int
    examples: tuple[str, ...] = ()
    is_error: bool = True
    is_fatal: bool = False

    def __str__(self) -> str:
        """``"3 x box of zero area: annotation 7, annotation 9, ..."``."""
        names = ", ".join(self.examples) + (", ..." if self.count > len(self.examples) else "")
        return f"{self.count} x {self.kind}" + (f": {names}" if self.examples else "")


class Findings:
    """Collects findings of the same kind; the order is that of the first of each kind."""

    def __init__(self) -> None:
        self._examples: dict[tuple[str, bool, bool], list[str]] = defaultdict(list)
        self._counts: Counter[tuple[str, bool, bool]] = Counter()

    def add(
        self, kind: str, names: Iterable[str], *, is_error: bool = True, is_fatal: bool = False
    ) -> None:
        """Note one finding per name; without names nothing is noted."""
        key = (kind, is_error, is_fatal)
        for name in names:
            self._counts[key] += 1
            if len(self._examples[key]) < _EXAMPLES:
                self._examples[key].append(name)

    def list(self) -> list[Finding]:
        """Return what was noted."""
        return [
            Finding(
                kind, count, tuple(self._examples[kind, is_error, is_fatal]), is_error, is_fatal
            )
            for (kind, is_error, is_fatal), count in self._counts.items()
        ]


def refuse(findings: Sequence[Finding], source: object) -> None:
    """Raise a ValueError that names ``source`` and every fatal finding, if there is one."""
    fatal = [str(finding) for finding in findings if finding.is_fatal]
    if fatal:
        raise ValueError(f"{source} cannot be used: " + "; ".join(fatal))
