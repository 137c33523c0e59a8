"""Attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_fwcompare.networks import checks
from pytest_fwcompare.networks.base import Layer, Node, ParameterSpec, Shape, show


@dataclass(frozen=True, eq=False)
class MultiHeadAttention(Layer):
    """y = heads @ output_kernel + output_bias, each head softmax(q k^T / sqrt(size)) v.

    Called as attention(query, memory=None, mask=None); without memory the query attends to
    itself. q = query @ query_kernel + query_bias, k and v the same of memory; head h owns columns
    h size to (h + 1) size. Vaswani et al. 2017, arXiv:1706.03762.

    Shapes: query (batch, target, features), memory (batch, source, memory features), mask (batch,
    source) gives (batch, target, features).

    A weight is zero where mask is False and, with `causal`, where the source step is later than
    the target step (both counted from the first). The softmax runs over what is left; a target
    step with nothing left has weights of zero and gives output_bias.

    Parameters: query_kernel (features, heads size), key_kernel and value_kernel (memory features,
    heads size), output_kernel (heads size, features), query_bias, key_bias, value_bias (heads
    size), output_bias (features).

    Args:
        heads: number of heads.
        size: features of one head.
        causal: forbid attention to later steps.
        use_bias: all four biases, or none.
    """

    heads: int
    size: int
    causal: bool = False
    use_bias: bool = True

    arity = (1, 2)
    rank = (3, 3)
    keyword_inputs = ("mask",)

    def __post_init__(self) -> None:
        checks.whole(self, "heads", self.heads)
        checks.whole(self, "size", self.size)

    def __call__(self, *inputs: Node | None, **keywords: Node | None) -> Node:
        """Attend from `query` to `memory`; either optional input may be None or left out."""
        memory = keywords.pop("memory", None)
        if memory is not None:
            inputs = (*inputs, memory)
        given = (value for value in inputs if value is not None)
        named = {key: value for key, value in keywords.items() if value is not None}
        return super().__call__(*given, **named)

    def _infer(self, *shapes: Shape) -> Shape:
        query, memory = shapes[0], shapes[-1]
        checks.features(self, query)
        checks.features(self, memory)
        checks.nonempty(self, "the memory", memory[1], f"in shape {show(memory)}")
        if query[0] != memory[0]:
            raise self.error(
                f"expected query and memory of one batch, got {show(query)} and {show(memory)}"
            )
        return query

    def check_keywords(
        self, shapes: Sequence[Shape], keywords: Mapping[str, tuple[Shape, str]]
    ) -> None:
        super().check_keywords(shapes, keywords)
        if "mask" not in keywords:
            return
        shape, dtype = keywords["mask"]
        if dtype != "bool" or shape != shapes[-1][:2]:
            raise self.error(
                f"expected a mask of bool and shape {show(shapes[-1][:2])}, True where attended "
                f"to, got {dtype} of shape {show(shape)}"
            )

    def _parameters(self, *shapes: Shape) -> dict[str, ParameterSpec]:
        query, memory = checks.features(self, shapes[0]), checks.features(self, shapes[-1])
        wide = self.heads * self.size
        specs = {
            "query_kernel": ParameterSpec((query, wide), "kernel", query),
            "key_kernel": ParameterSpec((memory, wide), "kernel", memory),
            "value_kernel": ParameterSpec((memory, wide), "kernel", memory),
            "output_kernel": ParameterSpec((wide, query), "kernel", wide),
        }
        if self.use_bias:
            for name in ("query_bias", "key_bias", "value_bias"):
                specs[name] = ParameterSpec((wide,), "bias")
            specs["output_bias"] = ParameterSpec((query,), "bias")
        return specs
