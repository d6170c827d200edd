"""Downloads a published source archive with pip's own session, and runs none of its code.

Run as a script by the interpreter whose pip is to be used:
`python _detectron2_fetch.py NAME VERSION SHA256 FILE`. pip's commands would build the package to
read its metadata; its classes find and fetch the file alone, with the user's index, proxy,
certificates and passwords. Exit status 3: not to be had, the reason on the last line of stdout.
Any other failure is a pip whose insides differ.
"""

import logging
import sys
from pathlib import Path

NOT_AVAILABLE = 3


class _FetchProblems(logging.Handler):
    """Keeps why pip could not read an index page, which it mentions only at debug level."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.reasons: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if str(record.msg).startswith("Could not fetch URL"):
            self.reasons.append(record.getMessage())


def _watch_pip() -> _FetchProblems:
    problems = _FetchProblems()
    logger = logging.getLogger("pip")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.addHandler(problems)
    return problems


def fetch(name: str, version: str, sha256: str) -> bytes:
    """Returns the source archive; the one with this sha256 first, if the indexes have several.

    Raises:
        LookupError: if no index offers it.
        OSError: if the download fails (the errors of pip's HTTP library are OSErrors).
    """
    from pip._internal.commands import create_command  # the parent reads this file without pip

    problems = _watch_pip()
    command = create_command("download")
    # A user's "only binary" must not hide the one file there is.
    options, _ = command.parse_args(["--no-input", "--no-deps", "--no-binary", name, name])
    with command.main_context():
        session = command.get_default_session(options)
        finder = command._build_package_finder(options, session)
        links = [
            candidate.link
            for candidate in finder.find_all_candidates(name)
            if str(candidate.version) == version and not candidate.link.is_wheel
        ]
        if not links:
            reason = problems.reasons[-1] if problems.reasons else "no index offers it"
            raise LookupError(reason)
        links.sort(key=lambda link: link.hash != sha256)
        # Without this header some servers serve the .tar.gz as a compressed .tar.
        response = session.get(
            links[0].url_without_fragment, headers={"Accept-Encoding": "identity"}
        )
        response.raise_for_status()
        return response.content


def main() -> int:
    """Fetches what the command line names."""
    name, version, sha256, target = sys.argv[1:]
    try:
        data = fetch(name, version, sha256)
    except (LookupError, OSError) as error:
        print(" ".join(str(error).split()))
        return NOT_AVAILABLE
    Path(target).write_bytes(data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
