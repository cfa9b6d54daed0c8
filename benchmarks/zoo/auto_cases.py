"""Every architecture of transformers that can be made small without knowing it.

Text, image and audio models with one configuration of their own; sizes are set by the names that
configurations share.  What cannot be built or exported is listed in `failures.json`.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
import transformers
from benchmarks.zoo import hf_cases
from benchmarks.zoo.cases import Built, Dice, Registry, Spec, image, spec, tensor, tokens
from benchmarks.zoo.hf_cases import SOURCE, instantiate, small_config
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

SINKS = ("hy_v4", "openai_privacy_filter")  # the forward pass does not show their blocks
LARGEST = 20_000_000  # parameters; what is larger ignored the sizes it was given


def _sounds(dice: Dice) -> Spec:
    return spec([tensor("input_features", "f", ["B", 80, 40], "normal")], {"B": 3}, B=2)


def _waves(dice: Dice) -> Spec:
    return spec([tensor("input_values", "f", ["B", 1600], "normal")], {"B": 3}, B=2)


def _hidden(dice: Dice) -> Spec:
    return spec([tensor("inputs_embeds", "f", ["B", "S", dice.hidden], "normal")],
                {"B": 3, "S": 7}, B=2, S=dice.length)  # fmt: skip


def _images(dice: Dice) -> Spec:
    return image(dice, 32)


def _model_class(config: Any) -> Any:
    """The model that is made of this configuration: what AutoModel knows, or its own module's."""
    try:
        return transformers.AutoModel._model_mapping[type(config)]
    except KeyError:
        place = type(config).__module__.replace("configuration_", "modeling_")
    members = vars(importlib.import_module(place)).values()
    own = [m for m in members if getattr(m, "config_class", None) is type(config)]
    own = [m for m in own if "PreTrained" not in m.__name__]
    if not own:
        raise ValueError("no model has this configuration")
    return own[0]


def _build(config_name: str) -> Any:
    def build(dice: Dice) -> Built:
        config = small_config(config_name, dice)
        model = _model_class(config)
        with torch.device("meta"):
            size = sum(p.numel() for p in model(config).parameters())
        if size > LARGEST:
            raise ValueError(f"{size} parameters")
        errors = []
        for make in (tokens, _images, _sounds, _waves, _hidden):
            described = make(dice)
            try:
                built = instantiate(model, config, dice, described)
                arrays = _arrays(described)
                with torch.no_grad():
                    made = built.module.eval()(*arrays)
                if isinstance(made, tuple) and not made:
                    raise ValueError("no output is of floats")
                return built
            except Exception as error:  # each architecture refuses in its own way
                errors.append(f"{make.__name__}: {error}")
        raise ValueError("; ".join(text[:80] for text in errors))

    return build


def _arrays(described: Spec) -> list[torch.Tensor]:
    from benchmarks.zoo.inputs import make_inputs

    return [torch.from_numpy(array) for array in make_inputs(described, seed=0).values()]


def register(registry: Registry) -> None:
    """Register what ``hf_cases`` does not describe."""
    described = Registry()
    hf_cases.register(described)
    known = {family.removeprefix("hf_") for family in described.cases}
    for kind, config_name in CONFIG_MAPPING_NAMES.items():
        config = getattr(transformers, config_name, None)
        if config is None or getattr(config, "sub_configs", None):
            continue
        family = f"auto_{kind.replace('-', '_')}"
        exporter = ("ts", "dy")[len(registry.cases) % 2]
        if family not in registry.cases and kind not in known:
            registry.add(
                family, SOURCE, _build(config_name), variants=1, exporters=(exporter,),
                maximum=1 if kind in SINKS else None,
            )  # fmt: skip
