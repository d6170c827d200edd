import pytest

from vitadapter_d2.inference.inputs import find_images


@pytest.fixture
def folder(tmp_path):
    for name in ("b.jpg", "a.PNG", "notes.txt", "sub/c.jpg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return tmp_path


def names(paths):
    return [path.name for path in paths]


def test_folders_give_their_images_sorted(folder):
    assert names(find_images([str(folder)])) == ["a.PNG", "b.jpg"]


def test_patterns_and_files_are_taken_once_in_order(folder):
    found = find_images([str(folder / "b.jpg"), str(folder / "**/*.jpg")])
    assert names(found) == ["b.jpg", "c.jpg"]


def test_a_named_file_needs_no_suffix(folder):
    assert names(find_images([str(folder / "notes.txt")])) == ["notes.txt"]


def test_brackets_in_a_name_are_not_a_pattern(folder):
    (folder / "x[1].jpg").touch()
    assert names(find_images([str(folder / "x[1].jpg")])) == ["x[1].jpg"]


@pytest.mark.parametrize("missing", ["nothing.jpg", "*.bmp"])
def test_what_matches_nothing_is_named(folder, missing):
    with pytest.raises(FileNotFoundError, match="no image at "):
        find_images([str(folder / missing)])
