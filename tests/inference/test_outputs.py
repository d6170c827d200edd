from pathlib import Path

from vitadapter_d2.inference.inputs import Input
from vitadapter_d2.inference.outputs import output_paths


def named(paths):
    """Files that were named one by one: of their place only the name is known."""
    return [Input(path, Path(path.name), path.suffix == ".mp4") for path in paths]


def test_the_tree_is_mirrored_unless_flat(tmp_path):
    places = ("a.jpg", "x/a.jpg", "x/y/clip.mov")
    inputs = [Input(Path("photos", p), Path(p), p.endswith("mov")) for p in places]
    mirrored = output_paths(inputs, tmp_path, ".jpg")
    assert [path.relative_to(tmp_path).as_posix() for path in mirrored] == [
        "a.jpg",
        "x/a.jpg",
        "x/y/clip.mp4",
    ]
    flat = output_paths(inputs, tmp_path, is_flat=True)
    assert [path.relative_to(tmp_path).as_posix() for path in flat] == [
        "a.png",
        "a_2.png",
        "clip.mp4",
    ]


def test_files_of_one_name_are_numbered_past_the_names_that_are_taken(tmp_path):
    names = ("x/a.jpg", "y/a.jpg", "y/a_2.jpg", "z/a.jpg", "z/b.jpg", "z/{}.jpg", "{}.jpg")
    paths = output_paths(named(tmp_path / name for name in names), tmp_path / "out")
    assert [path.name for path in paths] == [
        "a.png",
        "a_2.png",
        "a_2_2.png",
        "a_3.png",
        "b.png",
        "{}.png",
        "{}_2.png",
    ]


def test_neither_a_linked_input_nor_its_link_is_overwritten(tmp_path):
    (tmp_path / "real.png").touch()
    (tmp_path / "link.png").symlink_to(tmp_path / "real.png")
    (tmp_path / "folder").symlink_to(tmp_path)
    inputs = [tmp_path / "link.png", tmp_path / "other" / "real.jpg"]
    paths = output_paths(named(inputs), tmp_path / "folder")
    assert [path.name for path in paths] == ["link_2.png", "real_2.png"]


def test_what_stands_beside_a_result_overwrites_no_input_and_no_other_result(tmp_path):
    inputs = [tmp_path / "a.panoptic.png", tmp_path / "a.jpg", tmp_path / "b.jpg"]
    inputs += [tmp_path / "sub" / "b.semantic.jpg"]
    paths = output_paths(named(inputs), tmp_path)
    assert [path.name for path in paths] == [
        "a.panoptic_2.png",
        "a_2.png",
        "b.png",
        "b.semantic_2.png",
    ]


def test_a_video_leaves_room_for_another_codec(tmp_path):
    inputs = [tmp_path / "clip.avi", tmp_path / "clip.mp4"]
    paths = output_paths([Input(path, Path(path.name), True) for path in inputs], tmp_path)
    assert [path.name for path in paths] == ["clip_2.mp4", "clip_3.mp4"]
