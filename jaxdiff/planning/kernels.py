"""The kernels of a program compiled for CUDA, and the bytes that each moves, from its text.

XLA's own count needs the card; the text of the compiled program has all shapes. What a
kernel needs of an array is read from memory once, and every array that it returns is written once:
caches are not modeled, as in a roofline.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

# Such as `%add_row (p.0: f32[4,256], p.1: s32[]) -> f32[1,256] {`.
COMPUTATION = re.compile(r"(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{$")
# Such as `  ROOT %sum = f32[1,256]{1,0} add(%row, %all), metadata={...}`.
INSTRUCTION = re.compile(
    r"\s+(?P<root>ROOT )?%?(?P<name>[\w.\-]+) = (?P<shape>\(.*?\)|\S+) (?P<op>[a-z][\w\-]*)"
    r"\((?P<operands>[^)]*)\)(?P<attributes>.*)$"
)
ARRAY = re.compile(r"\b(?P<type>pred|[a-z]+(?P<bits>\d+)\w*)\[(?P<shape>[\d,]*)\]")
TRIP_COUNT = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
BRANCHES = re.compile(r"branch_computations=\{[^}]*\}|(?:true|false)_computation=%[\w.\-]+")
# They launch nothing: names, constants and views of memory.
NO_KERNELS = {
    "after-all",
    "bitcast",
    "constant",
    "get-tuple-element",
    "opt-barrier",
    "parameter",
    "partition-id",
    "replica-id",
    "tuple",
}
SLICES = {"dynamic-slice", "gather", "slice"}
# An element of their result needs many of an operand, though the two may be of one size.
MIXING = {
    "convolution",
    "custom-call",
    "dot",
    "fusion",
    "reduce-window",
    "scatter",
    "sort",
    "tuple",
}


class Instruction(NamedTuple):
    """A line of a computation."""

    name: str
    shape: str
    op: str
    operands: tuple[str, ...]
    attributes: str
    is_root: bool
    number: int  # of a parameter, -1 elsewhere


class Kernel(NamedTuple):
    """A kernel, or a call of a library.

    Parameters
    ----------
    name
        The instruction's name in the compiled text.
    read, written
        Bytes of one run.
    runs
        Times that it runs in a call of the program.
    """

    name: str
    read: int
    written: int
    runs: int = 1

    @property
    def bytes(self) -> int:
        """Bytes moved in one run."""
        return self.read + self.written

    @property
    def group(self) -> str:
        """The name without its number, which kernels of one kind share."""
        return re.sub(r"(-start)?[.\d]*$", "", self.name)


Computation = dict[str, Instruction]


def list_kernels(text: str) -> list[Kernel]:
    """The kernels that a call of a compiled program runs, in their order.

    Parameters
    ----------
    text
        `jax.stages.Compiled.as_text()` of a program for CUDA. A loop's kernels run as often as it
        turns, once where the compiler does not know that; of branches the longest counts.

    Raises
    ------
    ValueError
        Where the text has no entry computation.
    """
    computations, entry = parse_computations(text)
    if not entry:
        raise ValueError(
            "a compiled program's text must have an ENTRY computation, and this has none; give "
            "what Compiled.as_text() returns"
        )
    return list(_list_kernels(computations, entry, 1))


def count_bytes(kernels: Iterable[Kernel]) -> int:
    """Bytes that all runs of the kernels move."""
    return sum(kernel.bytes * kernel.runs for kernel in kernels)


def parse_computations(text: str) -> tuple[dict[str, dict[str, Instruction]], str]:
    """The computations of a program, by name, and the name of its entry."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry = ""
    instructions: dict[str, Instruction] = {}
    for line in text.splitlines():
        header = COMPUTATION.match(line)
        if header:
            instructions = computations.setdefault(header["name"], {})
            if header["entry"]:
                entry = header["name"]
            continue
        match = INSTRUCTION.match(line)
        if match:
            instructions[match["name"]] = _to_instruction(match)
    return computations, entry


def _to_instruction(match: re.Match[str]) -> Instruction:
    is_parameter = match["op"] == "parameter"
    operands = () if is_parameter else _read_names(match["operands"])
    return Instruction(
        name=match["name"],
        shape=match["shape"],
        op=match["op"],
        operands=operands,
        attributes=match["attributes"],
        is_root=bool(match["root"]),
        number=int(match["operands"]) if is_parameter else -1,
    )


def _read_names(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"%([\w.\-]+)", text))


def count_shape_bytes(shape: str) -> int:
    """Bytes of an array, or of all arrays of a tuple, such as "(f32[2,3]{1,0}, pred[])"."""
    total = 0
    for array in ARRAY.finditer(shape):
        elements = math.prod(int(n) for n in array["shape"].split(",") if n)
        bits = int(array["bits"] or 8)  # pred is a byte
        total += math.ceil(elements * bits / 8)
    return total


