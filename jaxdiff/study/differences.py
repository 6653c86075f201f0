"""What differs between two cells of a study, in the words that its tables use."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from jaxdiff.denoiser import config_from_json
from jaxdiff.results import CellResult
from jaxdiff.unet_config import UNetConfig

# The fields that change the same thing share a word; a field without one is named by itself.
FIELD_WORDS = {
    "block_out_channels": "width",
    "norm_num_groups": "groups",
    "attn_norm_num_groups": "groups",
    "attention": "attention",
    "up_attention": "attention",
    "add_attention": "attention",
    "attention_head_dim": "attention",
}
FIELDS_BY_LEVEL = ("attention", "up_attention", "down_resnet", "up_resnet")
SECTION_WORDS = {"diffusion": "noise schedule", "train": "training", "sample": "sampling"}


def describe_difference(a: CellResult, b: CellResult) -> str:
    """What differs between two cells beside their seed, as "depth" or "depth and width".

    Two U-Nets are compared at the levels that both have, so that a level more is depth alone:
    ``width`` where their channels differ there, ``attention`` where one of them has attention that
    the other lacks, ``groups`` for the number of groups of their norms. Networks of which one is
    no U-Net differ in ``network``. Then come ``prediction`` and other settings of the cells.
    """
    words = dict.fromkeys([*_network_words(a, b), *_setting_words(a, b)])
    *first, last = words or ["nothing but the name"]
    return f"{', '.join(first)} and {last}" if first else last


def _network_words(a: CellResult, b: CellResult) -> Iterator[str]:
    network_a = config_from_json(a.config["unet"])
    network_b = config_from_json(b.config["unet"])
    if network_a == network_b:
        return
    if not isinstance(network_a, UNetConfig) or not isinstance(network_b, UNetConfig):
        yield "network"
        return
    if network_a.depth != network_b.depth:
        yield "depth"
    levels = min(network_a.depth, network_b.depth)
    fields_a = _fields_at_levels(network_a, levels)
    fields_b = _fields_at_levels(network_b, levels)
    differing = [name for name, value in fields_a.items() if value != fields_b[name]]
    # The words of the table above in its order, whatever the order of the fields.
    named = [name for name in FIELD_WORDS if name in differing]
    others = [name for name in differing if name not in FIELD_WORDS]
    yield from (FIELD_WORDS.get(name, name.replace("_", " ")) for name in [*named, *others])


def _fields_at_levels(network: UNetConfig, levels: int) -> dict[str, Any]:
    """The fields of a network as far as they concern its first levels."""
    fields = dataclasses.asdict(network)
    del fields["sample_size"]  # changes nothing in the network
    fields["block_out_channels"] = network.block_out_channels[:levels]
    if network.up_attention is None:
        fields["up_attention"] = network.attention
    for name in FIELDS_BY_LEVEL:
        fields[name] = {level for level in fields[name] if level <= levels}
    return fields


def _setting_words(a: CellResult, b: CellResult) -> Iterator[str]:
    if a.info.prediction != b.info.prediction:
        yield "prediction"
    for section, word in SECTION_WORDS.items():
        settings_a = {**a.config.get(section, {}), "prediction": ""}
        settings_b = {**b.config.get(section, {}), "prediction": ""}
        if settings_a != settings_b:
            yield word
