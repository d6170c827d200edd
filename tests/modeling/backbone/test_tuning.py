import copy

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from vitadapter_d2 import model_zoo
from vitadapter_d2.layers.lora import LoRALinear, merge_lora
from vitadapter_d2.modeling.backbone import (
    SpatialPriorModule,
    ViTAdapter,
    frozen,
    interaction_blocks,
    plain_vit,
    with_lora,
)
from vitadapter_d2.solver import LayerDecay, param_groups

SIZES = dict(embed_dim=32, depth=4, num_heads=4, num_classes=0)
# BEiT and EVA with separate biases read qkv.weight instead of calling qkv.
FAMILIES = {
    "vit": lambda: VisionTransformer(**SIZES, drop_path_rate=0.5),
    "beit": lambda: Beit(**SIZES, use_abs_pos_emb=False, use_rel_pos_bias=True, img_size=32),
    "eva": lambda: Eva(**SIZES, img_size=32, use_rot_pos_emb=True),
}


def trunk(family="vit"):
    return plain_vit(FAMILIES[family]())


def adapter(vit):
    blocks = interaction_blocks(32, [(0, 1), (2, 3)], num_heads=4, injector_init=0.5)
    return ViTAdapter(vit, SpatialPriorModule(32, 4), blocks)


def step(model):
    """One step of training on noise; returns the parameters from before it."""
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    groups = param_groups(model, base_lr=0.1, weight_decay=0.1)
    loss = sum(out.square().mean() for out in model(torch.randn(2, 3, 32, 32)).values())
    loss.backward()
    torch.optim.AdamW(groups).step()
    return before


def changed(model, before):
    return {name for name, value in model.state_dict().items() if not value.equal(before[name])}


@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_trunk_never_changes(family):
    names = set(trunk(family).state_dict())
    model = adapter(frozen(trunk(family)))
    assert set(model.vit.state_dict()) == names
    changes = changed(model, step(model))
    assert changes and not any(name.startswith("vit.") for name in changes)


def test_first_blocks_are_frozen_with_the_embeddings():
    model = adapter(frozen(trunk(), first_blocks=2))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {
        name
        for name, _ in model.named_parameters()
        if name.startswith(("vit.blocks.2.", "vit.blocks.3.")) or not name.startswith("vit.")
    }
    changes = changed(model, step(model))
    assert {name[:13] for name in changes if name.startswith("vit.")} <= {
        "vit.blocks.2.",
        "vit.blocks.3.",
    }


def test_no_frozen_block_is_the_embeddings_alone():
    vit = frozen(trunk(), first_blocks=0)
    trained = {name for name, parameter in vit.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in vit.named_parameters() if name.startswith("blocks.")}


@pytest.mark.parametrize("copied", [False, True])
def test_frozen_parts_stay_in_eval_mode(copied):
    model = adapter(frozen(trunk(), first_blocks=2))
    model = copy.deepcopy(model) if copied else model
    for mode in (True, False, True):
        model.train(mode)
        for part in (model.vit.patch_embed, model.vit.blocks[0], model.vit.blocks[1]):
            assert not any(module.training for module in part.modules())
        assert all(module.training == mode for module in model.vit.blocks[2].modules())
        assert model.spatial_prior.training == mode


def test_frozen_blocks_draw_no_drop_path():
    vit = frozen(trunk()).train()
    tokens, grid = vit.embed(torch.randn(4, 3, 32, 32))
    torch.testing.assert_close(vit.run(tokens, grid, 0, 3), vit.run(tokens, grid, 0, 3))
    trained = trunk().train()
    assert not trained.run(tokens, grid, 0, 3).equal(trained.run(tokens, grid, 0, 3))


