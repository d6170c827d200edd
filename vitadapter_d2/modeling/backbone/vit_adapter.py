"""ViT-Adapter as a Detectron2 backbone."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling import Backbone
from torch import Tensor, nn

from vitadapter_d2.layers.levels import flatten_levels, split_levels
from vitadapter_d2.layers.ms_deform_attn import MSDeformAttn
from vitadapter_d2.modeling.backbone.interaction import Geometry, InteractionBlock
from vitadapter_d2.modeling.backbone.plain_vit import PlainViT
from vitadapter_d2.modeling.backbone.spatial_prior import Norm, SpatialPriorModule

STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


class ViTAdapter(Backbone):
    """Turns a plain ViT into a backbone with strides 4, 8, 16 and 32.

    Reference: ViT-Adapter, Sec. 3, arXiv 2205.08534. Departure: images of any size are accepted
    (the official code asserts multiples of 32); at multiples of 32 the numbers are the official.

    Args:
        vit: the trunk, with patches of 16 pixels.
        spatial_prior: the convolutional branch.
        interactions: their spans cover the trunk from the first block to the last one. A single
            ``InteractionBlock`` without injector and extractors leaves trunk and prior alone.
        added_stages: for each output the interaction whose ViT tokens are added to it: the
            official detection models add the last to all, ``(-1, -1, -1, -1)``, the segmentation
            models one each, ``(0, 1, 2, 3)``. None adds nothing.
        norm: normalisation of the outputs, by Detectron2's ``get_norm``.
        out_features: the outputs that are used. Of the others nothing is computed; what they alone
            need is frozen, see :func:`select_outputs`.
    """

    def __init__(
        self,
        vit: PlainViT,
        spatial_prior: SpatialPriorModule,
        interactions: Sequence[InteractionBlock],
        added_stages: Sequence[int] | None = (-1, -1, -1, -1),
        norm: Norm = "BN",
        out_features: Sequence[str] = tuple(STRIDES),
    ) -> None:
        super().__init__()
        if vit.patch_size != STRIDES["res4"]:
            raise ValueError(f"the trunk's patch_size must be 16, got {vit.patch_size}")
        if spatial_prior.embed_dim != vit.embed_dim:
            raise ValueError(
                f"spatial_prior has width {spatial_prior.embed_dim}, the trunk {vit.embed_dim}"
            )
        _check_stages(added_stages, len(interactions))
        check_spans([interaction.span for interaction in interactions], vit.depth)
        self.vit = vit
        self.spatial_prior = spatial_prior
        self.interactions = nn.ModuleList(interactions)
        self.level_embed = nn.Parameter(torch.empty(3, vit.embed_dim))
        self.up = nn.ConvTranspose2d(vit.embed_dim, vit.embed_dim, kernel_size=2, stride=2)
        self.norms = nn.ModuleDict({name: get_norm(norm, vit.embed_dim) for name in STRIDES})
        self.added_stages = None if added_stages is None else tuple(added_stages)
        self._out_feature_strides = dict(STRIDES)
        self._out_feature_channels = dict.fromkeys(STRIDES, vit.embed_dim)

        for part in (self.spatial_prior, self.interactions, self.up):
            part.apply(init_weights)
        nn.init.normal_(self.level_embed)
        parts: dict[str, list[nn.Module]] = {name: [norm] for name, norm in self.norms.items()}
        parts["res2"] += [self.spatial_prior.proj_res2, self.up]
        self._out_features = select_outputs(out_features, parts)

    @property
    def size_divisibility(self) -> int:
        """Detectron2 pads batches to it, which makes the padding in here a no-op."""
        return 32

    @property
    def padding_constraints(self) -> dict[str, int]:
        """The same, as detectron2 main asks for it."""
        return {"size_divisibility": self.size_divisibility}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and strides of the outputs."""
        return {
            name: ShapeSpec(channels=self.vit.embed_dim, stride=STRIDES[name])
            for name in self._out_features
        }

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Features of a batch.

        Args:
            image: ``(B, 3, H, W)`` normalised float, H and W at least 1.

        Returns:
            ``out_features`` by name, finest first, each
            ``(B, embed_dim, ceil(H/stride), ceil(W/stride))``.
        """
        height, width = image.shape[-2:]
        image = F.pad(image, (0, -width % 32, 0, -height % 32))
        *res2, res3, res4, res5 = self.spatial_prior(image, "res2" in self._out_features)
        prior = [res3, res4, res5]
        sizes = [(level.shape[2], level.shape[3]) for level in prior]
        tokens, grid = self.vit.embed(image)
        geometry = Geometry.of(grid, sizes, image.device)

        pyramid = embed_levels(prior, self.level_embed)
        stages = []
        for interaction in self.interactions:
            tokens, pyramid = interaction(tokens, pyramid, self.vit, geometry)
            stages.append(tokens[:, self.vit.num_prefix_tokens :])

        maps = dict(zip(("res3", "res4", "res5"), split_levels(pyramid, sizes), strict=True))
        if res2:
            maps["res2"] = res2[0] + self.up(maps["res3"])
        outputs = {}
        for name in self._out_features:
            output = self._add_stage(name, maps[name], stages, grid)
            # The views of split_levels have a free batch stride at batch 1, for which torch's
            # BatchNorm on CPU gives wrong gradients without a word (seen on 2.15).
            output = self.norms[name](output.contiguous())
            outputs[name] = output[..., : -(-height // STRIDES[name]), : -(-width // STRIDES[name])]
        return outputs

    def _add_stage(
        self, name: str, output: Tensor, stages: list[Tensor], grid: tuple[int, int]
    ) -> Tensor:
        if self.added_stages is None:
            return output
        stage = self.added_stages[list(STRIDES).index(name)]
        (feature,) = split_levels(stages[stage], [grid])
        size = output.shape[-2:]
        if size != feature.shape[-2:]:
            feature = F.interpolate(feature, size=size, mode="bilinear", align_corners=False)
        return output + feature


def select_outputs(
    out_features: Sequence[str], own_parts: Mapping[str, Sequence[nn.Module]]
) -> list[str]:
    """Freezes what only the outputs need that nobody uses.

    The parameters stay, under their names: the original implementation has and counts them too, and
    one checkpoint fits every choice. They wait for no gradient, which DDP would.

    Args:
        out_features: names of the outputs that are used.
        own_parts: the parts of every output that no other one uses, finest first.

    Returns:
        ``out_features`` in the order of ``own_parts``.

    Raises:
        ValueError: a name is unknown, or there is none.
    """
    if not out_features or set(out_features) - own_parts.keys():
        raise ValueError(f"out_features must be some of {[*own_parts]}, got {[*out_features]}")
    for name, parts in own_parts.items():
        if name not in out_features:
            for part in parts:
                part.requires_grad_(False)
    return [name for name in own_parts if name in out_features]


def embed_levels(prior: Sequence[Tensor], level_embed: Tensor) -> Tensor:
    """Three maps ``(B, C, H_l, W_l)`` plus their ``level_embed (3, C)``, as ``(B, S, C)``."""
    return flatten_levels(
        [level + embed[:, None, None] for level, embed in zip(prior, level_embed, strict=True)]
    )


def _check_stages(added_stages: Sequence[int] | None, count: int) -> None:
    if added_stages is None:
        return
    if len(added_stages) != len(STRIDES) or not all(-count <= i < count for i in added_stages):
        raise ValueError(
            f"added_stages needs 4 indices in [{-count}, {count - 1}] of the {count} interactions, "
            f"got {tuple(added_stages)}"
        )


def check_spans(spans: list[tuple[int, int]], depth: int) -> None:
    """Raises ValueError where spans leave out blocks of the trunk, or run them twice."""
    blocks = [block for first, last in spans for block in range(first, last + 1)]
    if blocks != list(range(depth)):
        raise ValueError(
            f"spans {spans} must cover the trunk's {depth} blocks, each once, in order"
        )


def init_weights(module: nn.Module) -> None:
    """The official initialisation; ``apply`` reaches a module after its children."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        # Fan-out of a convolution; a transposed one is counted in the same way.
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
        nn.init.normal_(module.weight, std=(2.0 * module.groups / fan_out) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, MSDeformAttn):
        module.reset_parameters()
