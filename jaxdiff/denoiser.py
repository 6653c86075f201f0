"""Networks that can be studied: their parameters and their registry.

A denoiser is any nnx.Module that maps noisy images and timesteps to images: the protocols of
`jaxdiff.protocols`, which are names of this module too. A family of denoisers is a frozen config
dataclass and the module class that it configures. `register_model` adds a family to MODELS, and
building, counting, saving and loading follow from that.
"""

import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
from flax import nnx
from jaxtyping import Array

from jaxdiff import rng
from jaxdiff.precision import sampling
from jaxdiff.programs import find_attributes, share_programs
from jaxdiff.protocols import Denoiser as Denoiser
from jaxdiff.protocols import HasDepth as HasDepth
from jaxdiff.protocols import LeveledDenoiser as LeveledDenoiser
from jaxdiff.protocols import NetworkConfig
from jaxdiff.protocols import check_denoiser as check_denoiser

Params = dict[str, Array]
Module = TypeVar("Module", bound=nnx.Module)

# The family whose JSON form has no "type", and the module that registers it. That module imports
# this one, so that it is imported by name, before the first lookup.
DEFAULT_FAMILY = "unet"
DEFAULT_FAMILY_MODULE = "jaxdiff.unet"


def get_params(module: nnx.Module) -> dict[str, Any]:
    """The parameters of a module as a flat dict keyed by path, such as ``conv_in.weight``.

    Parameters
    ----------
    module
        Any module; an abstract one (see `abstract_network`) gives shapes.
    """
    # A flat dict and not an nnx.State: Orbax turns the integer keys of nnx.List into strings, and
    # nnx.update then fails silently (google/orbax 2561). Paths are diffusers' parameter names where
    # the module is a U-Net, so that one mapping serves checkpoints and diffusers' folders.
    flat = nnx.to_flat_state(nnx.state(module, nnx.Param))
    return {_join(path): param.get_value() for path, param in flat}


def bind_params(module: Module, params: Mapping[str, Any]) -> Module:
    """A copy of a module with other parameters.

    Parameters
    ----------
    module
        Any module; it may be abstract.
    params
        Parameters keyed by path, as `get_params` returns them.

    Raises
    ------
    KeyError
        Where a parameter is missing.
    """
    graphdef, state = nnx.split(module, nnx.Param)
    return _merge(graphdef, [path for path, _ in nnx.to_flat_state(state)], params)


@dataclasses.dataclass(frozen=True, eq=False)
class NetworkFunction:
    """A module's call as a pure function ``apply(params, *inputs)``.

    Functions of modules that differ in their parameters alone are equal, so that what was compiled
    for one of them serves all (`jaxdiff.programs`).

    Parameters
    ----------
    graphdef
        The module without its parameters.
    paths
        Paths of the parameters.
    attributes
        Attributes as `jaxdiff.programs.find_attributes` returns them; with None the object equals
        itself alone.
    """

    graphdef: nnx.GraphDef
    paths: tuple[tuple[Any, ...], ...]
    attributes: tuple[Any, ...] | None

    # At the jit boundary networks are functions of arrays, because probes enter them at any level.
    def __call__(self, params: Mapping[str, Any], *inputs: Any) -> Any:
        return _merge(self.graphdef, self.paths, params)(*inputs)

    def __eq__(self, other: object) -> bool:
        if self.attributes is None or not isinstance(other, NetworkFunction):
            return self is other
        return (self.attributes, self.paths) == (other.attributes, other.paths)

    def __hash__(self) -> int:
        return id(self) if self.attributes is None else hash((self.attributes, self.paths))


def as_function(module: nnx.Module) -> NetworkFunction:
    """A module's call as a pure function of its parameters; it may be abstract."""
    graphdef, state = nnx.split(module, nnx.Param)
    paths = tuple(path for path, _ in nnx.to_flat_state(state))
    return NetworkFunction(graphdef, paths, find_attributes(module))


def _merge(
    graphdef: nnx.GraphDef, paths: Sequence[tuple[Any, ...]], params: Mapping[str, Any]
) -> Any:
    """The module with these parameters."""
    flat = [(path, nnx.Param(params[_join(path)])) for path in paths]
    return nnx.merge(graphdef, nnx.from_flat_state(flat))


def _join(path: tuple[Any, ...]) -> str:
    return ".".join(map(str, path))


@dataclasses.dataclass(frozen=True)
class ModelFamily:
    """Networks of one class.

    Parameters
    ----------
    name
        The ``type`` in a study's config and in saved configs.
    config_class
        Frozen dataclass of the network's settings.
    network_class
        An nnx.Module class, called as ``network_class(config, rngs=rngs)``.
    """

    name: str
    config_class: type
    network_class: type[nnx.Module]


