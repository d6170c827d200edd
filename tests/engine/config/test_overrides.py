import re
from pathlib import Path

import pytest
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig
from omegaconf import OmegaConf
from torch import nn

from vitadapter_d2.engine import errors
from vitadapter_d2.engine.config.calls import check_calls, instantiate
from vitadapter_d2.engine.config.loading import find_config, load_config, zoo_names
from vitadapter_d2.engine.config.overrides import apply_overrides, fields, overrides_field
from vitadapter_d2.engine.errors import ConfigError, exit_status, told

NAME = "shapes/mask2former_vit_adapter_quickstart"


@pytest.fixture
def cfg():
    return load_config(NAME)


def message(cfg, *overrides):
    with pytest.raises(ConfigError) as raised:
        apply_overrides(cfg, overrides)
    text = str(raised.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("train.max_iter=3", 3),
        ("train.clip_grad_norm=null", None),
        ("train.amp.enabled=true", True),
        ("train.output_dir=a/b-c_1.x", "a/b-c_1.x"),
        ('train.output_dir="a b (1)=2"', "a b (1)=2"),
        ("optimizer.betas=[0.8,0.9]", [0.8, 0.9]),
        ("dataloader.train.dataset.names=[a,b]", ["a", "b"]),
        ("dataloader.evaluator.0.dataset_name=x", "x"),
        ("dataloader.evaluator[0].dataset_name=x", "x"),
        ("train.max_iter=${train.log_period}", 20),
        ("model.metadata=null", None),
    ],
)
def test_what_the_config_has_is_overridden(cfg, override, value):
    apply_overrides(cfg, [override])
    key = override.partition("=")[0]
    assert OmegaConf.select(cfg, key) == value


def test_an_argument_that_the_call_takes_is_legal(cfg):
    """The first has a signature without it in the config, the second takes what timm takes."""
    apply_overrides(cfg, ["optimizer.amsgrad=true", "model.backbone.vit.model.drop_path_rate=0.3"])
    assert cfg.optimizer.amsgrad is True
    assert cfg.model.backbone.vit.model.drop_path_rate == 0.3
    check_calls(cfg)


def test_a_mapping_is_merged_and_checked_part_by_part(cfg):
    apply_overrides(cfg, ["train.amp={enabled:true}"])
    assert cfg.train.amp == {"enabled": True, "dtype": "bfloat16"}
    assert "no field train.amp.dtpe" in message(cfg, "train.amp={dtpe:float16}")


@pytest.mark.parametrize(
    ("override", "level", "nearest"),
    [
        ("train.max_itre=3", "train has no 'max_itre'", "train.max_iter"),
        ("max_iter=3", "the config has no 'max_iter'", "train.max_iter"),
        (
            "model.backbnoe.vit.model.depth=3",
            "model has no 'backbnoe', and Mask2Former takes none",
            "model.backbone.vit.model.depth",
        ),
        (
            "model.num_classes=5",
            "model has no 'num_classes', and Mask2Former takes none",
            "model.criterion.num_classes",
        ),
        ("optimizer.amsgard=true", "and AdamW takes none", "optimizer.amsgrad"),
        (
            "dataloader.evaluator.7.dataset_name=x",
            "a list of 4, entries 0 to 3, got 7",
            "dataloader.evaluator.0.dataset_name",
        ),
        ("train.max_iter.x=3", "train.max_iter is 600 and has no fields", "train.max_iter"),
    ],
)
def test_an_illegal_key_says_where_it_breaks_and_what_is_near(cfg, override, level, nearest):
    text = message(cfg, override)
    assert text.startswith(f"no field {override.partition('=')[0]}: ")
    assert level in text
    names = re.search(r"nearest: ([^;]*)", text)[1].split(", ")
    assert len(names) == 3 and nearest in names
    assert set(names) <= set(fields(cfg))


