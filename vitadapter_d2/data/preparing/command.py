"""What the prepare scripts share: arguments, progress, errors in one line, a count."""

import argparse
import sys
from collections.abc import Callable, Mapping
from typing import Protocol

from vitadapter_d2.data.datasets import datasets_root
from vitadapter_d2.data.preparing.label_maps import Prepared


class Prepare(Protocol):
    """Converts one split below the data root."""

    def __call__(
        self,
        root: str,
        split: str,
        *,
        workers: int | None = None,
        title: str | None = None,
        **flags: bool,
    ) -> Prepared:
        """Skips what exists; raises FileNotFoundError or ValueError naming the file."""


def prepare_command(
    description: str | None,
    prepare: Prepare,
    published: Mapping[str, int],
    flags: Mapping[str, str] | None = None,
    what: str = "",
) -> Callable[[], int]:
    """Make the ``main`` of a prepare script.

    Args:
        description: what ``--help`` prints.
        prepare: converts a split.
        published: split -> number of what is counted that the published set has.
        flags: name -> help of arguments of ``prepare`` that are False by default.
        what: is counted, if it is not the files written.

    Returns:
        A function without arguments that returns the exit status.
    """

    def main() -> int:
        parser = argparse.ArgumentParser(
            description=description, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        parser.add_argument("--root", default=datasets_root(), help="folder of all data sets")
        parser.add_argument("--splits", nargs="+", default=list(published), choices=list(published))
        parser.add_argument("--workers", type=int, help="processes (default: one per core, max. 8)")
        for flag, text in (flags or {}).items():
            parser.add_argument(f"--{flag.replace('_', '-')}", action="store_true", help=text)
        args = parser.parse_args()
        given = {flag: getattr(args, flag) for flag in flags or {}}
        for split in args.splits:
            try:
                done = prepare(args.root, split, workers=args.workers, title=split, **given)
            except (OSError, ValueError) as error:
                print(f"error: {error}", file=sys.stderr)
                return 1
            total = f"{done.total} {what}".rstrip()
            print(f"{split}: {done.written} files written, {total} in all")
            if done.total != published[split]:
                print(f"note: the published {split} split has {published[split]}", file=sys.stderr)
        return 0

    return main
