"""What a sampler is: a chain of steps, and `init`, `step` and `result` over a carry.

`register_sampler` adds a sampler to SAMPLERS; commands, configs and `jaxdiff.sampling` then know it
by its name. The samplers that come with jaxdiff are in `jaxdiff.samplers`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, Key

from jaxdiff import rng
from jaxdiff.diffusion import Batch, Prediction, Schedule

Predict = Callable[[Array, Array], Array]
Spacing = Literal["trailing", "leading", "linspace"]
Keys = Key[Array, " batch"]

INITIAL_NOISE_STREAM = 2**31 - 1  # above every t, which numbers the noise of a step


class Step(NamedTuple):
    """One step of a chain, or all of them: from timestep t to the lower t_prev.

    alpha_bar and alpha_bar_prev are the schedule's at both ends. t_prev is negative where the step
    ends below the schedule: at the clean image, or at timestep 0 (see `SamplingMethod.to_one`).
    """

    t: Int[Array | np.ndarray, "..."]
    t_prev: Int[Array | np.ndarray, "..."]
    alpha_bar: Float[Array | np.ndarray, "..."]
    alpha_bar_prev: Float[Array | np.ndarray, "..."]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingMethod:
    """Base class of samplers, a frozen dataclass whose fields are the sampler's options.

    A sampler defines `step`, and `chain`, `init` and `result` where these defaults do not fit.
    Every array of a carry has the samples on its first axis, which is split over devices. Every
    random number of a sample comes from that sample's own key, so that sample i does not depend on
    how many are drawn beside it.

    Parameters
    ----------
    prediction
        What the network's output stands for.
    spacing, offset
        How the timesteps are spaced, see `timesteps`.
    to_one
        Whether the last step ends at the clean image (alpha_bar = 1), or at timestep 0.
    stride
        Whether a step goes to t - T // steps, whatever the next one is, as in diffusers' DDIM. This
        differs where the number of steps does not divide T.
    """

    prediction: Prediction = "eps"
    spacing: Spacing = "trailing"
    offset: int = 0
    to_one: bool = True
    stride: bool = False

    @classmethod
    def option_names(cls) -> tuple[str, ...]:
        """Names of the options, all fields but the network's prediction."""
        return tuple(f.name for f in dataclasses.fields(cls) if f.name != "prediction")

    def chain(self, schedule: Schedule, steps: int, start: int | None = None) -> Any:
        """The steps, first to last, as a NamedTuple of NumPy arrays.

        Parameters
        ----------
        schedule
            Noise levels of the model.
        steps
            Number of steps of the whole chain, 1 to T.
        start
            Enter the chain at this timestep, which must be one of its own.

        Returns
        -------
        NamedTuple
            Arrays with one row a step, which `step` receives row by row; one of them is ``t``.
        """
        t = self.timesteps(schedule, steps, start)
        t_prev = t - schedule.steps // steps if self.stride else np.append(t[1:], -1)
        return self.build_steps(schedule, t, t_prev)

    def init(self, x_T: Batch) -> Any:
        """The carry before the first step."""
        return x_T

    def step(self, predict: Predict, schedule: Schedule, carry: Any, step: Any, keys: Keys) -> Any:
        """The carry after one step.

        Parameters
        ----------
        predict
            Raw output of the network at (xt, t), with t int [batch].
        schedule
            Noise levels of the model.
        carry
            What `init` or the step before returned.
        step
            One row of the chain.
        keys
            One typed key a sample; the same at every step.
        """
        raise NotImplementedError

    def result(self, carry: Any) -> Batch:
        """The images of a carry: x0 after the last step, xt before it."""
        return carry

    def timesteps(
        self, schedule: Schedule, steps: int, start: int | None = None
    ) -> Int[np.ndarray, " step"]:
        """Timesteps of the chain, from `start` downwards."""
        t = timesteps(schedule, steps, self.spacing, self.offset)
        return t if start is None else t[t <= start]

    def build_steps(
        self, schedule: Schedule, t: Int[np.ndarray, " step"], t_prev: Int[np.ndarray, " step"]
    ) -> Step:
        """The steps between these timesteps."""
        # On the host: a chain is cut into calls there, and inside jit it is a constant.
        alpha_bar = np.asarray(schedule.alpha_bar)
        last = 1.0 if self.to_one else float(alpha_bar[0])
        # np.where evaluates both branches, so that negative indices are avoided.
        is_inside = t_prev >= 0
        alpha_bar_prev = np.where(is_inside, alpha_bar[np.maximum(t_prev, 0)], np.float32(last))
        return Step(t, t_prev.astype(np.int32), alpha_bar[t], alpha_bar_prev)


SAMPLERS: dict[str, type[SamplingMethod]] = {}
Method = TypeVar("Method", bound=type[SamplingMethod])


def register_sampler(name: str) -> Callable[[Method], Method]:
    """Register a subclass of `SamplingMethod` under a name; a class decorator.

    Raises
    ------
    ValueError
        Where another module has registered the name.
    """

    def register(method: Method) -> Method:
        # The same module may register again: a notebook that reloads it.
        registered = SAMPLERS.get(name)
        if registered is not None and registered.__module__ != method.__module__:
            raise ValueError(
                f"sampler {name!r} of {method.__module__} is also in {registered.__module__}; "
                "choose another name"
            )
        SAMPLERS[name] = method
        return method

    return register


