"""Which protocols are asked for, what each fits, and which tables of the cache it takes; contradictions end here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from featprobe import probes, protocols
from featprobe.config import ProbeConfig
from featprobe.errors import CacheError, ConfigError, listed
from featprobe.heads.cached import find_recipe
from featprobe.protocols import ProbeProtocol
from featprobe.records import sha256_json
from featprobe.registry import PROBES, PROTOCOLS
from featprobe.stages.tables import Material, Table, is_dense
from featprobe.stages.variants import need_fitting

SEARCHED: Final = "searched"
"""The pooling of a result whose protocol searches several."""


@dataclass(frozen=True, slots=True, eq=False)
class Ask:
    """One protocol on one data set.

    `fits`: what is fitted, as the column `probe` names it. `inputs`: tables that are taken together, one by one
    unless the protocol searches them. `rule`: hash of all that the protocol decides. `notes`: what every report
    must say of it on these data; `brief`: what is printed at once.
    """

    protocol: ProbeProtocol
    fits: tuple[str, ...]
    inputs: tuple[tuple[Table, ...], ...]
    rule: str
    notes: tuple[str, ...]
    brief: tuple[str, ...]


def protocols_of(config: ProbeConfig) -> list[ProbeProtocol]:
    """Those named, each once; ConfigError for an unknown name, or for a probe that one of them does not fit."""
    found: list[ProbeProtocol] = [PROTOCOLS.get(name) for name in dict.fromkeys(config.protocol)]
    for name in config.probe:
        _need_probe(name)
    for protocol in found:
        other = [name for name in config.probe if protocol.fits and name != protocol.fits]
        if other:
            kind = "probe" if protocol.probe else "head"
            raise ConfigError(
                f"--probe {other[0]} can't be used with --protocol {protocol.name}",
                f"it fits the {kind} {protocol.fits}",
                "leave --probe out, or type --protocol featprobe",
            )
    return found or [PROTOCOLS.get("featprobe")]


def _need_probe(name: str) -> None:
    """ConfigError where no probe has this name; heads that torch trains are reached by their protocols."""
    if name not in PROBES.names():
        trained = [
            protocol.name for _, protocol in PROTOCOLS.items() if name in {protocol.head, protocol.trained}
        ]
        if trained:
            raise ConfigError(
                f"{name} is no probe but a head that is trained step by step",
                "it comes with a protocol of its own",
                f"type --protocol {' or '.join(trained)}, and leave --probe out",
            )
    PROBES.get(name)


def asks(config: ProbeConfig, material: Material) -> list[Ask]:
    """Every protocol on one data set; ProbeError where one does not fit its target, CacheError for a missing key.

    ConfigError where it can't be fitted with the class weights, thresholds or shots that are asked for.
    """
    task = material.samples.task
    found = []
    for protocol in protocols_of(config):
        protocols.need_suitable(protocol.name, task, material.name)
        inputs = tuple(_inputs(config, protocol, material))
        head = find_recipe(protocol.head) if protocol.head else None
        fits = _fits(config, protocol, task)
        need_fitting(config, protocol, fits, task)
        own = tuple(_of_data(protocol, material, inputs))
        words = protocol.sentences() if protocol.name != "featprobe" else ()
        found.append(
            Ask(
                protocol,
                fits,
                inputs,
                sha256_json([protocol.sha256, head.sha256 if head else ""]),
                (*words, *own),
                (*words[:1], *own, *_left_out(config, fits, task)),
            )
        )
    return found


def _left_out(config: ProbeConfig, fits: Sequence[str], task: str) -> Iterator[str]:
    """What is said of probes that were named and don't fit this target: other data sets may have what they fit."""
    for name in dict.fromkeys(config.probe):
        if name not in fits:
            yield f"--probe {name} is left out here: it can't be fitted to a target of kind {task!r}"


def _fits(config: ProbeConfig, protocol: ProbeProtocol, task: str) -> tuple[str, ...]:
    """What is fitted; ProbeError where no probe that was named fits the target."""
    if protocol.fits:
        return (protocol.fits,)
    if not config.probe:
        return probes.probes_for(task)
    fitting = tuple(name for name in config.probe if task in PROBES.get(name).tasks)
    if not fitting:
        probes.need_suitable(config.probe[0], task)
    return fitting


