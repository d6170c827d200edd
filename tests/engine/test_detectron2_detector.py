"""The same backbone serves a Detectron2 detector unchanged."""

import torch
from detectron2.config import instantiate

from vitadapter_d2.engine.config.loading import load_config
from vitadapter_d2.engine.train import do_train


def test_mask_rcnn_trains_and_is_evaluated(tiny_root, tmp_path):
    cfg = load_config("shapes/mask_rcnn_vit_adapter_shapes")
    cfg.dataloader.train.dataset.names = "tiny_train"
    cfg.dataloader.train.total_batch_size = 2
    cfg.dataloader.train.num_workers = 0
    cfg.dataloader.test.dataset.names = "tiny_val"
    for evaluator in cfg.dataloader.evaluator:
        evaluator.dataset_name = "tiny_val"
    cfg.train.output_dir = str(tmp_path)
    cfg.train.max_iter = 2
    cfg.train.device = "cpu"
    results = do_train(cfg)
    assert set(results) >= {"bbox", "segm"}


def test_detections_have_the_size_of_the_image():
    cfg = load_config("shapes/mask_rcnn_vit_adapter_shapes")
    model = instantiate(cfg.model).eval()
    image = torch.randint(0, 256, (3, 75, 101), dtype=torch.uint8)
    with torch.no_grad():
        (output,) = model([{"image": image, "height": 150, "width": 202}])
    assert output["instances"].image_size == (150, 202)
    assert output["instances"].pred_masks.shape[1:] == (150, 202)