@dataclasses.dataclass(frozen=True)
class SamplerSpec:
    """Which sampler to use: its name, its number of steps and its options.

    Parameters
    ----------
    method
        Name in SAMPLERS.
    steps
        Sampling steps, 1 to the schedule's T.
    options
        Fields of the method's class except the prediction, which is the model's.

    Raises
    ------
    ValueError
        For a method that is not registered, and for an option that it does not have.
    """

    method: str = "ddim"
    steps: int = 50
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        names = find_sampler(self.method).option_names()
        for name in self.options:
            if name not in names:
                raise ValueError(
                    f"an option of the sampler {self.method} must be one of {', '.join(names)}, "
                    f"got {name!r}; remove it"
                )

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> "SamplerSpec":
        """From a cell's or a scheduler's flat settings; those that are no option are left out."""
        # Settings of a study hold the options of all samplers, whichever it uses.
        names = find_sampler(settings["method"]).option_names()
        options = {name: settings[name] for name in names if name in settings}
        return cls(settings["method"], settings["steps"], options)

    def build(self, prediction: Prediction) -> SamplingMethod:
        """The sampler for networks with this prediction."""
        return SAMPLERS[self.method](prediction=prediction, **self.options)


def find_sampler(name: str) -> type[SamplingMethod]:
    """The registered class. Raises ValueError for a name that is not registered."""
    if name not in SAMPLERS:
        raise ValueError(
            f"the sampler must be one of {', '.join(sorted(SAMPLERS))}, got {name!r}; if another "
            "module registers it, import that module first"
        )
    return SAMPLERS[name]


def run_sampler(
    method: SamplingMethod,
    predict: Predict,
    schedule: Schedule,
    x_T: Batch,
    *,
    keys: Keys,
    steps: int,
    start: int | None = None,
) -> Batch:
    """Run a whole chain in one scan.

    Parameters
    ----------
    method
        The sampler with its options.
    predict
        Raw output of the network at (xt, t), with t int [batch].
    schedule
        Noise levels of the model.
    x_T
        Noise float [batch, ...]; with `start`, images noised to that timestep.
    keys
        One typed key a sample.
    steps
        Number of steps of the whole chain, 1 to T.
    start
        Enter the chain at this timestep, which must be one of its own.

    Returns
    -------
    Array
        x0, float [batch, ...].
    """

    def body(carry: Any, step: Any) -> tuple[Any, None]:
        return method.step(predict, schedule, carry, step, keys), None

    carry, _ = jax.lax.scan(body, method.init(x_T), method.chain(schedule, steps, start))
    return method.result(carry)


def timesteps(
    schedule: Schedule, steps: int, spacing: Spacing = "trailing", offset: int = 0
) -> Int[np.ndarray, " step"]:
    """Timesteps from high to low, as diffusers spaces them.

    Parameters
    ----------
    schedule
        Noise levels of the model; T is their number.
    steps
        How many, 1 to T.
    spacing
        trailing: equally spaced from T - 1. leading: the multiples of T // steps, plus `offset`.
        linspace: from T - 1 to 0.
    offset
        Added to the timesteps of the leading spacing.

    Raises
    ------
    ValueError
        Unless 1 <= steps <= T and the first timestep is below T.

    References
    ----------
    Lin et al. 2024, "Common Diffusion Noise Schedules and Sample Steps are Flawed", Table 2.
    """
    T = schedule.steps
    if not 1 <= steps <= T:
        raise ValueError(
            f"the number of sampling steps must be 1 to {T}, the schedule's, got {steps}; "
            "choose a number in between"
        )
    if spacing == "trailing":
        # Cut, since by rounding np.arange may return an entry more.
        t = np.round(np.arange(T, 0, -T / steps)[:steps]) - 1
    elif spacing == "leading":
        t = np.arange(steps)[::-1] * (T // steps) + offset
    else:
        t = np.linspace(0, T - 1, steps).round()[::-1]
    if t[0] >= T:
        raise ValueError(
            f"the first of {steps} sampling steps must be below {T}, got {int(t[0])} with an "
            f"offset of {offset}; choose fewer steps or a smaller offset"
        )
    return t.astype(np.int32)


def initial_noise(keys: Keys, shape: tuple[int, ...]) -> Float[Array, " batch *shape"]:
    """Standard normal noise of each sample, from its own key; no step draws the same numbers.

    It is x_T, and also what measures add to held-out images: for x_T of another distribution,
    give those a function of their own.
    """

    def draw(key: Key[Array, ""]) -> Array:
        return rng.normal(jax.random.fold_in(key, INITIAL_NOISE_STREAM), shape)

    return jax.vmap(draw)(keys)


def step_noise(keys: Keys, t: Int[ArrayLike, ""], like: Batch) -> Batch:
    """The noise of one step, in the shape and the type of `like`, from each sample's key."""

    def draw(key: Key[Array, ""]) -> Array:
        return rng.normal(jax.random.fold_in(key, t), like.shape[1:], like.dtype)

    return jax.vmap(draw)(keys)


def clip_x0(x0: Batch, clip: float | bool) -> Batch:
    """x0 in [-clip, clip]; True is 1."""
    return jnp.clip(x0, -float(clip), float(clip))


def move_along_eps(xt: Batch, eps: Batch, step: Any) -> Batch:
    """xt at alpha_bar_prev, if its noise is eps: DDIM's step without noise."""
    x0 = (xt - jnp.sqrt(1.0 - step.alpha_bar) * eps) / jnp.sqrt(step.alpha_bar)
    return jnp.sqrt(step.alpha_bar_prev) * x0 + jnp.sqrt(1.0 - step.alpha_bar_prev) * eps