def _inputs(config: ProbeConfig, protocol: ProbeProtocol, material: Material) -> Iterator[tuple[Table, ...]]:
    """What it takes of each file: every table, the first key of its own that is there, or all of its keys together.

    Tables that were named by --pooling or --layer are taken as they are, unless keys are searched. Image
    statistics have no layers: their one table stands for any key. Patch tokens are for those that attend to them.
    """
    named = bool(config.pooling or config.layer)
    dense = any(is_dense(key) for key in protocol.inputs)
    files: dict[int, list[Table]] = {}
    for table in material.tables:
        files.setdefault(id(table.entries[0]), []).append(table)
    for every in files.values():
        if dense and every[0].weights_label == "none":
            continue
        tables = [table for table in every if table.dense == dense]
        if not tables:
            raise _missing(config, protocol, material, every)
        if not protocol.inputs or (named and not protocol.searched) or tables[0].weights_label == "none":
            yield from ((table,) for table in tables)
            continue
        by_key = {table.pooling: table for table in tables}
        there = [key for key in protocol.inputs if key in by_key]
        if protocol.searched and len(there) < len(protocol.inputs):
            there = [] if there else [key for key in protocol.instead if key in by_key]
        if not there:
            raise _missing(config, protocol, material, tables)
        yield tuple(by_key[key] for key in (there if protocol.searched else there[:1]))


def _missing(
    config: ProbeConfig, protocol: ProbeProtocol, material: Material, tables: Sequence[Table]
) -> CacheError:
    wanted = (protocol.inputs if protocol.searched else protocol.inputs[:1]) or ("cls or gap",)
    layers = dict.fromkeys(key.rpartition("/")[0] or "last" for key in wanted)
    poolings = dict.fromkeys(key.rpartition("/")[2] for key in wanted)
    backbone = tables[0].recipe.backbone
    flags = f"--pooling {' '.join(poolings)}"
    flags += f" --layer {' '.join(layers)}" if set(layers) != {"last"} else ""
    keys = sorted({table.pooling for table in tables})
    either = " or " if not protocol.searched else ", "
    # Where several tables are taken together, or patches, another pooling does not do instead.
    whole = protocol.searched or any(is_dense(key) for key in protocol.inputs)
    others = "or --backbone with others" if whole else f"or add --pooling {keys[0]}"
    hidden = " of those that --pooling and --layer leave" if config.pooling or config.layer else ""
    return CacheError(
        f"--protocol {protocol.name} takes {either.join(protocol.inputs or wanted)} of {backbone}",
        f"the cache holds {listed(keys)} of {material.name!r}{hidden}",
        f"type featprobe extract --data SPEC --backbone {backbone} {flags}, {others}",
    )


def _of_data(
    protocol: ProbeProtocol, material: Material, inputs: Sequence[tuple[Table, ...]]
) -> Iterator[str]:
    """What is said of the protocol on these data."""
    samples = material.samples
    blind = protocol.draw.kind in {"random", "per class"}
    if blind and len(set(samples.group.tolist())) < len(samples):
        yield (
            f"protocol {protocol.name}: where rows to choose on are drawn, it is without regard to groups, as "
            "published; the test rows share no group with them"
        )
    if protocol.searched:
        sizes = sorted({len(tables) for tables in inputs})
        if len(sizes) > 1:
            yield (
                f"protocol {protocol.name}: searched over {' or '.join(map(str, sizes))} inputs, by what the "
                "backbones have: the search is not the same for all"
            )
        return
    strange = {
        tables[0].pooling
        for tables in inputs
        if protocol.inputs and tables[0].pooling not in protocol.inputs and tables[0].weights_label != "none"
    }
    if strange:
        yield (
            f"protocol {protocol.name}: judged on {', '.join(sorted(strange))}, where the publication takes "
            f"{' or '.join(protocol.inputs)}"
        )
