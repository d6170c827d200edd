import pytest

from vitadapter_d2.data.own import OwnClasses
from vitadapter_d2.data.own.classes import clean_name, make_categories


def classes(kind="panoptic"):
    things = [kind != "semantic", kind == "instances", kind != "semantic"]
    categories = make_categories([4, 9, 2], ["cat", "sky", "dog"], things, [[1, 2, 3], None, "x"])
    return OwnClasses(kind, categories)


@pytest.mark.parametrize("kind", ["instances", "semantic", "panoptic"])
def test_a_checkpoint_gives_back_what_was_put_in(kind):
    own = classes(kind)
    assert OwnClasses.from_dict(own.to_dict(), "file") == own


def test_things_come_first_and_every_class_has_a_colour():
    own = classes()
    assert own.names == ["cat", "dog", "sky"]
    assert own.categories[0].color == (1, 2, 3)
    assert len({category.color for category in own.categories}) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"ids": [1, 2]},
        {"ids": [1, 2, "__import__('os')"]},
        {"colors": [[0, 0, 0], [0, 0, 256], [0, 0, 0]]},
        {"kind": "keypoints"},
        {"thing_classes": []},
        {"thing_classes": ["a" * 101, "b"]},
        {"thing_classes": ["sky", "b"]},
        {"stuff_classes": None},
    ],
)
def test_damage_in_a_checkpoint_is_one_sentence(change):
    with pytest.raises(ValueError, match=r"the classes in a.pth are damaged"):
        OwnClasses.from_dict({**classes().to_dict(), **change}, "a.pth")
    with pytest.raises(ValueError, match="are damaged"):
        OwnClasses.from_dict([1, 2], "a.pth")


def test_names_are_one_clean_line():
    assert clean_name(" traffic\n\x1b[31mlight\t") == "traffic [31mlight"
    assert clean_name("Straße 猫") == "Straße 猫"
    assert clean_name(7) == "7"
    assert clean_name("${price") == clean_name("$ {price") == "$ {price"  # no reference in a config
    assert clean_name(r"$\frac$") == r"$\frac$"


def test_names_depend_on_the_classes_alone():
    assert classes().register() == classes().register() != classes("semantic").register()
