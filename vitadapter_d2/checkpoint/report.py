"""What became of every tensor of a checkpoint: the report of a conversion."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

_NAMES_SHOWN = 3


@dataclass
class Report:
    """The account of one conversion; :meth:`lines` prints it, :meth:`to_json` keeps all names.

    Attributes:
        kind: what the file was taken for.
        matched: names that are the same in file and model.
        renamed: file's name -> model's name; a name in the model that several of the file feed,
            or that is fed to several, appears with all.
        resized: model's name -> sizes and method.
        fresh: model's name -> why the file need not have it; it stays as initialised.
        given: model's name -> where its value comes from, as it is no weight that is trained.
        unused: file's name -> why the model need not take it.
        missing: names of the model that the file should have had.
        unexpected: names of the file that the model should have taken.
        misfits: model's name -> the two shapes that do not agree.
    """

    kind: str
    matched: list[str] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    resized: dict[str, str] = field(default_factory=dict)
    fresh: dict[str, str] = field(default_factory=dict)
    given: dict[str, str] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    misfits: dict[str, str] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Nothing was lost beyond what is known to be of no use."""
        return not (self.missing or self.unexpected or self.misfits)

    @property
    def is_trained(self) -> bool:
        """Every weight of the model comes from the file: it can predict as it is."""
        return not (self.fresh or self.missing or self.misfits)

    def problems(self) -> str:
        """Counts and first names of what does not agree, for one sentence; empty if all does."""
        parts = [
            f"{len(names)} {what} ({some(names)})"
            for names, what in (
                (self.missing, "missing in the file"),
                (self.unexpected, "not known to the model"),
                (self.misfits, "of another shape"),
            )
            if names
        ]
        return ", ".join(parts)

    def summary(self) -> str:
        """One line of counts."""
        counts = {
            "matched": len(self.matched),
            "renamed": len(self.renamed),
            "resized": len(self.resized),
            "new": len(self.fresh),
            "given": len(self.given),
            "unused": len(self.unused),
            "missing": len(self.missing),
            "unexpected": len(self.unexpected),
            "misfits": len(self.misfits),
        }
        told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        return f"checkpoint of kind {self.kind}: {told}"

    def lines(self) -> list[str]:
        """The report for a reader: counts, then the first names of each sort, with the reason."""
        return [
            self.summary(),
            *_listed("renamed", [f"{old} -> {new}" for old, new in self.renamed.items()]),
            *_listed("resized", [f"{name}: {how}" for name, how in self.resized.items()]),
            *_by_reason("new", self.fresh),
            *_by_reason("given", self.given),
            *_by_reason("unused", self.unused),
            *_listed("misfit", [f"{name}: {how}" for name, how in self.misfits.items()]),
            *_listed("missing", self.missing),
            *_listed("unexpected", self.unexpected),
        ]

    def to_json(self) -> str:
        """All of it, indented, with the summary in front."""
        return json.dumps({"summary": self.summary(), **asdict(self)}, indent=1)


def some(names: Iterable[str]) -> str:
    """The first few names and how many more there are."""
    names = list(names)
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _listed(what: str, entries: list[str]) -> list[str]:
    more = len(entries) - _NAMES_SHOWN
    return [
        *(f"  {what} {entry}" for entry in entries[:_NAMES_SHOWN]),
        *([f"  {what}: {more} more"] if more > 0 else []),
    ]


def _by_reason(what: str, names: dict[str, str]) -> list[str]:
    reasons: dict[str, list[str]] = {}
    for name, reason in names.items():
        reasons.setdefault(reason, []).append(name)
    return [f"  {what} {len(group)}: {some(group)}: {why}" for why, group in reasons.items()]
