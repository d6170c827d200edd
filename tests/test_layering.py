"""Imports go one way: ops -> layers -> modeling -> {data, ...} -> engine -> model_zoo."""

import ast
import sys
from pathlib import Path

import pytest

import vitadapter_d2

PACKAGE = Path(vitadapter_d2.__file__).parent
RANKS = {
    "compat": 0,
    "files": 0,
    "labels": 0,
    "ops": 0,
    "layers": 1,
    "modeling": 2,
    **dict.fromkeys(("data", "evaluation", "inference", "solver", "checkpoint"), 3),
    "engine": 4,
    "model_zoo": 5,
}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def imported_rooms(path: Path) -> set[str]:
    """Rooms of this package that a file imports, at any depth of its code."""
    module = ["vitadapter_d2", *path.relative_to(PACKAGE).with_suffix("").parts]
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = module[: len(module) - node.level] if node.level else []
            start = [*base, *(node.module.split(".") if node.module else [])]
            names = [[*start, alias.name] for alias in node.names]
        else:
            continue
        rooms |= {name[1] for name in names if name[0] == "vitadapter_d2" and len(name) > 1}
    return rooms


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    room = room_of(path)
    upward = {
        other for other in imported_rooms(path) if other != room and RANKS[other] >= RANKS[room]
    }
    assert not upward


def test_ops_import_torch_alone():
    allowed = {"torch", "vitadapter_d2", *sys.stdlib_module_names}
    for path in (PACKAGE / "ops").glob("*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                tops = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                tops = {node.module.split(".")[0]}
            else:
                continue
            assert tops <= allowed, path
        assert imported_rooms(path) <= {"ops"}, path


def test_every_room_has_a_rank():
    assert {room_of(path) for path in FILES} <= set(RANKS) | {"configs"}