def count_elements(shape: str) -> int:
    """Elements of an array, or of all arrays of a tuple."""
    return sum(
        math.prod(int(n) for n in array["shape"].split(",") if n) for array in ARRAY.finditer(shape)
    )


def _list_kernels(
    computations: Mapping[str, Computation], name: str, runs: int
) -> Iterator[Kernel]:
    instructions = computations[name]
    for instruction in instructions.values():
        # A kernel that runs beside others is two lines; the second has the result's shape alone.
        if instruction.op in NO_KERNELS or instruction.op.endswith(("-start", "-update")):
            continue
        if instruction.op == "while":
            turns = TRIP_COUNT.search(instruction.attributes)
            times = int(turns[1]) if turns else 1
            body = _called(instruction, "body")
            yield from _list_kernels(computations, body, runs * times)
        elif instruction.op == "call":
            yield from _list_kernels(computations, _called(instruction, "to_apply"), runs)
        elif instruction.op == "conditional":
            names = _read_names(" ".join(BRANCHES.findall(instruction.attributes)))
            branches = [list(_list_kernels(computations, branch, runs)) for branch in names]
            yield from max(branches, key=count_bytes, default=[])
        else:
            yield _to_kernel(computations, instructions, instruction, runs)


def _called(instruction: Instruction, attribute: str) -> str:
    match = re.search(rf"\b{attribute}=%?([\w.\-]+)", instruction.attributes)
    return match[1] if match else ""


def _to_kernel(
    computations: Mapping[str, Computation],
    instructions: Computation,
    instruction: Instruction,
    runs: int,
) -> Kernel:
    start = instruction
    while start.op.endswith(("-done", "-update")) and start.operands:
        start = instructions[start.operands[0]]
    is_fusion = start.op in ("fusion", "fusion-start")
    fused = computations.get(_called(start, "calls")) if is_fusion else None
    if fused is None:
        needed = [
            _count_demand(instructions, start, position, count_elements(start.shape))
            for position in range(len(start.operands))
        ]
        written = _bytes_written(instructions, instruction)
    else:
        needed = _count_needed(fused, len(start.operands))
        written = sum(_bytes_written(fused, result) for result in _results(fused))
    read = 0
    for operand, elements in zip(start.operands, needed, strict=True):
        shape = instructions[operand].shape
        whole = count_elements(shape)
        read += count_shape_bytes(shape) * min(elements, whole) // max(whole, 1)
    return Kernel(start.name, read, written, runs)


def _count_needed(fused: Computation, num_parameters: int) -> list[int]:
    """Elements of each parameter that a fused computation's results need.

    Of what is computed and then sliced, the slice alone is computed: each tensor of an optimizer
    that works on one long vector needs its own part of it.
    """
    needed = dict.fromkeys(fused, 0)
    for instruction in reversed(fused.values()):  # operands come before what uses them
        whole = count_elements(instruction.shape)
        elements = whole if instruction.is_root else min(needed[instruction.name], whole)
        for position, operand in enumerate(instruction.operands):
            needed[operand] += _count_demand(fused, instruction, position, elements)
    by_number = {i.number: needed[i.name] for i in fused.values() if i.op == "parameter"}
    return [by_number.get(number, 0) for number in range(num_parameters)]


def _count_demand(
    instructions: Computation, instruction: Instruction, position: int, elements: int
) -> int:
    """Elements of an operand that so many elements of an instruction's result need."""
    operand = count_elements(instructions[instruction.operands[position]].shape)
    if elements == 0:
        return 0
    if position == 0 and instruction.op == "dynamic-update-slice":
        return 0  # it stays in place
    is_slice = position == 0 and instruction.op in SLICES
    is_elementwise = operand == count_elements(instruction.shape) and (instruction.op not in MIXING)
    # Which operand of a concatenation they come from is not known: at most all from each.
    if is_slice or is_elementwise or instruction.op in ("concatenate", "pad"):
        return min(operand, elements)
    return operand


def _results(fused: Computation) -> list[Instruction]:
    """The root of a fused computation, or the parts of the tuple that it is; no views."""
    root = next(instruction for instruction in fused.values() if instruction.is_root)
    roots = [fused[name] for name in root.operands] if root.op == "tuple" else [root]
    results = []
    for result in roots:
        while result.op == "bitcast":
            result = fused[result.operands[0]]
        results.append(result)
    return results


def _bytes_written(instructions: Computation, result: Instruction) -> int:
    if result.op == "dynamic-update-slice":
        return count_shape_bytes(instructions[result.operands[1]].shape)
    return count_shape_bytes(result.shape)
