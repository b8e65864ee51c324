"""Matrix products, linear layers and einsum."""

from __future__ import annotations

from collections.abc import Collection

from graphprune.rules.registry import axis_rule
from graphprune.rules.site import Site


@axis_rule("aten.linear")
def linear(op: Site) -> str:
    """`torch.nn.functional.linear`: weight `out x in`."""
    return "... i, o i, o -> ... o" if op.rank(1) == 2 else "... i, i -> ..."


@axis_rule("aten.bilinear")
def bilinear(op: Site) -> str:
    """`torch.nn.functional.bilinear`: weight `out x in1 x in2`."""
    return "... i, ... j, o i j, o -> ... o"


@axis_rule("aten.matmul", "aten.mm", "aten.bmm", "aten.mv", "aten.dot", "aten.vdot", "MatMul")
def matmul(op: Site) -> str:
    """Matrix product with broadcast batch dimensions; one-dimensional operands as in NumPy."""
    left = "k" if op.rank(0) == 1 else "... i k" if op.rank(1) > 1 else "... k"
    right = "k" if op.rank(1) == 1 else "... k j"
    i = " i" if op.rank(0) > 1 and op.rank(1) > 1 else ""
    j = " j" if op.rank(1) > 1 else ""
    return f"{left}, {right} -> ...{i}{j}" if "..." in left + right else f"{left}, {right} ->"


_ADDMM = {
    "aten.addmm": ("i k, k j", "i j"),
    "aten.addmv": ("i k, k", "i"),
    "aten.addr": ("i, j", "i j"),
    "aten.baddbmm": ("n i k, n k j", "n i j"),
    "aten.addbmm": ("n i k, n k j", "i j"),
}


def scaled(op: Site) -> None:
    """Note factors by which a product, and what is added to it, are multiplied."""
    alpha, beta = (float(op.attr(name, default=1.0)) for name in ("alpha", "beta"))
    op.factors = alpha, beta
    if alpha == 0.0:
        op.nonlinear = "it multiplies by zero"


@axis_rule(*_ADDMM)
def addmm(op: Site) -> str:
    """A matrix product plus a bias that broadcasts."""
    scaled(op)
    operands, out = _ADDMM[op.op.type]
    return f"{op.aligned(0, out)}, {operands} -> {out}"


@axis_rule("com.microsoft::FusedGemm", activated=True)
@axis_rule("Gemm")
def gemm(op: Site) -> str:
    """ONNX `Gemm`: `A B + C`, each of A and B transposed on demand; C broadcasts.

    The fused form has an activation behind it.
    """
    a = "k i" if op.attr("transA", default=0) else "i k"
    b = "j k" if op.attr("transB", default=0) else "k j"
    scaled(op)
    return f"{a}, {b}, {op.aligned(2, 'i j')} -> i j"


@axis_rule("aten._grouped_mm", "transformers.grouped_mm_fallback", locks="e s")
def grouped_mm(op: Site) -> str:
    """Rows sorted by expert, each multiplied by the matrix of its expert (mixture of experts).

    The kernel wants rows and columns of whole 16 bytes.
    """
    numbers = 16 // (2 if "16" in op.dtype(1) else 4)
    op.runs = 2
    op.effect.grains = [(dim, numbers) for dim in op.dims(1)[1:]]
    return "s i, e i o, e -> s o"


@axis_rule("aten.outer", "aten.ger")
def outer(op: Site) -> str:
    """Outer product of two vectors."""
    return "i, j -> i j"


@axis_rule("aten.tensordot", "aten.inner")
def tensordot(op: Site) -> str:
    """Sum over pairs of dimensions (`inner`: the last of both); what is left of each, in order."""
    if 0 in (op.rank(0), op.rank(1)):  # `inner` with a number
        return "..., ... -> ..."
    pairs = zip(
        op.attr("dims_self", default=[-1]), op.attr("dims_other", default=[-1]), strict=True
    )
    left = [f"i{at}" for at in range(op.rank(0))]
    right = [f"j{at}" for at in range(op.rank(1))]
    for number, (first, second) in enumerate(pairs):
        left[first] = right[second] = f"k{number}"
    kept = [name for name in left + right if not name.startswith("k")]
    return f"{' '.join(left)}, {' '.join(right)} -> {' '.join(kept)}"


@axis_rule("aten.einsum", "Einsum")
def einsum(op: Site) -> str:
    """Einstein summation; the equation is the signature (a letter met twice: a diagonal)."""
    equation = op.attr("equation").replace(" ", "")
    left, arrow, right = equation.partition("->")
    operands = left.split(",")
    ones = [_ones(o, op.shape(i)) for i, o in enumerate(operands)]
    if not arrow:
        letters = left.replace(",", "").replace("...", "")
        once = "".join(c for c in sorted(set(letters)) if letters.count(c) == 1)
        right = ("..." if "..." in left else "") + once
    patterns = [_spaced(o, without) for o, without in zip(operands, ones, strict=True)]
    return ", ".join(patterns) + " -> " + _spaced(right)


def _ones(letters: str, shape: tuple[int, ...]) -> set[str]:
    """The letters of an operand that stand for a length of one, which broadcasts."""
    before, _, behind = letters.partition("...")
    sizes = [*zip(before, shape, strict=False), *zip(behind[::-1], shape[::-1], strict=False)]
    return {letter for letter, size in sizes if size == 1}


def _spaced(letters: str, ones: Collection[str] = ()) -> str:
    terms = ["1" if letter in ones else letter for letter in letters.replace("...", ".")]
    return " ".join(terms).replace(".", "...")
