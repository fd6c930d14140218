"""The paper's equations as loops over NumPy numbers, with the weights of the modules under test."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import nn

Array = np.ndarray[Any, np.dtype[np.float64]]


def array(tensor: Any) -> Array:
    return tensor.detach().double().numpy()


def linear(x: Array, layer: nn.Linear) -> Array:
    weight, bias = array(layer.weight), array(layer.bias)
    out = np.zeros((len(x), len(bias)))
    for row in range(len(x)):
        for unit in range(len(bias)):
            out[row, unit] = bias[unit] + sum(x[row, i] * weight[unit, i] for i in range(x.shape[1]))
    return out


def layer_norm(x: Array, norm: nn.Module) -> Array:
    if isinstance(norm, nn.Identity):
        return x
    out = np.zeros_like(x)
    for row in range(len(x)):
        mean, variance = x[row].mean(), x[row].var()
        out[row] = (x[row] - mean) / math.sqrt(variance + 1e-5) * array(norm.weight) + array(norm.bias)
    return out


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def attention(x: Array, memory: Array, module: Any, bias: Array | None = None, causal: bool = False) -> Any:
    """Return the output (T, D) and the weights (T, heads, S)."""
    width = x.shape[1]
    size = width // module.heads
    queries, projected = linear(x, module.query), linear(memory, module.memory)
    keys, values = projected[:, :width], projected[:, width:]
    mixed = np.zeros_like(queries)
    weights = np.zeros((len(x), module.heads, len(memory)))
    for head in range(module.heads):
        part = slice(head * size, (head + 1) * size)
        for t in range(len(x)):
            seen = t + 1 if causal else len(memory)
            logits = np.array([queries[t, part] @ keys[s, part] / math.sqrt(size) for s in range(seen)])
            if bias is not None:
                logits = logits + bias[:seen]
            weights[t, head, :seen] = softmax(logits)
            for s in range(seen):
                mixed[t, part] += weights[t, head, s] * values[s, part]
    return linear(mixed, module.output), weights


def gelu(x: Array) -> Array:
    return np.vectorize(lambda v: 0.5 * v * (1 + math.erf(v / math.sqrt(2))))(x)


def feedforward(x: Array, module: Any) -> Array:
    return linear(gelu(linear(x, module[0])), module[2])


def convolve(x: Array, layer: nn.Conv2d) -> Array:
    """Convolve (C, h, w) with padding that keeps h and w."""
    weight = array(layer.weight)
    bias = np.zeros(len(weight)) if layer.bias is None else array(layer.bias)
    reach = weight.shape[2] // 2
    _, height, width = x.shape
    out = np.zeros((len(weight), height, width))
    for o in range(len(weight)):
        for u in range(height):
            for v in range(width):
                total = bias[o]
                for i in range(weight.shape[2]):
                    for j in range(weight.shape[3]):
                        row, column = u + i - reach, v + j - reach
                        if 0 <= row < height and 0 <= column < width:
                            total += weight[o, :, i, j] @ x[:, row, column]
                out[o, u, v] = total
    return out