MODELS: dict[str, ModelFamily] = {}


def register_model(name: str, config_class: type) -> Callable[[type[Module]], type[Module]]:
    """Register a network class as the model family `name`; a class decorator.

    Parameters
    ----------
    name
        The family's name, by which configs choose it.
    config_class
        Frozen dataclass of its settings, with a field ``in_channels``.

    Raises
    ------
    ValueError
        Where the config class is unfit, or another module has registered the name.
    """
    is_dataclass = dataclasses.is_dataclass(config_class)
    names = [field.name for field in dataclasses.fields(config_class)] if is_dataclass else []
    if "in_channels" not in names:
        raise ValueError(
            f"the config class of model family {name!r} must be a dataclass with a field "
            f"in_channels, got {config_class.__name__}; add the field"
        )

    def register(network_class: type[Module]) -> type[Module]:
        # The same module may be loaded again, as notebooks do after an edit.
        registered = MODELS.get(name)
        if registered is not None:
            registered_in = registered.network_class.__module__
            if registered_in != network_class.__module__:
                raise ValueError(
                    f"model family {name!r} must be registered once, got {registered_in} and "
                    f"{network_class.__module__}; choose another name"
                )
        MODELS[name] = ModelFamily(name, config_class, network_class)
        return network_class

    return register


def find_family(name: str) -> ModelFamily:
    """The model family of a name.

    Raises
    ------
    ValueError
        Where no module that was imported has registered the name.
    """
    importlib.import_module(DEFAULT_FAMILY_MODULE)
    if name not in MODELS:
        raise ValueError(
            f"a model's type must be one of {', '.join(MODELS)}, got {name!r}; if another module "
            "registers it, name that module in config.plugins"
        )
    return MODELS[name]


def _family_of(config: NetworkConfig) -> ModelFamily:
    importlib.import_module(DEFAULT_FAMILY_MODULE)
    for family in MODELS.values():
        # Not isinstance: the config of an autoencoder extends that of a U-Net.
        if family.config_class is type(config):
            return family
    raise ValueError(
        f"a network's config must be of a registered class, got {type(config).__name__}; "
        "register its network with jaxdiff.denoiser.register_model"
    )


def build_network(config: NetworkConfig, rngs: nnx.Rngs) -> Any:
    """A network with new parameters, of the family that its config's class belongs to."""
    return _family_of(config).network_class(config, rngs=rngs)  # type: ignore[call-arg]


def random_network(config: NetworkConfig, seed: int) -> Any:
    """A network with the parameters that a training by this seed begins with.

    Every shape's random numbers are a program of their own, and the same ones serve training and
    measures: they are drawn on the host, where the parameters need not fit on one device, and by
    the precision of sampling, which they do not depend on.
    """
    host = jax.local_devices(backend="cpu")[0]
    with jax.default_device(host), sampling():
        return build_network(config, nnx.Rngs(seed))


def abstract_network(config: NetworkConfig) -> Any:
    """The network of a config with shapes in place of arrays; nothing is allocated."""
    # A copy, which the caller may change.
    return nnx.clone(_trace_network(_family_of(config), config))


@share_programs
def _trace_network(family: ModelFamily, config: NetworkConfig) -> Any:
    """The abstract network, traced once: a U-Net takes a second, and a cell asks for it often."""
    with rng.shapes_only():
        return nnx.eval_shape(lambda: family.network_class(config, rngs=nnx.Rngs(0)))  # type: ignore[call-arg]


def count_parameters(config: NetworkConfig) -> int:
    """The number of trained parameters of the network of a config."""
    params = get_params(abstract_network(config))
    return sum(int(param.size) for param in params.values())


def config_to_json(config: NetworkConfig) -> dict[str, Any]:
    """The JSON form of a config: its fields, tuples as lists.

    Every family but the U-Nets adds its name as ``type``; files of U-Nets are older than other
    families, and keep their form.
    """
    name = _family_of(config).name
    fields: dict[str, Any] = {} if name == DEFAULT_FAMILY else {"type": name}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        fields[field.name] = list(value) if isinstance(value, tuple) else value
    return fields


def config_from_json(fields: Mapping[str, Any]) -> Any:
    """The config whose JSON form this is.

    Raises
    ------
    ValueError
        Where the family is not registered, or a field is not one of its config's.
    """
    settings = dict(fields)
    family = find_family(settings.pop("type", DEFAULT_FAMILY))
    names = {field.name for field in dataclasses.fields(family.config_class)}
    unknown = sorted(settings.keys() - names)
    if unknown:
        raise ValueError(
            f"a config of model family {family.name!r} must have fields of "
            f"{', '.join(sorted(names))}, got {unknown[0]!r}; remove it"
        )
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in settings.items()}
    return family.config_class(**values)
