"""A plain ViT with spatial prior and injectors, but without extractors."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vitadapter_d2.layers.resample import Grid
from vitadapter_d2.modeling.backbone.interaction import Geometry, InteractionBlock
from vitadapter_d2.modeling.backbone.plain_vit import PlainViT
from vitadapter_d2.modeling.backbone.simple_fpn import PlainViTPyramid
from vitadapter_d2.modeling.backbone.spatial_prior import Norm, SpatialPriorModule
from vitadapter_d2.modeling.backbone.vit_adapter import check_spans, embed_levels, init_weights


class InjectedViTPyramid(PlainViTPyramid):
    """The plain ViT's pyramid, with the spatial prior brought into the trunk's tokens.

    Reference: ViT-Adapter, Variants 1 (``AddInjector``) and 2 (``Injector``) of the component
    ablation, arXiv 2205.08534. The outputs come from the last tokens alone.

    Args:
        vit: the trunk, with patches of 16 pixels.
        spatial_prior: the convolutional branch; it loses its map of stride 4, which no injector
            sees.
        interactions: blocks without extractors; their spans cover the trunk.
        token_norm: see :class:`PlainViTPyramid`.
        up_norm: see :class:`PlainViTPyramid`.
    """

    def __init__(
        self,
        vit: PlainViT,
        spatial_prior: SpatialPriorModule,
        interactions: Sequence[InteractionBlock],
        *,
        token_norm: bool = True,
        up_norm: Norm = "GN",
    ) -> None:
        super().__init__(vit, [vit.depth - 1] * 4, token_norm=token_norm, up_norm=up_norm)
        self.spans = [interaction.span for interaction in interactions]
        check_spans(self.spans, vit.depth)
        for index, interaction in enumerate(interactions):
            if interaction.injector is None or interaction.extractor is not None:
                raise ValueError(
                    f"interaction {index} must have an injector and no extractors; "
                    "models with extractors are a ViTAdapter"
                )
        self.spatial_prior = spatial_prior
        self.spatial_prior.add_module("proj_res2", nn.Identity())
        self.interactions = nn.ModuleList(interactions)
        self.level_embed = nn.Parameter(torch.empty(3, vit.embed_dim))
        for part in (self.spatial_prior, self.interactions):
            part.apply(init_weights)
        nn.init.normal_(self.level_embed)

    def run_trunk(self, image: Tensor, stops: Sequence[int]) -> tuple[dict[int, Tensor], Grid]:
        """See :meth:`PlainBackbone.run_trunk`; ``stops`` are last blocks of interactions."""
        _, *prior = self.spatial_prior(image)
        sizes = [(level.shape[2], level.shape[3]) for level in prior]
        tokens, grid = self.vit.embed(image)
        geometry = Geometry.of(grid, sizes, image.device)
        pyramid = embed_levels(prior, self.level_embed)
        stages = {}
        for (_, last), interaction in zip(self.spans, self.interactions, strict=True):
            tokens, pyramid = interaction(tokens, pyramid, self.vit, geometry)
            stages[last] = tokens[:, self.vit.num_prefix_tokens :]
        return stages, grid
