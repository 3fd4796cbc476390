"""Float32 vector kernels whose result is the same on every machine, for rows given by their address.

A compiler that is free to reorder a sum picks an order that fits its processor, and then two machines break a tie
between two similarities differently. Here the order is written down: lane i of 64 adds the elements i, i + 64, ... in
turn, multiplication and addition stay apart (no fused step), and the lanes are folded in halves at the end.
Row lengths are multiples of 64 floats. Addresses, because a region's row lies in one of two buffers.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

BLOCK = 64
_LANES = 16
_VECTOR = ir.VectorType(ir.FloatType(), _LANES)
_INT = ir.IntType(64)


def _vectors(builder, address, block):
    """Pointers to the four vectors of one block of a row."""
    row = builder.inttoptr(address, _VECTOR.as_pointer())
    first = builder.mul(block, ir.Constant(_INT, BLOCK // _LANES))
    return [builder.gep(row, [builder.add(first, ir.Constant(_INT, i))]) for i in range(BLOCK // _LANES)]


def _splat(builder, value):
    one = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), _LANES), [0] * _LANES))


def _sum_of_products(builder, length, factors):
    """Emit the loop: `factors(block)` yields the two vectors to multiply, four times a block."""
    zero = ir.Constant(_VECTOR, [0.0] * _LANES)
    lanes = [cgutils.alloca_once_value(builder, zero) for _ in range(BLOCK // _LANES)]
    with cgutils.for_range(builder, builder.udiv(length, ir.Constant(_INT, BLOCK))) as loop:
        for lane, (x, y) in zip(lanes, factors(loop.index), strict=True):
            builder.store(builder.fadd(builder.load(lane), builder.fmul(x, y)), lane)
    first, second, third, fourth = (builder.load(lane) for lane in lanes)
    total = builder.fadd(builder.fadd(first, second), builder.fadd(third, fourth))
    width = _LANES
    while width > 1:
        width //= 2
        halves = [
            builder.shuffle_vector(
                total, total, ir.Constant(ir.VectorType(ir.IntType(32), width), list(range(start, start + width)))
            )
            for start in (0, width)
        ]
        total = builder.fadd(*halves)
    return builder.extract_element(total, ir.Constant(ir.IntType(32), 0))


@intrinsic
def dot(typing_context, x, y, length):
    """Inner product of the rows at addresses x and y."""

    def emit(context, builder, signature, arguments):
        x, y, length = arguments

        def factors(block):
            for at_x, at_y in zip(_vectors(builder, x, block), _vectors(builder, y, block), strict=True):
                yield builder.load(at_x, align=4), builder.load(at_y, align=4)

        return _sum_of_products(builder, length, factors)

    return types.float32(types.int64, types.int64, types.int64), emit


@intrinsic
def add(typing_context, out, x, y, length):
    """Write x + y to the row at `out`, which may be x or y, and return its squared norm."""

    def emit(context, builder, signature, arguments):
        out, x, y, length = arguments

        def factors(block):
            rows = (_vectors(builder, row, block) for row in (out, x, y))
            for at_out, at_x, at_y in zip(*rows, strict=True):
                total = builder.fadd(builder.load(at_x, align=4), builder.load(at_y, align=4))
                builder.store(total, at_out, align=4)
                yield total, total

        return _sum_of_products(builder, length, factors)

    return types.float32(types.int64, types.int64, types.int64, types.int64), emit


@intrinsic
def squared_distance(typing_context, x, x_scale, y, y_scale, length):
    """|x_scale x - y_scale y|^2 of the rows at addresses x and y."""

    def emit(context, builder, signature, arguments):
        x, x_scale, y, y_scale, length = arguments
        x_scale, y_scale = _splat(builder, x_scale), _splat(builder, y_scale)

        def factors(block):
            for at_x, at_y in zip(_vectors(builder, x, block), _vectors(builder, y, block), strict=True):
                scaled = builder.fmul(builder.load(at_x, align=4), x_scale)
                gap = builder.fsub(scaled, builder.fmul(builder.load(at_y, align=4), y_scale))
                yield gap, gap

        return _sum_of_products(builder, length, factors)

    signature = types.float32(types.int64, types.float32, types.int64, types.float32, types.int64)
    return signature, emit


@intrinsic
def prefetch(typing_context, x, length):
    """Ask for the row at address x to be brought near; changes nothing."""

    def emit(context, builder, signature, arguments):
        x, length = arguments
        byte = ir.IntType(8).as_pointer()
        flag = ir.IntType(32)
        hint = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag]), "llvm.prefetch.p0i8"
        )
        lines = builder.udiv(length, ir.Constant(_INT, 16))
        with cgutils.for_range(builder, lines) as loop:
            at = builder.add(x, builder.mul(loop.index, ir.Constant(_INT, 64)))
            builder.call(hint, [builder.inttoptr(at, byte), flag(0), flag(3), flag(1)])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), emit
