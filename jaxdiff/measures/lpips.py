"""LPIPS, and its mean over all pairs of a set in one pass (Zhang et al. 2018, weights 0.1).

LPIPS is a squared Euclidean distance between embeddings phi: each layer's activations with every pixel's channels
scaled to length 1, times the root of the layer's non-negative head over the number of pixels. So the mean over all pairs
follows from sums: for N images it is 2N/(N-1) (mean |phi|^2 - |mean phi|^2), and N forward passes take the place of
N(N-1)/2.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Float, Int

from jaxdiff import estimates, parallel
from jaxdiff.datasets.images import to_float
from jaxdiff.estimates import Estimate
from jaxdiff.features import perceptual

GROUPS = 50  # of the jackknife
Value = float | np.ndarray  # of a set, or of a set with each group left out


@dataclasses.dataclass(frozen=True)
class LPIPS:
    """net: alex or vgg. Images are float in [-1, 1] or uint8, [N, H, W, 3] or grey [N, H, W, 1]; larger is more different."""

    net: str
    params: perceptual.Params

    @classmethod
    def load(cls, net: str = "vgg", weights_dir: epath.PathLike | None = None) -> "LPIPS":
        """With trained weights. Raises ValueError where the file is missing or is not the one expected."""
        return cls(net, perceptual.load(net, weights_dir))

    @property
    def space(self) -> str:
        """What tables call it."""
        return f"lpips {self.net} 0.1"

    def distance(
        self, a: Array | np.ndarray, b: Array | np.ndarray, batch: int = 64
    ) -> Float[np.ndarray, " n"]:
        """LPIPS of each pair (a[i], b[i]). Raises ValueError where the shapes differ or the images are too small."""
        a, b = self._checked(a), self._checked(b)
        if a.shape != b.shape:
            raise ValueError(
                f"LPIPS compares images of one shape, not {a.shape[1:]} x {len(a)} and {b.shape[1:]} x {len(b)}"
            )
        mesh, parts = parallel.data_mesh(batch), []
        params = jax.device_put(self.params, parallel.replicated(mesh))
        for first in range(0, len(a), batch):
            chunks = [_padded(x[first : first + batch], batch) for x in (a, b)]
            parts.append(np.asarray(_distances(self.net, mesh, params, *chunks)))
        return np.concatenate(parts)[: len(a)]

    def mean_pairwise(self, images: Array | np.ndarray, batch: int = 64) -> Estimate:
        """The mean over all N(N-1)/2 pairs, exact, with the delete-a-group jackknife's standard error.

        Raises ValueError for fewer than two images.
        """
        return self.pairwise(images, batch=batch).overall()

    def pairwise(
        self,
        images: Array | np.ndarray,
        labels: Int[np.ndarray, " n"] | None = None,
        batch: int = 64,
    ) -> "Pairwise":
        """The sums from which every mean over pairs follows, within and between the classes that `labels` names.

        One pass. Memory: max(50 groups, but at most N) x classes embeddings (125,000 float32 each for VGG at 32 px).
        Raises ValueError for fewer than two images.
        """
        images = self._checked(images)
        if len(images) < 2:
            raise ValueError(f"{len(images)} image has no pairs; at least two are expected")
        labels = np.zeros(len(images), int) if labels is None else np.asarray(labels)
        names, kind = np.unique(labels, return_inverse=True)
        groups = min(GROUPS, len(images))
        cell = kind * groups + np.arange(len(images)) % groups
        mesh = parallel.data_mesh(batch)
        params = jax.device_put(self.params, parallel.replicated(mesh))
        centre = _mean_embedding(
            self.net, params, jnp.asarray(images[:batch])
        )  # small sums keep float32 exact enough
        sums = jnp.zeros((len(names) * groups, len(centre)))
        squares = []
        for first in range(0, len(images), batch):
            chunk, part = images[first : first + batch], cell[first : first + batch]
            member = np.zeros((batch, len(names) * groups), np.float32)
            member[np.arange(len(part)), part] = 1.0
            sums, square = _add(self.net, mesh, params, centre, sums, _padded(chunk, batch), member)
            squares.append(np.asarray(square, np.float64)[: len(chunk)])
        size = np.bincount(cell, minlength=len(names) * groups).reshape(len(names), groups)
        power = np.bincount(cell, np.concatenate(squares), len(names) * groups).reshape(
            len(names), groups
        )
        return Pairwise.from_sums(
            tuple(names.tolist()), size, power, np.asarray(sums).reshape(*size.shape, -1)
        )

    def _checked(self, images: Array | np.ndarray) -> Array | np.ndarray:
        smallest = perceptual.SMALLEST[self.net]
        if images.ndim != 4 or images.shape[-1] not in (1, 3):
            raise ValueError(
                f"images have the shape {tuple(images.shape)}; [N, H, W, 1 or 3] is expected"
            )
        if min(images.shape[1:3]) < smallest:
            hint = " (vgg takes 16 px and more)" if self.net == "alex" else ""
            raise ValueError(
                f"LPIPS with {self.net} needs {smallest} px or more, not {min(images.shape[1:3])}{hint}"
            )
        return images


@dataclasses.dataclass(frozen=True)
class Pairwise:
    """Means of LPIPS over pairs of a set, from sums over its classes (k) and jackknife groups (g).

    labels: the classes; size [k]: images; power [k]: sum of |phi|^2; inner [k, k]: products of the sums of phi. The
    same with a leading axis of groups, each with that group left out, is `without`.
    """

    labels: tuple[int, ...]
    size: Float[np.ndarray, "*g k"]
    power: Float[np.ndarray, "*g k"]
    inner: Float[np.ndarray, "*g k k"]
    without: "Pairwise | None" = None
    group_sizes: Float[np.ndarray, " g"] | None = None

    @classmethod
    def from_sums(
        cls, labels: tuple[int, ...], size: Int[np.ndarray, "k g"], power: Float[np.ndarray, "k g"],
        sums: Float[np.ndarray, "k g d"],
    ) -> "Pairwise":  # fmt: skip
        """From each class's and group's number of images, sum of |phi|^2 and sum of phi."""
        total = sums.sum(axis=1, dtype=np.float64)
        inner = total @ total.T
        cross = np.stack(
            [
                np.stack([total @ sums[b, g] for g in range(sums.shape[1])])
                for b in range(len(labels))
            ],
            -1,
        )
        own = np.stack([sums[:, g].astype(np.float64) @ sums[:, g].T for g in range(sums.shape[1])])
        left = inner[None] - cross - cross.swapaxes(1, 2) + own  # (S_a - S_ag) . (S_b - S_bg)
        n, p = size.sum(axis=1).astype(float), power.sum(axis=1)
        without = cls(labels, n[None] - size.T, p[None] - power.T, left)
        return cls(labels, n, p, inner, without, size.sum(axis=0).astype(float))

    def overall(self) -> Estimate:
        """Over all pairs of the set."""
        return self._estimate(
            lambda s: _within(s.size.sum(-1), s.power.sum(-1), s.inner.sum((-2, -1))),
            self.size.sum(),
        )

    def within(self, label: int) -> Estimate | None:
        """Over the pairs inside one class; None where it has fewer than three images (two have no standard error)."""
        k = self.labels.index(label)
        if self.size[k] < 3:
            return None
        return self._estimate(lambda s: s.within_mean(k), self.size[k])

    def between(self, a: int, b: int) -> Estimate:
        """Over the pairs of one image of class a and one of class b."""
        i, j = self.labels.index(a), self.labels.index(b)
        return self._estimate(lambda s: s.between_mean(i, j), self.size[i] + self.size[j])

    def at_mix(self, shares: Mapping[int, float]) -> Estimate | None:
        """Over pairs drawn from classes with these shares: what diversity would be if the mix were so.

        It takes away the part of a change in LPIPS that comes from the classes' shares alone. None where a class has
        fewer than three images.
        """
        if not shares or any(
            c not in self.labels or self.size[self.labels.index(c)] < 3 for c in shares
        ):
            return None
        place = [(self.labels.index(c), p) for c, p in shares.items()]

        def value(s: "Pairwise") -> Value:
            pairs = ((p * q, i, j) for i, p in place for j, q in place)
            return sum(
                w * (s.within_mean(i) if i == j else s.between_mean(i, j)) for w, i, j in pairs
            )

        return self._estimate(value, sum(self.size[i] for i, _ in place))

    def within_mean(self, k: int) -> Value:
        return _within(self.size[..., k], self.power[..., k], self.inner[..., k, k])

    def between_mean(self, i: int, j: int) -> Value:
        n, m = self.size[..., i], self.size[..., j]
        with np.errstate(divide="ignore", invalid="ignore"):
            return (
                self.power[..., i] / n
                + self.power[..., j] / m
                - 2 * self.inner[..., i, j] / (n * m)
            )

    def _estimate(self, statistic: Callable[["Pairwise"], Value], count: float) -> Estimate:
        assert self.without is not None
        assert self.group_sizes is not None
        value = float(statistic(self))
        error = estimates.jackknife(value, np.asarray(statistic(self.without)), self.group_sizes)
        return Estimate(value, standard_error=error, n=int(count))


def _within(n: Value, power: Value, inner: Value) -> Value:
    with np.errstate(divide="ignore", invalid="ignore"):
        return 2 * (n * power - inner) / (n * (n - 1))


def _padded(images: Array | np.ndarray, batch: int) -> np.ndarray:
    images = np.asarray(images)
    return np.concatenate(
        [images, np.zeros((batch - len(images), *images.shape[1:]), images.dtype)]
    )


def embed(net: str, params: perceptual.Params, images: Array) -> Float[Array, "batch dimension"]:
    """phi: |phi(a) - phi(b)|^2 is LPIPS(a, b). float32 [batch, all layers' heights x widths x channels]."""
    x = to_float(images) if images.dtype == jnp.uint8 else images.astype(jnp.float32)
    parts = []
    for i, layer in enumerate(perceptual.BACKBONES[net](params, perceptual.scale(x))):
        length = jnp.sqrt(jnp.sum(layer * layer, axis=-1, keepdims=True)) + 1e-10
        root = jnp.sqrt(params[f"head_{i}"] / (layer.shape[1] * layer.shape[2]))
        parts.append((layer / length * root[None, None, None]).reshape(len(x), -1))
    return jnp.concatenate(parts, axis=-1)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _distances(
    net: str, mesh: jax.sharding.Mesh, params: perceptual.Params, a: Array, b: Array
) -> Array:
    def local(params: perceptual.Params, a: Array, b: Array) -> Array:
        return jnp.sum(jnp.square(embed(net, params, a) - embed(net, params, b)), axis=-1)

    specs = (parallel.REPLICATED, parallel.DATA, parallel.DATA)
    return jax.shard_map(
        local, mesh=mesh, in_specs=specs, out_specs=parallel.DATA, check_vma=False
    )(params, a, b)


@functools.partial(jax.jit, static_argnums=0)
def _mean_embedding(net: str, params: perceptual.Params, images: Array) -> Array:
    return embed(net, params, images).mean(axis=0)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=4)
def _add(
    net: str, mesh: jax.sharding.Mesh, params: perceptual.Params, centre: Array, sums: Array, images: Array,
    member: Array,
) -> tuple[Array, Array]:  # fmt: skip
    """sums + the embeddings of the images, less `centre`, each added to the row that `member` marks; and their |phi|^2."""

    def local(
        params: perceptual.Params, centre: Array, images: Array, member: Array
    ) -> tuple[Array, Array]:
        phi = embed(net, params, images) - centre[None]
        added = jnp.matmul(member.T, phi, precision=jax.lax.Precision.HIGHEST)
        return jax.lax.psum(added, "data"), jnp.sum(phi * phi, axis=-1)

    specs = (parallel.REPLICATED, parallel.REPLICATED, parallel.DATA, parallel.DATA)
    out = (parallel.REPLICATED, parallel.DATA)
    added, squares = jax.shard_map(
        local, mesh=mesh, in_specs=specs, out_specs=out, check_vma=False
    )(params, centre, images, member)
    return sums + added, squares
