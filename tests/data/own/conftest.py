from pathlib import Path

import pytest
from own_folders import make_shapes


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated set of 6 + 3 images."""
    return make_shapes(tmp_path_factory.mktemp("own") / "shapes", train=6, val=3)
