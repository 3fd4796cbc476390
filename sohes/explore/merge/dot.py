"""The inner product of two rows of float32, the same to the last bit on every machine.

A compiler that may reorder a sum picks the order that suits its processor, and then two machines break a tie between
two similarities differently. So the order is written down here: lane i of 64 adds the products i, i + 64, ... in turn,
multiplication and addition stay apart (no fused step), and the lanes are folded in halves at the end. Numba has no
vectors, hence LLVM's: a plain loop over 64 lanes gives the same bits in 1.4 times the seconds of a whole merge.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 64  # the length of a row is a multiple of it
_WIDTH = 16  # floats in a vector
_VECTOR = ir.VectorType(ir.FloatType(), _WIDTH)
_INT = ir.IntType(64)


@intrinsic
def dot(typing_context, x, y):
    """Inner product of two contiguous float32 arrays of one length, as float32."""

    def emit(context, builder, signature, arguments):
        rows = [
            context.make_array(kind)(context, builder, row) for kind, row in zip(signature.args, arguments, strict=True)
        ]
        vectors = [builder.bitcast(row.data, _VECTOR.as_pointer()) for row in rows]
        per_block = LANES // _WIDTH
        zero = ir.Constant(_VECTOR, [0.0] * _WIDTH)
        sums = [cgutils.alloca_once_value(builder, zero) for _ in range(per_block)]
        with cgutils.for_range(builder, builder.udiv(rows[0].nitems, _INT(LANES))) as loop:
            for i, lanes in enumerate(sums):
                at = builder.add(builder.mul(loop.index, _INT(per_block)), _INT(i))
                left, right = (builder.load(builder.gep(vector, [at]), align=4) for vector in vectors)
                builder.store(builder.fadd(builder.load(lanes), builder.fmul(left, right)), lanes)
        return _fold(builder, [builder.load(lanes) for lanes in sums])

    return types.float32(x, y), emit


def _fold(builder, sums):
    first, second, third, fourth = sums
    total = builder.fadd(builder.fadd(first, second), builder.fadd(third, fourth))
    width = _WIDTH
    while width > 1:
        width //= 2
        halves = [_slice(builder, total, start, width) for start in (0, width)]
        total = builder.fadd(*halves)
    return builder.extract_element(total, ir.IntType(32)(0))


def _slice(builder, vector, start, width):
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), width), list(range(start, start + width)))
    return builder.shuffle_vector(vector, vector, lanes)
