"""Several networks in one program, a device each: the mesh axis `cell`.

What belongs to the cells is stacked along a leading axis, which is split over the devices. No
device waits for another one, and each computes what it would compute alone.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from jaxdiff import parallel

T = TypeVar("T")
AXES = ("cell",)
CELLS = PartitionSpec("cell")


def fill_devices(cells: Sequence[T]) -> list[T]:
    """The cells; where several processes run, the last one again for every device that is left.

    Every process takes part in a program, and what a spare device computes is not read.
    """
    spare = jax.device_count() - len(cells) if jax.process_count() > 1 else 0
    return [*cells, *[cells[-1]] * spare]


def cell_mesh(count: int) -> Mesh:
    """A mesh with a device for each of `count` cells.

    Raises
    ------
    ValueError
        Where there are fewer devices.
    """
    devices = jax.devices()
    if count > len(devices):
        raise ValueError(
            f"cells at once need a device each, got {count} cells and {len(devices)} devices; "
            "take fewer cells"
        )
    return make_mesh(devices[:count])


def make_mesh(devices: Sequence[jax.Device]) -> Mesh:
    """A mesh of these devices, a cell each."""
    return jax.make_mesh((len(devices),), AXES, axis_types=(AxisType.Auto,), devices=devices)


def has_cells(mesh: Mesh | AbstractMesh) -> bool:
    """Whether each device of a mesh has its own cell, and shares no batch."""
    return mesh.axis_names == AXES


def sharding(mesh: Mesh) -> NamedSharding:
    """Of an array with a leading axis `cell`."""
    return NamedSharding(mesh, CELLS)


def stack(trees: Sequence[PyTree], mesh: Mesh) -> PyTree:
    """The cells' arrays on their devices; one tree per cell, each array equal in every process."""

    def place(*arrays: Any) -> jax.Array:
        stacked = np.stack([np.asarray(array) for array in arrays])
        return parallel.to_global_array(stacked, sharding(mesh))

    return jax.tree.map(place, *trees)


def stack_shapes(shapes: PyTree, mesh: Mesh) -> PyTree:
    """Shapes and sharding of what `stack` returns for trees of these shapes."""
    count = mesh.size

    def stacked(x: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((count, *x.shape), x.dtype, sharding=sharding(mesh))

    return jax.tree.map(stacked, shapes)


def unstack(tree: PyTree) -> list[PyTree]:
    """A tree of NumPy arrays for each cell; collective where the devices are several processes'."""
    on_host = jax.tree.map(parallel.to_host, tree)
    count = len(jax.tree.leaves(on_host)[0])
    return [jax.tree.map(lambda array, i=i: array[i], on_host) for i in range(count)]


def map_over_cells(
    function: Callable[..., PyTree], mesh: Mesh, in_specs: Any = CELLS
) -> Callable[..., PyTree]:
    """The function of one cell, each device applying it to its own cell's arguments.

    Parameters
    ----------
    function
        A function of one cell's arguments.
    mesh
        The mesh that `cell_mesh` returns.
    in_specs
        For all arguments or for each: `CELLS` where they are stacked, or `parallel.REPLICATED`
        where the cells share one.

    Returns
    -------
    function
        The function of stacked arguments; all that it returns is stacked.
    """

    def of_one(*arguments: PyTree) -> PyTree:
        specs = (in_specs,) * len(arguments) if in_specs == CELLS else in_specs
        # A device sees its own cell along a leading axis of length 1, which `function` lacks.
        unstacked = [
            jax.tree.map(lambda x: x[0], argument) if spec == CELLS else argument
            for argument, spec in zip(arguments, specs, strict=True)
        ]
        return jax.tree.map(lambda x: x[None], function(*unstacked))

    return parallel.shard_map(of_one, mesh, in_specs, CELLS)
