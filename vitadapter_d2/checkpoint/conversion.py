"""Any checkpoint to the weights of one model, with an account of every tensor."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from vitadapter_d2.checkpoint.draft import Draft
from vitadapter_d2.checkpoint.kinds import KINDS, OWN, Kind, detect_kind
from vitadapter_d2.checkpoint.pretrained import fit_trunk
from vitadapter_d2.checkpoint.report import Report, some
from vitadapter_d2.modeling.backbone.plain_vit import PlainViT

# Of with_lora and the like: no file of another project has them.
_UPDATES = {r"\.lora_[ab]$": "a low-rank update, which starts at zero"}

__all__ = ["KINDS", "OWN", "Conversion", "convert_checkpoint", "detect_kind", "kind_for"]


@dataclass(frozen=True)
class Conversion:
    """What :func:`convert_checkpoint` gives.

    Attributes:
        state_dict: names and shapes of the model's own ``state_dict``, or a part of them.
        report: where every tensor came from, and what has no place.
    """

    state_dict: dict[str, Tensor]
    report: Report


def kind_for(state_dict: Mapping[str, Tensor], model: nn.Module) -> str:
    """The kind of a checkpoint that is to go into ``model``; see :func:`detect_kind`."""
    # A trunk alone has timm's names: then having them all says nothing.
    has_all_names = state_dict.keys() >= model.state_dict().keys()
    return OWN if has_all_names and not isinstance(model, PlainViT) else detect_kind(state_dict)


def convert_checkpoint(
    state_dict: Mapping[str, Tensor],
    model: nn.Module,
    kind: str | None = None,
    allow_partial: bool = False,
) -> Conversion:
    """Gives a checkpoint the names and sizes of a model.

    Args:
        state_dict: as ``read_checkpoint`` returns it.
        model: nothing is loaded into it; it may be on the meta device.
        kind: a key of :data:`KINDS`; None finds it out.
        allow_partial: leave out what does not fit, instead of refusing the whole.

    Returns:
        The weights, and the report.

    Raises:
        ValueError: no such kind; nothing in the file is of this model, or its size is another; or
            something is missing or left over, beyond what is known to be of no use.
    """
    kind = kind or kind_for(state_dict, model)
    if kind not in KINDS:
        raise ValueError(f"no kind of checkpoint is called {kind!r}; there are: {[*KINDS]}")
    draft = Draft(state_dict)
    trunk_prefix = None
    if KINDS[kind].is_trunk:
        trunk_prefix, trunk = _trunk_of(model, kind)
        KINDS[kind].convert(draft, trunk)
        fit_trunk(draft, trunk)
        draft.rename([(r"^", trunk_prefix)])
    else:
        KINDS[kind].convert(draft, model)
    conversion = _match(draft, model.state_dict(), KINDS[kind], trunk_prefix or "")
    _refuse(conversion.report, state_dict, model, allow_partial)
    return conversion


def _trunk_of(model: nn.Module, kind: str) -> tuple[str, PlainViT]:
    trunks = [(name, part) for name, part in model.named_modules() if isinstance(part, PlainViT)]
    if len(trunks) != 1:
        raise ValueError(
            f"a pre-trained file of kind {kind} goes into a model's one PlainViT trunk, "
            f"this model has {len(trunks)}"
        )
    ((name, trunk),) = trunks
    return f"{name}." if name else "", trunk


def _match(draft: Draft, wanted: Mapping[str, Tensor], kind: Kind, trunk_prefix: str) -> Conversion:
    report = Report(kind.name, unused=dict(draft.unused))
    taken: dict[str, Tensor] = {}
    for name, tensor in draft.tensors.items():
        sources = draft.sources[name]
        if name not in wanted:
            _leave_out(report, sources or (name,), _reason(kind.optional, name))
        elif tensor.shape != wanted[name].shape:
            shapes = tuple(tensor.shape), tuple(wanted[name].shape)
            report.misfits[name] = "{} in the file, {} in the model".format(*shapes)
        else:
            taken[name] = tensor
            _record(report, draft, name)
    for name in wanted:
        if name in draft.tensors:
            continue
        if kind.is_trunk and not name.startswith(trunk_prefix):
            report.fresh[name] = "no part of a pre-trained ViT"
        elif why := _reason({**kind.fresh, **_UPDATES}, name):
            report.fresh[name] = why
        elif why := _reason(kind.given, name):
            report.given[name] = why
        else:
            report.missing.append(name)
    return Conversion(taken, report)


def _leave_out(report: Report, names: tuple[str, ...], reason: str | None) -> None:
    if reason is None:
        report.unexpected += [name for name in names if name not in report.unexpected]
    else:
        report.unused |= dict.fromkeys(names, reason)


def _record(report: Report, draft: Draft, name: str) -> None:
    sources = draft.sources[name]
    if name in draft.resized:
        report.resized[name] = draft.resized[name]
    if name in draft.given:
        report.given[name] = draft.given[name]
    elif sources == (name,):
        report.matched.append(name)
    else:
        source = " + ".join(sources)
        others = report.renamed.get(source)
        report.renamed[source] = f"{others}, {name}" if others else name


def _reason(reasons: Mapping[str, str], name: str) -> str | None:
    return next((why for pattern, why in reasons.items() if re.search(pattern, name)), None)


def _refuse(
    report: Report, state_dict: Mapping[str, Tensor], model: nn.Module, allow_partial: bool
) -> None:
    if not (report.matched or report.renamed or report.misfits):
        raise ValueError(
            f"nothing in the file belongs to this model: taken for kind {report.kind}, it has "
            f"names such as {some(state_dict)}, the model {some(model.state_dict())}"
        )
    fits = bool(report.matched or report.renamed)
    if not fits or (report.misfits and not allow_partial):
        name, shapes = next(iter(report.misfits.items()))
        way_out = ", or tools/convert_checkpoint.py --allow-partial for what fits" if fits else ""
        raise ValueError(
            f"the file is of another size than the model (kind {report.kind}): "
            f"{len(report.misfits)} tensors differ in shape, the first is {name}, {shapes}; take "
            f"the file's own config{way_out}"
        )
    if not (report.is_complete or allow_partial):
        raise ValueError(
            f"file and model do not agree (kind {report.kind}): {report.problems()}; if that is "
            "meant, convert the file with tools/convert_checkpoint.py --allow-partial"
        )