def saved_bytes(function):
    saved = []

    def pack(tensor):
        saved.append(tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = function()
    return sum(saved), result


@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_blocks_keep_no_activations(family):
    vit = frozen(trunk(family), first_blocks=3).train()
    kept, (tokens, grid) = saved_bytes(lambda: vit.embed(torch.randn(1, 3, 32, 32)))
    assert kept == 0
    kept, tokens = saved_bytes(lambda: vit.run(tokens, grid, 0, 2))
    assert kept == 0 and not tokens.requires_grad
    kept, tokens = saved_bytes(lambda: vit.run(tokens, grid, 3, 3))
    assert kept > 0 and tokens.requires_grad


@pytest.mark.parametrize("first_blocks", [-1, 5])
def test_there_must_be_so_many_blocks(first_blocks):
    with pytest.raises(ValueError, match=rf"first_blocks must be in \[0, 4\], got {first_blocks}"):
        frozen(trunk(), first_blocks)


@pytest.mark.parametrize("family", FAMILIES)
def test_lora_trains_its_updates_alone_and_merges_to_the_original_names(family):
    vit = trunk(family)
    names = set(vit.state_dict())
    model = adapter(with_lora(vit, rank=2, targets=("qkv", "proj", "fc1", "fc2")))
    lora_names = {name for name in model.vit.state_dict() if ".lora_" in name}
    assert len(lora_names) == 4 * 4 * 2
    assert set(model.vit.state_dict()) == names | lora_names
    for module in model.modules():
        if isinstance(module, LoRALinear):
            nn.init.normal_(module.lora_b, std=0.1)
    before = step(model)
    trunk_changes = {name for name in changed(model, before) if name.startswith("vit.")}
    assert trunk_changes == {f"vit.{name}" for name in lora_names}

    model.eval()
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = model(image)
        merge_lora(model)
        assert set(model.vit.state_dict()) == names
        torch.testing.assert_close(model(image), expected)


def test_lora_starts_as_the_trunk_and_loads_its_weights():
    plain = adapter(trunk()).eval()
    tuned = adapter(with_lora(trunk())).eval()
    missing, unexpected = tuned.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert all(".lora_" in name for name in missing)
    image = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(tuned(image), plain(image))


def test_lora_targets_must_exist():
    with pytest.raises(ValueError, match=r"among \['fc1', 'fc2', 'proj', 'qkv'\], got \['w12'\]"):
        with_lora(trunk(), targets=("qkv", "w12"))


def test_updates_can_be_left_to_the_last_blocks():
    vit = frozen(with_lora(trunk()), first_blocks=3)
    trained = {name for name, parameter in vit.named_parameters() if parameter.requires_grad}
    assert trained and all(name.startswith("blocks.3.") and ".lora_" in name for name in trained)


def test_optimizer_groups_follow_the_depth_of_updates():
    holder = nn.Module()
    holder.backbone = adapter(with_lora(trunk(), targets=("qkv",)))
    groups = param_groups(holder, 1.0, 0.1, lr_factor=LayerDecay(rate=0.5, depth=4))
    lr = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert len(lr) == sum(parameter.requires_grad for parameter in holder.parameters())
    for index, block in enumerate(holder.backbone.vit.blocks):
        assert lr[id(block.attn.qkv.lora_a)] == lr[id(block.attn.qkv.lora_b)] == 0.5 ** (4 - index)
        assert id(block.attn.qkv.base_weight) not in lr


def test_tuned_trunk_from_a_config():
    cfg = model_zoo.get_config("coco/mask_rcnn_deit_adapter_small_fpn_1x_coco")
    backbone = cfg.model.backbone.bottom_up
    backbone.vit = L(with_lora)(vit=backbone.vit, rank=8, targets=("qkv", "proj"))
    # The adapter's drop path reads its number from the timm model, now one level deeper.
    backbone.interactions.drop_path_rate = "${..vit.vit.model.drop_path_rate}"
    with torch.device("meta"):
        model = instantiate(cfg.model)
    vit = model.backbone.bottom_up.vit
    trained = sum(parameter.numel() for parameter in vit.parameters() if parameter.requires_grad)
    assert trained == 12 * 8 * ((384 + 3 * 384) + (384 + 384))