def test_force_adds_what_the_config_lacks(cfg):
    assert "+train.mine.size=... sets it all the same" in message(cfg, "train.mine.size=3")
    apply_overrides(cfg, ["+train.mine.size=3", "++train.other=x"])
    assert cfg.train.mine.size == 3 and cfg.train.other == "x"
    apply_overrides(cfg, ["+model.nothing=3"])
    with pytest.raises(ConfigError, match=r"model \(Mask2Former\) takes no argument 'nothing'"):
        check_calls(cfg)


def test_an_overridden_field_is_known_by_its_whole_name():
    assert overrides_field(["a=1", "+train.output_dir=x"], "train.output_dir")
    assert not overrides_field(
        ["train.output_dirs=x", "train.output=train.output_dir=x"], "train.output_dir"
    )


@pytest.mark.parametrize(
    ("override", "wrong"),
    [
        ("train.max_iter", "an override is key=value"),
        ("=3", "an override is key=value"),
        ("train.output_dir=a (1)", "the value a (1) cannot be read; text with special"),
        ("train.max_iter=1,2", "one value is needed"),
        ("train.o#=3", "the key train.o# cannot be read"),
        ("a/b=3", "only key=value and +key=value"),
        ("model=3", "model is a mapping and cannot become 3; its fields are model.backbone"),
        ("model=null", "model is a mapping and cannot become None"),
        ("model.criterion=null", "model.criterion is a mapping and cannot become None"),
        ("dataloader.evaluator=3", "is a list of mappings and cannot become 3"),
        ("train.amp.enabled=off", "train.amp.enabled is true or false, now False; got 'off'"),
        ("train.max_iter=3k", "train.max_iter is a number, now 600; got '3k'"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_sentence(cfg, override, wrong):
    assert wrong in message(cfg, override)


def test_a_part_that_nothing_reads_is_not_overridden(cfg):
    """The file imports `backbone` and copies it into the model."""
    assert "nothing reads it any more" in message(cfg, "backbone.vit.window_sizes=[7]")
    cfg.model.backbone = "${backbone}"
    apply_overrides(cfg, ["backbone.vit.window_sizes=[7]"])
    assert cfg.model.backbone.vit.window_sizes == [7]


def test_what_lies_behind_an_interpolation_is_overridden_in_its_own_place():
    cfg = OmegaConf.create(
        {"train": {"size": 3}, "model": {"width": "${train.size}", "same": "${train}"}}
    )
    text = message(cfg, "model.same.size=4")
    assert text == "model.same of model.same.size refers to ${train}: override that"
    apply_overrides(cfg, ["model.width=5", "train.size=4"])
    assert cfg.model == {"width": 5, "same": {"size": 4}}


def test_a_saved_config_knows_the_same_keys(cfg, tmp_path):
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    saved = load_config(tmp_path / "config.yaml", ["optimizer.amsgrad=true"])
    assert saved.optimizer.amsgrad is True
    assert "and AdamW takes none" in message(saved, "optimizer.amsgard=true")


def call(target, **arguments):
    return OmegaConf.create(
        {"model": L(nn.Sequential)(), "test": {"inner": L(target)(**arguments)}},
        flags={"allow_objects": True},
    )


@pytest.mark.parametrize(
    ("target", "arguments", "wrong"),
    [
        (
            nn.Conv2d,
            {"in_channels": 1, "out_channels": 1, "kernel_size": 1, "strid": 2},
            r"^test.inner \(Conv2d\) takes no argument 'strid'; nearest: stride, ",
        ),
        (nn.Conv2d, {"in_channels": 1}, r"\(Conv2d\) lacks the argument out_channels, kernel_size"),
        ("torch.nn.Conv9d", {}, "test.inner._target_ names torch.nn.Conv9d: "),
        ("torch.pi", {}, "test.inner._target_ is 3.14.*, which cannot be called"),
    ],
)
def test_a_call_with_wrong_arguments_is_named_by_its_place(target, arguments, wrong):
    with pytest.raises(ConfigError, match=wrong):
        check_calls(call(target, **arguments))


def test_half_a_call_that_nothing_builds_is_let_be():
    cfg = call(nn.Conv2d, in_channels=1)
    cfg["mine"] = cfg.test.inner
    del cfg["test"]
    check_calls(cfg)


def test_published_configs_call_what_they_build_as_it_should_be():
    """One of each kind here; test_configs.py builds them all."""
    kinds = {name.split("_vit")[0]: name for name in zoo_names() if name.startswith("shapes/")}
    assert len(kinds) > 5
    for name in kinds.values():
        load_config(name)


@pytest.mark.parametrize(
    ("file", "content", "wrong"),
    [
        ("a.py", "x = (3\n", "a.py, line 1: '\\(' was never closed"),
        ("a.py", "from .nothing import x\n", "nothing.py has to exist"),
        ("a.yaml", "a: [3\n", "a.yaml: while parsing a flow sequence"),
        ("a.yaml", "3\n", "a.yaml holds no mapping"),
        ("a.txt", "", "a config is a file .py, .yaml, .yml; got .*a.txt"),
    ],
)
def test_a_file_that_is_no_config_is_named(tmp_path, file, content, wrong):
    (tmp_path / file).write_text(content)
    importing = __builtins__["__import__"]
    with pytest.raises(ConfigError, match=wrong):
        load_config(tmp_path / file)
    assert __builtins__["__import__"] is importing


def test_a_wrong_name_of_the_zoo_names_three():
    with pytest.raises(FileNotFoundError) as raised:
        find_config("shapes/mask2former_quickstart.py")
    names = re.search(r"nearest: (.*?) \(all \d+: MODEL_ZOO.md", str(raised.value))[1].split(", ")
    assert len(names) == 3 and names[0] == NAME


def test_only_errors_of_the_user_become_a_sentence(capsys):
    def refusal():
        find_config("nothing")

    def slip():
        return int("x")

    assert exit_status(refusal) == 1
    assert "nothing is neither a file nor a name" in capsys.readouterr().err
    with pytest.raises(ValueError, match="invalid literal"):
        exit_status(slip)
    assert exit_status(lambda: open("/nowhere/file")) == 1
    assert capsys.readouterr().err == "No such file or directory: /nowhere/file\n"
    assert exit_status(lambda: 3) == 3 and exit_status(lambda: None) == 0
    assert told(ConfigError("x")) == "x"
    assert told(KeyError("x")) is None


def test_ctrl_c_is_one_word_and_the_shells_status(capsys):
    def interrupted():
        raise KeyboardInterrupt

    assert exit_status(interrupted) == 130
    assert capsys.readouterr().err == "interrupted\n"


class Narrow(nn.Module):
    """Refuses widths above 3; passes the rest on."""

    def __init__(self, width, **others):
        super().__init__()
        if width > 3:
            raise ValueError(f"width must be at most 3, got {width}")
        self.layer = nn.Conv2d(width, **others)


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        ({"width": 4}, r"^model.0 \(Narrow\): width must be at most 3, got 4$"),
        (
            {"width": 1, "out_channels": 1, "kernel_size": 1, "strid": 2},
            r"^model.0 \(Narrow\): .* unexpected keyword argument 'strid'",
        ),
    ],
)
def test_what_a_call_refuses_is_named_by_its_place(arguments, wrong, monkeypatch):
    # A test is no part of the package, whose refusals are meant for the user.
    monkeypatch.setattr(errors, "_PACKAGE", Path(__file__).parent)
    cfg = OmegaConf.create({"model": [L(Narrow)(**arguments)]}, flags={"allow_objects": True})
    with pytest.raises(ConfigError, match=wrong):
        instantiate(cfg.model)


def test_an_error_in_a_call_keeps_its_kind_and_names_the_place():
    cfg = OmegaConf.create({"model": L(Narrow)(width="a")}, flags={"allow_objects": True})
    with pytest.raises(TypeError) as raised:
        instantiate(cfg.model)
    assert raised.value.__notes__ == ["while model was built"]
