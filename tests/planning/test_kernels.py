"""Kernels and bytes counted from a compiled program's text, against answers by hand."""

import pytest

from jaxdiff.planning import kernels
from jaxdiff.planning.kernels import Kernel, list_kernels

# A loop of four turns takes a row of 1 kB from an array, adds a number to it and writes it in place
# into another. Then come a convolution by a library with its workspace, and a sum over devices.
PROGRAM = """
HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[4,256]{1,0})->f32[256]{0}}

%add_row (p.0: f32[4,256], p.1: s32[], p.2: bf16[]) -> f32[1,256] {
  %p.0 = f32[4,256]{1,0} parameter(0)
  %view = f32[4,256]{1,0} bitcast(%p.0)
  %p.1 = s32[] parameter(1)
  %p.2 = bf16[] parameter(2)
  %zero = s32[] constant(0)
  %row = f32[1,256]{1,0} dynamic-slice(%view, %p.1, %zero), dynamic_slice_sizes={1,256}
  %wide = f32[] convert(%p.2)
  %all = f32[1,256]{1,0} broadcast(%wide), dimensions={}
  ROOT %sum = f32[1,256]{1,0} add(%row, %all)
}

%write_row (p.0: f32[4,256], p.1: f32[1,256], p.2: s32[]) -> f32[4,256] {
  %p.0 = f32[4,256]{1,0} parameter(0)
  %p.1 = f32[1,256]{1,0} parameter(1)
  %p.2 = s32[] parameter(2)
  %zero = s32[] constant(0)
  ROOT %update = f32[4,256]{1,0} dynamic-update-slice(%p.0, %p.1, %p.2, %zero)
}

%body (state: (s32[], f32[4,256], f32[4,256])) -> (s32[], f32[4,256], f32[4,256]) {
  %state = (s32[], f32[4,256]{1,0}, f32[4,256]{1,0}) parameter(0)
  %turn = s32[] get-tuple-element(%state), index=0
  %rows = f32[4,256]{1,0} get-tuple-element(%state), index=1
  %sums = f32[4,256]{1,0} get-tuple-element(%state), index=2
  %number = bf16[] constant(2)
  %fusion-start = ((f32[4,256], s32[], bf16[]), f32[1,256], u32[]) fusion-start(%rows, %turn, \
%number), kind=kLoop, calls=%add_row
  %fusion-done = f32[1,256]{1,0} fusion-done(%fusion-start)
  %loop_update_fusion.1 = f32[4,256]{1,0} fusion(%sums, %fusion-done, /*index=2*/%turn), \
kind=kLoop, calls=%write_row
  ROOT %next = (s32[], f32[4,256]{1,0}, f32[4,256]{1,0}) tuple(%turn, %rows, %loop_update_fusion.1)
}

%condition (state: (s32[], f32[4,256], f32[4,256])) -> pred[] {
  %state = (s32[], f32[4,256]{1,0}, f32[4,256]{1,0}) parameter(0)
  ROOT %true = pred[] constant(true)
}

ENTRY %main.7 (x: f32[4,256], mask: pred[100]) -> f32[256] {
  %x = f32[4,256]{1,0} parameter(0), metadata={op_name="x (of (all))"}
  %mask = pred[100]{0} parameter(1)
  %zero = s32[] constant(0)
  %init = (s32[], f32[4,256]{1,0}, f32[4,256]{1,0}) tuple(%zero, %x, %x)
  %while.5 = (s32[], f32[4,256]{1,0}, f32[4,256]{1,0}) while(%init), condition=%condition, \
body=%body, backend_config={"known_trip_count":{"n":"4"},"known_init_step":{"init":"0"}}
  %sums = f32[4,256]{1,0} get-tuple-element(%while.5), index=2
  %conv.12 = (bf16[256]{0}, u8[40]{0}) custom-call(%sums, %mask), custom_call_target="conv"
  %image = bf16[256]{0} get-tuple-element(%conv.12), index=0
  ROOT %all-reduce.3 = bf16[256]{0} all-reduce(%image), to_apply=%condition
}
"""


