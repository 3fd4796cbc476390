"""The inner product of two rows of float32, the same to the last bit on every machine.

A compiler that may reorder a sum picks the order that suits its processor, and then two machines break a tie between
two similarities differently. So the order is written down here: lane i of 64 adds the products i, i + 64, ... in turn,
multiplication and addition stay apart (no fused step), and the lanes are folded in halves at the end. Numba has no
vectors, hence the instructions in LLVM: with a plain loop over the lanes a whole merge takes more than twice as long.
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
def dot(typing_context, first, more, i, j):
    """Inner product of rows i and j of two contiguous float32 arrays laid one after the other, as float32.

    Rows by number: numba counts references to a row that is cut out, which takes nearly as long as the product.
    """

    def emit(context, builder, signature, arguments):
        arrays = [context.make_array(signature.args[k])(context, builder, arguments[k]) for k in range(2)]
        count, length = cgutils.unpack_tuple(builder, arrays[0].shape)

        def vectors(row):
            is_first = builder.icmp_signed("<", row, count)
            at = builder.mul(builder.select(is_first, row, builder.sub(row, count)), length)
            start = builder.select(is_first, arrays[0].data, arrays[1].data)
            return builder.bitcast(builder.gep(start, [at]), _VECTOR.as_pointer())

        rows = [vectors(row) for row in arguments[2:]]
        per_block = LANES // _WIDTH
        zero = ir.Constant(_VECTOR, [0.0] * _WIDTH)
        sums = [cgutils.alloca_once_value(builder, zero) for _ in range(per_block)]
        with cgutils.for_range(builder, builder.udiv(length, _INT(LANES))) as loop:
            for k, lanes in enumerate(sums):
                at = builder.add(builder.mul(loop.index, _INT(per_block)), _INT(k))
                left, right = (builder.load(builder.gep(row, [at]), align=4) for row in rows)
                builder.store(builder.fadd(builder.load(lanes), builder.fmul(left, right)), lanes)
        return _fold(builder, [builder.load(lanes) for lanes in sums])

    return types.float32(first, more, types.int64, types.int64), emit


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
