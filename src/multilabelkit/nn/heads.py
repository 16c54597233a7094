"""From features to logits: a linear layer, layers in a row, attention over places, or ML-Decoder.

A head of the kind "pooled" takes one vector per image, one of the kind "tokens" a vector for each place in it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from multilabelkit.checks import Check, Choice, Constraint, Interval, check_parameters, suggest
from multilabelkit.errors import InputError
from multilabelkit.nn.ml_decoder import CrossAttention, GroupLinear, attend, split_heads

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}

_NEW_CLASS_PRIOR, _NEW_WEIGHT_STD = 0.01, 0.01  # most classes are rare, and a sure "no" is soon unlearnt


class LinearHead(nn.Module):
    """Dropout and one linear layer.

    Parameters
    ----------
    n_features, n_classes : int
        Sizes of the input and the output.
    dropout : float
        Share of the features set to zero at random in training.
    """

    input_kind: ClassVar[str] = "pooled"

    def __init__(self, n_features: int, n_classes: int, *, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(n_features, n_classes)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map features (B, F) to logits (B, C)."""
        return self.linear(self.dropout(features))

    def set_prior_bias(self, prior: np.ndarray) -> None:
        """Start each class at its frequency, see the function `set_prior_bias`."""
        set_prior_bias(self.linear, prior)

    def grow(self, n_new: int, *, seed: int | None = None) -> LinearHead:
        """Return a copy with `n_new` untrained classes behind the old ones, the same for the same seed."""
        grown = copy.deepcopy(self)
        grown.linear = _grow_linear(self.linear, n_new, seed=seed)
        return grown


