"""Image–text similarity of regions and the choice of the best, equations (11) and (12).

S = norm(E) norm(E_T)ᵀ presupposes that region embeddings E and text embeddings E_T lie in one space. As the paper
describes them they do not: E comes out of SAM's encoder by RoIAlign, which has seen no word, and E_T out of a text
encoder, which has seen no picture; their scalar product, if the widths agree at all, means nothing. The paper does not
say how it is bridged. Two answers are offered.

`grounding` (the default): both are Grounding DINO's own. E are the decoder's queries that gave the boxes, E_T the text
tokens after its feature enhancer. Contrastive training has put them into one space: their scalar product is the very
logit by which the detector answers. A category is as near as its nearest token.

`aligned`: E are RoI descriptors on SAM's feature map, as in the paper, brought into the space of the text by a linear
map that is fitted to the data set: ridge regression, in closed form, from the descriptors of detected regions to the
text embeddings of the categories they were detected as. E_T are the text encoder's, without the image, the mean of
their tokens, and centred over the categories, since what all words share would make all cosines close to one.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def token_similarity(regions: Tensor, text: Tensor, tokens: Tensor) -> Tensor:
    """Return S of equation (11), the text embeddings being those of tokens.

    Args:
        regions: E (J, d).
        text: (T, d) token features.
        tokens: (K, T) bool: tokens of each category, at least one.

    Returns:
        (J, K): the greatest cosine over a category's tokens.
    """
    cosines = F.normalize(regions, dim=-1) @ F.normalize(text, dim=-1).T
    return cosines[:, None].masked_fill(~tokens, -torch.inf).amax(-1)


def similarity(regions: Tensor, text: Tensor) -> Tensor:
    """Return S (J, K) of equation (11) for E (J, d) and E_T (K, d)."""
    return F.normalize(regions, dim=-1) @ F.normalize(text, dim=-1).T


def top_regions(similarities: Tensor, categories: Tensor, q: int, *, each: bool) -> Tensor:
    """Return which regions are selected, equation (12), as bool (J).

    Args:
        similarities: S (J, K).
        categories: (J) int64: as what each region was detected.
        q: How many are selected.
        each: Select the best q of every category by the similarity to it, instead of the best q of all by their
            highest similarity.
    """
    selected = torch.zeros(len(similarities), dtype=torch.bool, device=similarities.device)
    if not each:
        order = similarities.amax(1).argsort(descending=True, stable=True)
        selected[order[:q]] = True
        return selected
    for category in categories.unique():
        members = torch.nonzero(categories == category)[:, 0]
        order = similarities[members, category].argsort(descending=True, stable=True)
        selected[members[order[:q]]] = True
    return selected


def centred(text: Tensor) -> Tensor:
    """Return text embeddings (K, d) less their mean; a single one as it is."""
    return text - text.mean(0) if len(text) > 1 else text


def fit_map(descriptors: Tensor, targets: Tensor, ridge: float) -> Tensor:
    """Fit the linear map of `aligned`: the W that minimises ‖[X 1] W − Y‖² + ridge · N · ‖W‖², the bias being free.

    Args:
        descriptors: X (N, D), any scale: every column is divided by its deviation first, and W multiplied back.
        targets: Y (N, d).
        ridge: Weight of the penalty.

    Returns:
        float32 (D + 1, d); its last row is the bias.
    """
    x, y = descriptors.double(), targets.double()
    mean, deviation = x.mean(0), x.std(0, correction=0).clamp(min=1e-6)
    scaled = (x - mean) / deviation
    gram = scaled.T @ scaled + ridge * len(x) * torch.eye(x.shape[1], dtype=torch.float64, device=x.device)
    weights = torch.linalg.solve(gram, scaled.T @ (y - y.mean(0))) / deviation[:, None]
    return torch.cat([weights, (y.mean(0) - mean @ weights)[None]]).float()


def apply_map(descriptors: Tensor, weights: Tensor) -> Tensor:
    """Bring descriptors (J, D) into the space of the text by a map of `fit_map`."""
    return descriptors @ weights[:-1] + weights[-1]