def test_kernels_and_bytes_are_those_by_hand():
    rows, update, conv, total = list_kernels(PROGRAM)
    assert rows == Kernel("fusion-start", read=1024 + 4 + 2, written=1024, runs=4)
    assert update == Kernel("loop_update_fusion.1", read=1024 + 4, written=1024, runs=4)
    assert conv == Kernel("conv.12", read=4096 + 100, written=512 + 40)
    assert total == Kernel("all-reduce.3", read=512, written=512)
    assert kernels.count_bytes([rows, conv]) == 4 * rows.bytes + conv.bytes
    assert [k.group for k in (rows, update, conv)] == ["fusion", "loop_update_fusion", "conv"]


def test_a_loop_of_unknown_length_counts_once():
    assert {k.runs for k in list_kernels(PROGRAM.replace("known_trip_count", "other"))} == {1}


def test_what_is_computed_and_then_sliced_needs_its_part():
    text = """
%update (p.0: f32[1000], p.1: f32[1000], p.2: f32[10], p.3: f32[]) -> f32[10] {
  %p.0 = f32[1000]{0} parameter(0)
  %p.1 = f32[1000]{0} parameter(1)
  %p.3 = f32[] parameter(3)
  %rate = f32[1000]{0} broadcast(%p.3), dimensions={}
  %root = f32[1000]{0} sqrt(%p.1)
  %ratio = f32[1000]{0} divide(%p.0, %root)
  %step = f32[1000]{0} multiply(%ratio, %rate)
  %part = f32[10]{0} slice(%step), slice={[20:30]}
  %p.2 = f32[10]{0} parameter(2)
  ROOT %sum = f32[10]{0} add(%p.2, %part)
}
ENTRY %main (m: f32[1000], v: f32[1000], p: f32[10], r: f32[]) -> (f32[10], f32[]) {
  %m = f32[1000]{0} parameter(0)
  %v = f32[1000]{0} parameter(1)
  %p = f32[10]{0} parameter(2)
  %r = f32[] parameter(3)
  %loop_add_fusion = f32[10]{0} fusion(%m, %v, %p, %r), kind=kLoop, calls=%update
  %norm = f32[] reduce(%m, %r), dimensions={0}, to_apply=%add
  ROOT %both = (f32[10]{0}, f32[]) tuple(%loop_add_fusion, %norm)
}
"""
    update, norm = list_kernels(text)
    assert update == Kernel("loop_add_fusion", read=3 * 40 + 4, written=40)
    assert norm == Kernel("norm", read=4000 + 4, written=4)


def test_of_branches_the_longest_counts():
    text = """
%short (p.0: f32[8]) -> f32[8] {
  %p.0 = f32[8]{0} parameter(0)
  ROOT %copy.0 = f32[8]{0} copy(%p.0)
}
%long (p.1: f32[8]) -> f32[8] {
  %p.1 = f32[8]{0} parameter(0)
  %copy.1 = f32[8]{0} copy(%p.1)
  ROOT %copy.2 = f32[8]{0} copy(%copy.1)
}
ENTRY %main (x: f32[8], b: pred[]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %b = pred[] parameter(1)
  ROOT %either = f32[8]{0} conditional(%b, %x, %x), BRANCHES
}
"""
    for branches in (
        "branch_computations={%short, %long}",
        "true_computation=%long, false_computation=%short",
    ):
        counted = list_kernels(text.replace("BRANCHES", branches))
        assert [kernel.name for kernel in counted] == ["copy.1", "copy.2"]


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ("f32[]", 4),
        ("bf16[2,3]{1,0}", 12),
        ("(pred[5]{0}, (f8e4m3fn[7]{0}, u64[1]{0}))", 5 + 7 + 8),
        ("s4[3]{0:E(4)}", 2),
        ("token[]", 0),
    ],
)
def test_bytes_of_a_shape(shape, size):
    assert kernels.count_shape_bytes(shape) == size


def test_a_text_without_a_program_is_one_sentence():
    with pytest.raises(ValueError, match="must have an ENTRY computation"):
        list_kernels("")
