"""What a network must have and be called as, so that it can be trained, sampled and measured."""

import inspect
from typing import Any, ClassVar

from jaxtyping import Array

# typing's own isinstance check evaluates properties before Python 3.12, and the property
# `input_shape` of a U-Net without an image size raises.
from typing_extensions import Protocol, runtime_checkable


@runtime_checkable
class Denoiser(Protocol):
    """A network that can be trained, sampled from and measured."""

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of its images."""

    @property
    def num_classes(self) -> int | None:
        """Number of classes of its labels; None where it takes no labels."""

    def __call__(
        self, xt: Array, t: Array, labels: Array | None = None, keys: Array | None = None
    ) -> Array:
        """Predict eps, v or x0, whichever the model was trained for.

        Parameters
        ----------
        xt
            Noisy images, float [batch, height, width, channel].
        t
            Timesteps, int [batch], from 0 to T - 1.
        labels
            Class labels, int [batch]; None where the network has no classes.
        keys
            Typed keys [batch] that turn dropout on; None outside training.

        Returns
        -------
        Array
            Float [batch, height, width, channel].
        """


@runtime_checkable
class HasDepth(Protocol):
    """A config that says how many levels its network has."""

    @property
    def depth(self) -> int:
        """Number of levels."""


@runtime_checkable
class LeveledDenoiser(Denoiser, Protocol):
    """A denoiser that can be entered and left at its levels 0 to depth + 1.

    ``decode(encode(xt, t, level))`` equals ``network(xt, t)`` at every level.
    """

    @property
    def config(self) -> HasDepth:
        """The network's config."""

    def encode(
        self,
        xt: Array,
        t: Array,
        level: int,
        labels: Array | None = None,
        keys: Array | None = None,
    ) -> Any:
        """The state of the forward pass at a level; its ``z`` is the activation."""

    def advance(self, hidden: Any) -> Any:
        """The state at the next level."""

    def decode(self, hidden: Any) -> Array:
        """The network's output, from the state at any level."""


@runtime_checkable
class NetworkConfig(Protocol):
    """A frozen dataclass that configures a network; one with levels has a `depth` too."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def in_channels(self) -> int:
        """Channels of the images."""


def check_denoiser(network: Any) -> None:
    """Check that a network is a `Denoiser`.

    Raises
    ------
    ValueError
        Where it is none; the message names what is missing.
    """
    missing = []
    # Attributes are looked up without being evaluated: see the import of Protocol above.
    if not _has_attribute(network, "input_shape"):
        missing.append("the attribute input_shape (height, width, channel)")
    if not _has_attribute(network, "num_classes"):
        missing.append("the attribute num_classes (an integer or None)")
    if not _takes_denoiser_arguments(network):
        missing.append("the call (xt, t, labels=None, keys=None)")
    if missing:
        raise ValueError(
            f"a network must be a jaxdiff.denoiser.Denoiser, got {type(network).__name__}, "
            f"which lacks {' and '.join(missing)}; add what is missing"
        )


def _has_attribute(network: Any, name: str) -> bool:
    absent = object()
    return inspect.getattr_static(network, name, absent) is not absent


def _takes_denoiser_arguments(network: Any) -> bool:
    if not callable(network):
        return False
    try:
        inspect.signature(network).bind("xt", "t", labels=None, keys=None)
    except TypeError:
        return False
    return True
