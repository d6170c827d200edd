"""Write docs/trunks.md: which timm models can be the trunk of a ViT-Adapter, and why others cannot.

    python tools/list_trunks.py            # a minute on one core
    python tools/list_trunks.py --check    # exit status 1 when the page is stale

Every model whose class has a trunk is built on the meta device (no memory, no weights) and given
to `plain_vit`; the reason of a refusal is the text of the error.
"""

import argparse
import inspect
import re
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import list_models, model_entrypoint
from torch import nn

from vitadapter_d2.files import replacing
from vitadapter_d2.modeling.backbone import plain_vit
from vitadapter_d2.modeling.backbone.attention import (
    DecomposedBiasAttention,
    LearnedBiasAttention,
)
from vitadapter_d2.modeling.backbone.plain_vit import PlainViT, build_trunk

PAGE = Path(__file__).resolve().parents[1] / "docs" / "trunks.md"
SIZES = (
    "tiny xsmall small medium mediumd base betwixt little dlittle wee dwee pwee dpwee large huge "
    "giant giantopt gigantic enormous so150m so150m2 so400m 1b 3b 5b 7b plus"
).split()
OTHERS = "gap map miil cls clsgap enc".split()
TEMPLATE = """# Trunks

Written by `python tools/list_trunks.py`; do not edit.

Of the {total} models of timm {timm}, {supported} can be the trunk of a ViT-Adapter or of the
baselines without one. In Python `plain_vit(timm.create_model(name))`, in a config
`L(plain_vit)(model=L(timm.create_model)(model_name=name))`. The stride becomes 16 whatever the
patch size of the model.

*Prefix tokens* are class, distillation and register tokens: `keep_prefix_tokens` runs the blocks
with or without them, and *(kept)* says that it is on by default.

| family | timm class | models | patch | prefix tokens | positions |
|---|---|---|---|---|---|
{rows}

## Their names

{names}

## Refused, by the error that says why

{reasons}

## No plain ViT

{others} models of these timm classes, which are hierarchical, have several branches, are
convolutional or no Transformers: {classes}.
"""


@dataclass(frozen=True)
class Supported:
    """What the page says about a model that has a trunk."""

    name: str
    kind: str
    patch_size: int
    prefix_tokens: int
    keeps_prefix: bool
    positions: str


@dataclass(frozen=True)
class Refused:
    """A model without a trunk."""

    name: str
    reason: str


def family(name: str) -> str:
    """A timm model name without sizes, patch, resolution, pooling and counts."""
    words = [
        re.sub(r"^reg\d$", "reg", word)
        for word in name.split("_")
        if word not in (*SIZES, *OTHERS)
        and not re.fullmatch(r"patch\d+|\d{3}|\d+m|s\d\d|p\d|\d+x\d", word)
    ]
    return "_".join(words)


def examine(name: str) -> Supported | Refused:
    """Tries to make a trunk of a timm model, on the meta device."""
    kind = model_entrypoint(name).__annotations__.get("return")
    try:
        if isinstance(kind, type) and build_trunk.dispatch(kind) is build_trunk.dispatch(object):
            plain_vit(object.__new__(kind))  # the type alone decides: no need to build it
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of torch.jit.script
            return describe(name, timm.create_model(name))
    except (TypeError, ValueError) as error:
        return Refused(name, str(error))


def describe(name: str, model: nn.Module) -> Supported:
    """The facts of a supported model.

    Raises:
        TypeError: as ``plain_vit``.
        ValueError: as ``plain_vit``.
    """
    option = inspect.signature(build_trunk.dispatch(type(model))).parameters.get(
        "keep_prefix_tokens"
    )
    trunk = plain_vit(model, **({"keep_prefix_tokens": True} if option else {}))
    embedding: Any = getattr(model, "patch_embed", None) or model.embeds
    return Supported(
        name,
        type(model).__name__,
        embedding.patch_size[0],
        trunk.num_prefix_tokens,
        bool(option and option.default),
        positions(trunk),
    )


def positions(trunk: PlainViT) -> str:
    """How the trunk's tokens know where they are."""
    kinds = {type(module) for module in trunk.modules()}
    found = {
        "absolute": getattr(trunk, "pos_embed", None) is not None,
        "rotary, learned per block": getattr(trunk, "rope_is_mixed", False),
        "rotary": getattr(trunk, "rope", None) is not None
        and not getattr(trunk, "rope_is_mixed", False),
        "relative": any(issubclass(kind, LearnedBiasAttention) for kind in kinds),
        "relative by row and column": DecomposedBiasAttention in kinds,
        "absolute, the model's own resizing": hasattr(trunk, "embeds"),
    }
    return " + ".join(name for name, present in found.items() if present)


def page(results: Iterable[Supported | Refused]) -> str:
    """The whole page, in Markdown."""
    families: dict[tuple[str, str], list[Supported]] = defaultdict(list)
    refused: dict[str, list[str]] = defaultdict(list)
    others: dict[str, int] = defaultdict(int)
    for result in results:
        if isinstance(result, Supported):
            families[family(result.name), result.kind].append(result)
        elif unknown := re.match(r"no trunk for a (\w+);", result.reason):
            others[unknown[1]] += 1
        else:
            refused[result.reason].append(result.name)
    supported = sum(map(len, families.values()))
    total = supported + sum(map(len, refused.values())) + sum(others.values())
    rows = [_row(*key, models) for key, models in sorted(families.items())]
    names = [
        f"- **{title}** ({kind}): {', '.join(model.name for model in models)}"
        for (title, kind), models in sorted(families.items())
    ]
    reasons = [f"- *{reason}*: {', '.join(models)}" for reason, models in sorted(refused.items())]
    classes = ", ".join(f"{name} {count}" for name, count in sorted(others.items()))
    return TEMPLATE.format(
        timm=timm.__version__,
        supported=supported,
        total=total,
        rows="\n".join(rows),
        names="\n".join(names),
        reasons="\n".join(reasons),
        others=sum(others.values()),
        classes=classes,
    )


def _row(title: str, kind: str, models: list[Supported]) -> str:
    def union(values: Iterable[int | str]) -> str:
        return " / ".join(str(value) for value in sorted(set(values)))

    kept = any(model.keeps_prefix and model.prefix_tokens for model in models)
    cells = (
        title,
        kind,
        len(models),
        union(model.patch_size for model in models),
        union(model.prefix_tokens for model in models) + " (kept)" * kept,
        union(model.positions for model in models),
    )
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="compare with the page, write nothing")
    parser.add_argument("--output", type=Path, default=PAGE, help=f"default: {PAGE.name} in docs/")
    options = parser.parse_args()
    text = page(map(examine, list_models()))
    if options.check:
        stale = not options.output.exists() or options.output.read_text("utf-8") != text
        print(f"{options.output} is {'stale' if stale else 'up to date'}")
        return int(stale)
    with replacing(options.output, "w") as file:
        file.write(text)
    print(f"wrote {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
