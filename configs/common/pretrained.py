"""Where the pre-trained ViTs are from which several published models start."""

AUGREG_BASE = (
    "https://github.com/czczup/ViT-Adapter/releases/download/v0.3.1/"
    "B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0--imagenet2012-steps_20k-lr_0.01-res_384.pth"
)
AUGREG_LARGE = (
    "https://github.com/czczup/ViT-Adapter/releases/download/v0.1.6/"
    "L_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.1-sd_0.1--imagenet2012-steps_20k-lr_0.01-res_384.pth"
)
BEITV2_LARGE = (
    "https://conversationhub.blob.core.windows.net/beit-share-public/beitv2/"
    "beitv2_large_patch16_224_pt1k_ft21k.pth"
)
BEIT_BASE = (
    "https://conversationhub.blob.core.windows.net/beit-share-public/beit/"
    "beit_base_patch16_224_pt22k_ft22k.pth"
)
BEIT_LARGE = (
    "https://conversationhub.blob.core.windows.net/beit-share-public/beit/"
    "beit_large_patch16_224_pt22k_ft22k.pth"
)
DEIT_BASE = "https://dl.fbaipublicfiles.com/deit/deit_base_patch16_224-b5f2ef4d.pth"
DEIT_SMALL = "https://dl.fbaipublicfiles.com/deit/deit_small_patch16_224-cd65a155.pth"
DEIT_TINY = "https://dl.fbaipublicfiles.com/deit/deit_tiny_patch16_224-a1311bcf.pth"
DINOV2_BASE = "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitb14/dinov2_vitb14_pretrain.pth"
MAE_BASE = "https://dl.fbaipublicfiles.com/mae/pretrain/mae_pretrain_vit_base.pth"
UNIPERCEIVER_LARGE = (
    "https://github.com/czczup/ViT-Adapter/releases/download/v0.3.1/"
    "uni-perceiver-large-L24-H1024-224size-pretrained_converted.pth"
)
