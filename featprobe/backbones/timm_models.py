"""Every architecture of timm under its own name, `NAME` or `NAME.TAG`, or `timm:NAME` where a registered name hides it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from featprobe.backbones.core.info import BackboneInfo, LoadRequest, Place, WeightsFile
from featprobe.backbones.core.rules import with_common
from featprobe.records import Preprocessing
from featprobe.registry import BACKBONES

if TYPE_CHECKING:
    from featprobe.backbones.core.model import Backbone

_READABLE: Final = (".pth", ".pt", ".bin", ".safetensors")


class Timm:
    """timm's models, with the preprocessing that their weights' configuration names."""

    numerics = 1
    prefix = "timm"

    def names(self) -> tuple[str, ...]:
        """None is registered by name: all of timm is there without being listed."""
        return ()

    def accepts(self, name: str) -> bool:
        """Whether timm has the architecture, and the tag where one is given."""
        import timm

        architecture, _, tag = name.partition(".")
        return bool(timm.is_model(architecture)) and (not tag or name in self._tagged(architecture))

    def candidates(self) -> Iterable[str]:
        """Every architecture, and every tag of pretrained weights."""
        import timm

        return [*timm.list_models(), *timm.list_pretrained()]

    def describe(self, name: str, *, deep: bool = False) -> BackboneInfo:
        """What is known about `name`, from timm's configuration and a dry run; `deep` adds parameters and dims."""
        import timm

        from featprobe.backbones.core.assemble import deepened
        from featprobe.backbones.core.survey import survey

        config = timm.models.get_pretrained_cfg(name)
        native, notes = _native(config)
        facts = survey(name)
        paper = getattr(config, "paper_ids", None) or getattr(config, "origin_url", None)
        info = BackboneInfo(
            name=self._shown(name),
            family="timm",
            architecture=name,
            licence=getattr(config, "license", None) or "see its source",
            citation=str(paper) if paper else "see its page on timm's hub",
            weights_source=_source(config),
            poolings=facts.poolings,
            default_pooling=facts.default_pooling,
            rules=with_common({"native": native}),
            notes=notes,
            files=_files(config),
        )
        return dataclasses.replace(info, **deepened(info)) if deep else info

    def build(self, name: str, request: LoadRequest) -> Backbone:
        """The backbone with its weights."""
        from featprobe.backbones.core.assemble import Blueprint, assemble

        return assemble(Blueprint(info=self.describe(name), numerics=self.numerics), request)

    @staticmethod
    def _tagged(architecture: str) -> list[str]:
        import timm

        return [str(name) for name in timm.list_pretrained(f"{architecture}.*")]

    @staticmethod
    def _shown(name: str) -> str:
        hidden = any(name in family.names() for _, family in BACKBONES.items())
        return f"timm:{name}" if hidden else name


def _files(config: Any) -> tuple[WeightsFile, ...]:
    """One file: timm's repository on the hub, then the address that its configuration names; () where neither is."""
    repository, address = getattr(config, "hf_hub_id", None), getattr(config, "url", None)
    named = getattr(config, "hf_hub_filename", None)
    places: list[Place] = []
    if repository:
        files = (str(named),) if named else ("model.safetensors", "pytorch_model.bin")
        places.append(Place(kind="hub", where=str(repository), files=files))
    # Some addresses lead to arrays of other libraries, which timm converts with code of its own.
    if address and str(address).startswith("https://") and str(address).endswith(_READABLE):
        places.append(Place(kind="url", where=str(address)))
    return (WeightsFile(places=tuple(places)),) if places else ()


def _source(config: Any) -> str:
    places = [place for file in _files(config) for place in file.places]
    return " or ".join(f"{place.kind}: {place.where}" for place in places) or "none that featprobe can fetch"


def _native(config: Any) -> tuple[Preprocessing, tuple[str, ...]]:
    """The evaluation preprocessing of timm, at the test size of the weights, as resolved numbers."""
    import timm

    data: Any = timm.data
    values = data.resolve_data_config(pretrained_cfg=config.to_dict() if config else {}, use_test_size=True)
    height, width = (int(side) for side in values["input_size"][1:])
    percent, mode = values["crop_pct"], values["crop_mode"]
    notes: tuple[str, ...] = ()
    if mode != "center" and not (mode == "squash" and percent == 1.0):
        notes = (f"timm's crop mode {mode!r} at {percent:g} is approximated without its margin",)
    cropped = mode == "center" and height == width
    rule = Preprocessing(
        image_size=(height, width),
        fit="crop" if cropped else {"border": "pad"}.get(mode, "squash"),
        resize=math.floor(height / percent) if cropped else None,
        interpolation=values["interpolation"],
        mean=tuple(float(value) for value in values["mean"]),
        std=tuple(float(value) for value in values["std"]),
        pad_value=round(255 * sum(values["mean"]) / len(values["mean"])) if mode == "border" else 0,
    )
    return rule, notes


BACKBONES.register("timm")(Timm())
