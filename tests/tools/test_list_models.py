"""MODEL_ZOO.md says what the configurations say."""

import re
import sys
from pathlib import Path

import pytest
from parameter_counts import PARAMETERS

from vitadapter_d2 import model_zoo

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import list_models  # noqa: E402

NAMES = list_models.names()
LINK = re.compile(r"\((\S+)\)")
COUNTED = (
    "ade20k/semantic_fpn_deit_adapter_tiny_512_80k_ade20k",
    "ade20k/mask2former_deit_adapter_small_512_160k_ade20k",
    "coco/mask_rcnn_deit_vitdet_tiny_fpn_1x_coco",
)
STALE = "stale: run python tools/list_models.py"


def rows_of(text):
    """Zoo name -> title of the column -> cell; the section is one more."""
    rows, section, titles = {}, "", []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("## "):
            section = line.removeprefix("## ")
        elif cells[0] == "name":
            titles = cells
        elif line.startswith("| ["):
            path = LINK.search(cells[0])[1]
            name = path.removeprefix("configs/").removesuffix(".py")
            rows[name] = {**dict(zip(titles, cells, strict=True)), "section": section}
    return rows


@pytest.fixture(scope="module")
def rows():
    return rows_of(list_models.PAGE.read_text("utf-8"))


def test_every_config_has_its_row(rows):
    assert set(rows) == set(NAMES), STALE
    assert f"\n{len(NAMES)} configurations, " in list_models.PAGE.read_text("utf-8"), STALE


@pytest.mark.parametrize("name", NAMES)
def test_a_row_has_the_numbers_and_links_of_its_config(name, rows):
    row, cfg = rows[name], model_zoo.get_config(name)
    assert (list_models.PAGE.parent / LINK.search(row["name"])[1]).is_file()
    sources = {url for url in (cfg.zoo.pretrained, cfg.train.init_checkpoint) if url}
    assert set(LINK.findall(row["from"])) == sources, STALE
    assert LINK.findall(row["weights"]) == [url for url in [cfg.zoo.released] if url], STALE
    thousands, batch = row["training"].split("k x ")
    assert float(thousands) == pytest.approx(cfg.train.max_iter / 1000, abs=0.051), STALE
    assert int(batch) == cfg.dataloader.train.total_batch_size, STALE
    titles = list(row)
    published = {t: row[t] for t in titles[titles.index("size") + 1 : titles.index("M")]}
    expected = {
        key.replace("_ms", " MS").replace("_", " "): n for key, n in cfg.zoo.metrics.items()
    }
    assert {t: float(c) for t, c in published.items() if c != list_models.NONE} == expected, STALE
    assert row["M"] == f"{PARAMETERS[name] / 1e6:.1f}", STALE


@pytest.mark.parametrize("name", COUNTED)
def test_a_row_is_what_is_counted(name, rows):
    cfg = model_zoo.get_config(name)
    text = list_models.page([(list_models.read(name, cfg), list_models.count(cfg))])
    (new,) = rows_of(text).values()
    assert new == {title: rows[name][title] for title in new}, STALE


def test_methods_and_backbones_have_names_of_people(rows):
    """A new head or backbone whose class is not called as the method is must be named."""
    assert {row["method"] for row in rows.values()} <= {
        "ATSS",
        "Cascade Mask R-CNN",
        "DINO",
        "GFL",
        "HTC++",
        "Mask R-CNN",
        "Mask2Former",
        "SETR-PUP",
        "Semantic FPN",
        "Sparse R-CNN",
        "UPerNet",
    }
    for row in rows.values():
        assert re.fullmatch(r"ViT(-Adapter|Det)?-[TSBLg](-light)?", row["backbone"])
        assert row["section"] in list_models.TITLES.values()
    light = {name for name, row in rows.items() if row["backbone"].endswith("-light")}
    assert light == {name for name in NAMES if "_light_" in name}


def test_a_start_from_another_model_names_its_data_set(rows):
    start = rows["cityscapes/mask2former_beit_adapter_large_896_80k_cityscapes"]["from"]
    assert re.fullmatch(r"\[Mapillary Vistas\]\(\S+\), \[BEiT\]\(\S+\)", start)


def test_an_unknown_data_set_keeps_its_name():
    cfg = model_zoo.get_config(COUNTED[0])
    cfg.dataloader.train.dataset.names = ["one_train", "two_train"]
    assert list_models.read("new/model", cfg).section == "one_train, two_train"


def test_check_tells_a_stale_page_from_a_fresh_one(tmp_path, monkeypatch):
    output = tmp_path / "zoo.md"
    monkeypatch.setattr(list_models, "names", lambda: [COUNTED[0]])
    monkeypatch.setattr(sys, "argv", ["list_models.py", "--output", str(output), "--check"])
    assert list_models.main() == 1  # there is no page
    monkeypatch.setattr(sys, "argv", sys.argv[:-1])
    assert list_models.main() == 0
    assert set(rows_of(output.read_text("utf-8"))) == {COUNTED[0]}
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--check"])
    assert list_models.main() == 0
    output.write_text(output.read_text("utf-8").replace("42.8", "42.9"), "utf-8")
    assert list_models.main() == 1