class MLPHead(nn.Module):
    """Linear layers in a row, with dropout before each.

    Parameters
    ----------
    n_features, n_classes : int
        Sizes of the input and the output.
    dropout : float
        Share of the input of each layer set to zero at random in training.
    hidden : sequence of int
        Widths of the layers between input and output.
    activation : {"relu", "tanh", "gelu"}
        What follows each layer but the last.
    """

    input_kind: ClassVar[str] = "pooled"

    def __init__(
        self,
        n_features: int,
        n_classes: int,
        *,
        dropout: float,
        hidden: Iterable[int] = (512,),
        activation: str = "relu",
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [nn.Dropout(dropout), nn.Linear(n_features, width), ACTIVATIONS[activation]()]
            n_features = width
        self.hidden = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(n_features, n_classes)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map features (B, F) to logits (B, C)."""
        return self.output(self.dropout(self.hidden(features)))

    def set_prior_bias(self, prior: np.ndarray) -> None:
        """Start each class at its frequency, see the function `set_prior_bias`."""
        set_prior_bias(self.output, prior)

    def grow(self, n_new: int, *, seed: int | None = None) -> MLPHead:
        """Return a copy with `n_new` untrained classes behind the old ones, the same for the same seed."""
        grown = copy.deepcopy(self)
        grown.output = _grow_linear(self.output, n_new, seed=seed)
        return grown


class AttentionPoolHead(nn.Module):
    """A weighted mean over the places of the image, then a linear layer.

    A learned query says which places count. It starts at zero, where all places count alike: as average pooling.

    Parameters
    ----------
    n_features, n_classes : int
        Sizes of a token and of the output.
    dropout : float
        Share of the pooled features set to zero at random in training.
    queries : {"one", "per_class"}
        Whether all classes look at the same places or each at its own.
    n_heads : int or None
        Equal parts of the features, each with weights of its own; must divide `n_features`. None takes the largest of
        8, 4, 2 and 1 that does.
    """

    input_kind: ClassVar[str] = "tokens"

    def __init__(
        self, n_features: int, n_classes: int, *, dropout: float, queries: str = "one", n_heads: int | None = None
    ) -> None:
        super().__init__()
        self.n_heads = n_heads or math.gcd(n_features, 8)
        _check_heads("attention", f"the {n_features} features of the backbone", n_features, self.n_heads)
        self.per_class = queries == "per_class"
        self.norm = nn.LayerNorm(n_features)  # not every backbone scales its tokens: ConvNeXt and BEiT pool first
        self.query = nn.Parameter(torch.zeros(n_classes if self.per_class else 1, n_features))
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(n_features, n_classes)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map tokens (B, N, F) to logits (B, C)."""
        tokens = split_heads(self.norm(features), self.n_heads)
        query = split_heads(self.query.unsqueeze(0), self.n_heads).expand(len(tokens), -1, -1, -1)
        pooled = self.dropout(attend(query, tokens, tokens))  # (B, C or 1, F)
        if self.per_class:
            return (pooled * self.linear.weight).sum(dim=2) + self.linear.bias
        return self.linear(pooled.squeeze(1))

    def set_prior_bias(self, prior: np.ndarray) -> None:
        """Start each class at its frequency, see the function `set_prior_bias`."""
        set_prior_bias(self.linear, prior)

    def grow(self, n_new: int, *, seed: int | None = None) -> AttentionPoolHead:
        """Return a copy with `n_new` untrained classes behind the old ones, the same for the same seed."""
        grown = copy.deepcopy(self)
        grown.linear = _grow_linear(self.linear, n_new, seed=seed)
        if self.per_class:
            start = self.query.new_zeros(n_new, self.query.shape[1])
            grown.query = nn.Parameter(torch.cat([self.query.detach(), start]))
        return grown


class MLDecoderHead(nn.Module):
    """ML-Decoder: queries that stand for groups of classes look for them in the image.

    One decoder layer without self-attention; the queries are random and stay as they are. Each group's answer gives
    the logits of its classes.

    Parameters
    ----------
    n_features, n_classes : int
        Sizes of a token and of the output.
    dropout : float
        Share of the attention, of the hidden layer and of what each adds that is set to zero at random in training.
    n_groups : int
        Most groups there are; with no more classes than that, each class has its own.
    width, n_heads, feedforward : int
        Width of the decoder, parts of its attention (a divisor of `width`), and width of its hidden layer.

    References
    ----------
    Ridnik et al., "ML-Decoder: Scalable and Versatile Classification Head", WACV 2023.
    """

    input_kind: ClassVar[str] = "tokens"
    queries: torch.Tensor

    def __init__(
        self,
        n_features: int,
        n_classes: int,
        *,
        dropout: float = 0.1,
        n_groups: int = 100,
        width: int = 768,
        n_heads: int = 8,
        feedforward: int = 2048,
    ) -> None:
        super().__init__()
        _check_heads("ml_decoder", f"its width of {width}", width, n_heads)
        self.max_groups = n_groups
        group_size = math.ceil(n_classes / n_groups)
        self.project = nn.Sequential(nn.Linear(n_features, width), nn.ReLU())
        self.register_buffer("queries", torch.randn(math.ceil(n_classes / group_size), width))
        self.attention = CrossAttention(width, n_heads, dropout=dropout)
        self.attention_norm = nn.LayerNorm(width)
        self.feedforward = nn.Sequential(
            nn.Linear(width, feedforward), nn.ReLU(), nn.Dropout(dropout), nn.Linear(feedforward, width)
        )
        self.feedforward_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.output = GroupLinear(width, n_classes, group_size=group_size)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map tokens (B, N, F) to logits (B, C)."""
        queries = self.queries.unsqueeze(0)  # (1, G, W)
        found = self.attention(queries, self.project(features))  # (B, G, W)
        groups = self.attention_norm(queries + self.dropout(found))
        groups = self.feedforward_norm(groups + self.dropout(self.feedforward(groups)))
        return self.output(groups)

    def set_prior_bias(self, prior: np.ndarray) -> None:
        """Start each class at its frequency, see the function `set_prior_bias`."""
        set_prior_bias(self.output, prior)

    def grow(self, n_new: int, *, seed: int | None = None) -> MLDecoderHead:
        """Return a copy with `n_new` untrained classes behind the old ones, each with its own group."""
        bias = _grow_bias(self.output.bias, n_new)
        if len(bias) > self.max_groups:
            raise InputError(
                "The head 'ml_decoder' takes new classes only while each class has a group of its own: with the new "
                f"ones there are {len(bias)}, and it has at most {self.max_groups} groups. Train a new network with "
                f"head_params={{'n_groups': {len(bias)}}} or more."
            )
        grown = copy.deepcopy(self)
        generator = _create_generator(seed)
        grown.queries = _append_random(self.queries, n_new, generator=generator)
        weight = _append_random(self.output.weight, n_new, scale=_NEW_WEIGHT_STD, generator=generator)
        grown.output.weight = nn.Parameter(weight)
        grown.output.bias = nn.Parameter(bias)
        return grown


def _check_heads(head: str, what: str, width: int, n_heads: int) -> None:
    if width % n_heads:
        raise InputError(
            f"The head {head!r} cannot split {what} in n_heads={n_heads} equal parts; "
            "choose an n_heads in head_params that divides it."
        )


@torch.no_grad()
def set_prior_bias(linear: nn.Linear | GroupLinear, prior: np.ndarray) -> None:
    """Start each class at its frequency, so that training does not spend its first epoch learning what is rare.

    Parameters
    ----------
    linear : Linear
        The layer that gives the logits.
    prior : ndarray of shape (n_classes,)
        Share of known images with the class; NaN (nothing known) counts as one half.
    """
    safe = np.clip(np.nan_to_num(prior, nan=0.5), 1e-3, 1 - 1e-3)
    linear.bias.copy_(torch.from_numpy(np.log(safe / (1 - safe))))


def set_dropout(head: nn.Module, dropout: float) -> None:
    """Give a head another dropout."""
    for module in head.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
        elif isinstance(module, CrossAttention):
            module.dropout = dropout


def _grow_linear(linear: nn.Linear, n_new: int, *, seed: int | None) -> nn.Linear:
    bias = _grow_bias(linear.bias, n_new)
    weight = _append_random(linear.weight, n_new, scale=_NEW_WEIGHT_STD, generator=_create_generator(seed))
    grown = copy.deepcopy(linear)
    grown.out_features, grown.weight, grown.bias = len(bias), nn.Parameter(weight), nn.Parameter(bias)
    return grown


def _create_generator(seed: int | None) -> torch.Generator | None:
    """Return a generator that draws the same on every machine; None is torch's global one."""
    return None if seed is None else torch.Generator().manual_seed(int(seed))  # numpy's, too


def _append_random(
    rows: torch.Tensor, n_new: int, *, scale: float = 1.0, generator: torch.Generator | None
) -> torch.Tensor:
    new = torch.randn(n_new, *rows.shape[1:], generator=generator, device="cpu") * scale  # the same as on any GPU
    return torch.cat([rows.detach(), new.to(rows)])


def _grow_bias(bias: torch.Tensor, n_new: int) -> torch.Tensor:
    check_parameters("grow", {"n_new": n_new}, {"n_new": [Interval(int, 1)]})
    start = math.log(_NEW_CLASS_PRIOR / (1 - _NEW_CLASS_PRIOR))
    return torch.cat([bias.detach(), bias.new_full((n_new,), start)])


Head = LinearHead | MLPHead | AttentionPoolHead | MLDecoderHead
HEADS: dict[str, type[Head]]
HEADS = {"linear": LinearHead, "mlp": MLPHead, "attention": AttentionPoolHead, "ml_decoder": MLDecoderHead}


def _is_widths(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) > 0 and all(Interval(int, 1).accepts(v) for v in value)


_HEAD_PARAMS: dict[str, dict[str, list[Constraint]]] = {
    "linear": {},
    "mlp": {
        "hidden": [Check(_is_widths, "a list of at least one integer >= 1")],
        "activation": [Choice(tuple(ACTIVATIONS))],
    },
    "attention": {"queries": [Choice(("one", "per_class"))], "n_heads": [Interval(int, 1), Choice((None,))]},
    "ml_decoder": {name: [Interval(int, 1)] for name in ("n_groups", "width", "n_heads", "feedforward")},
}


def check_head_params(head: str | None, head_params: Mapping[str, Any] | None) -> None:
    """Refuse keywords that a head does not take, and values that it cannot use.

    Parameters
    ----------
    head : {"linear", "mlp", "attention", "ml_decoder"} or None
    head_params : mapping or None

    Examples
    --------
    >>> check_head_params("mlp", {"hidden": (4096, 512), "activation": "tanh"})
    >>> check_head_params("mlp", {"width": 512})
    Traceback (most recent call last):
    multilabelkit.errors.InputError: The head 'mlp' takes no head_params['width']. It takes 'hidden', 'activation'.
    """
    check_parameters("create_head", {"head": head}, {"head": [Choice((*HEADS, None))]})
    allowed = {} if head is None else _HEAD_PARAMS[head]
    for name in head_params or {}:
        if name not in allowed:
            known = ", ".join(map(repr, allowed)) or "none"
            raise InputError(
                f"The head {head!r} takes no head_params[{name!r}].{suggest(str(name), allowed)} It takes {known}."
            )
    given = dict(head_params or {})
    check_parameters("head_params", given, {name: allowed[name] for name in given})


def create_head(
    head: str, *, n_features: int, n_classes: int, dropout: float, head_params: Mapping[str, Any] | None = None
) -> Head:
    """Create a new head by name.

    Parameters
    ----------
    head : {"linear", "mlp", "attention", "ml_decoder"}
    n_features : int
        Width of the features, or of each token if the head's `input_kind` is "tokens".
    n_classes : int
        Number of logits.
    dropout : float
        Share set to zero at random in training, where the head says.
    head_params : mapping or None
        Keywords of the head: "hidden" and "activation" of "mlp", "queries" and "n_heads" of "attention", "n_groups",
        "width", "n_heads" and "feedforward" of "ml_decoder".

    Returns
    -------
    head : LinearHead, MLPHead, AttentionPoolHead or MLDecoderHead

    Examples
    --------
    >>> head = create_head("mlp", n_features=8, n_classes=3, dropout=0.2, head_params={"hidden": [16]})
    >>> head(torch.zeros(2, 8)).shape
    torch.Size([2, 3])
    """
    check_parameters("create_head", {"head": head}, {"head": [Choice(tuple(HEADS))]})
    check_head_params(head, head_params)
    return HEADS[head](n_features, n_classes, dropout=dropout, **(head_params or {}))
