"""Freezing: which layers of the backbone are trained, from the top down, and keeping the others truly still."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from multilabelkit.checks import Choice, Interval, shorten
from multilabelkit.errors import InputError
from multilabelkit.nn.network import Network

Share = str | float  # "head", "all" or a fraction of the layers
Trainable = Share | Mapping[int, Share]

_NAMES = Choice(("head", "all"))
_FRACTION = Interval(float, 0, 1, open_low=True)
_WHOLE = Interval(int)

# Under this name a network remembers which parameters of its backbone came frozen: freezing must never open them.
_CAME_FROZEN = "_came_frozen"


def check_trainable(trainable: Any, *, max_epochs: int, has_head: bool = True) -> None:
    """Refuse a choice of what is trained that cannot be carried out, before any work is done.

    Parameters
    ----------
    trainable : {"head", "all"}, float or dict
        "head" freezes the whole backbone, "all" nothing, and a fraction in (0, 1] opens that share of the backbone's
        layers, from the top. A dict gives one of these from each epoch on; epochs count from 0, and before the first
        epoch named only the head is trained.
    max_epochs : int
        How many epochs are planned; each epoch of a dict must be among them.
    has_head : bool, default=True
        Whether the network has a head beside its backbone, without which "head" would train nothing.

    Raises
    ------
    InputError
        Says which value or epoch cannot be used.

    Examples
    --------
    >>> check_trainable({0: "head", 2: 0.6}, max_epochs=12)
    >>> check_trainable(1.5, max_epochs=12)
    Traceback (most recent call last):
    multilabelkit.errors.InputError: trainable must be "head", "all" or a fraction > 0 and <= 1 of the layers. Got 1.5
    instead.
    """
    if not isinstance(trainable, Mapping):
        _check_share(trainable, "trainable", advice="" if _is_number(trainable) else ", or a dict of these by epoch")
    elif not trainable:
        raise InputError('trainable is an empty dict. Name at least one epoch, as in {0: "head", 2: 0.6}.')
    else:
        for epoch, share in trainable.items():
            _check_epoch(epoch, max_epochs)
            _check_share(share, f"trainable in epoch {epoch}")
    if not has_head:
        _refuse_headless(find_trainable(trainable, epoch) for epoch in range(max_epochs))


def find_trainable(trainable: Trainable, epoch: int) -> Share:
    """Say what is trained in an epoch.

    Parameters
    ----------
    trainable : {"head", "all"}, float or dict
        As for `check_trainable`.
    epoch : int
        The epoch, from 0.

    Returns
    -------
    share : {"head", "all"} or float
        What `freeze` takes.

    Examples
    --------
    >>> [find_trainable({2: 0.6, 4: "all"}, epoch) for epoch in range(5)]
    ['head', 'head', 0.6, 0.6, 'all']
    """
    if isinstance(trainable, Mapping):
        begun = [start for start in trainable if start <= epoch]
        return trainable[max(begun)] if begun else "head"
    return trainable


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution or linear layer of a backbone, with what follows and belongs to it.

    Attributes
    ----------
    name : str
        Name of the convolution or linear layer inside the backbone.
    modules : list of Module
        The convolution or linear layer, then its norms and layer scales.
    parameters : list of Parameter
        Their parameters, and those that modules around them hold directly.
    """

    name: str
    modules: list[nn.Module] = field(default_factory=list)
    parameters: list[nn.Parameter] = field(default_factory=list)

    @property
    def is_open(self) -> bool:
        """Whether any parameter is trained."""
        return any(parameter.requires_grad for parameter in self.parameters)


def list_layers(backbone: nn.Module) -> list[Layer]:
    """List the layers of a backbone from its input to its output; each parameter is in exactly one.

    A layer is a module with a weight of two or more dimensions: a convolution, a linear or an attention layer. Vectors
    (norms, layer scales, learned activations) belong to the layer before them, so that freezing never parts a
    convolution from its batch norm. What a module with layers inside holds itself (the position embedding and class
    token of a vision transformer, the scale of a ConvNeXt block) belongs to the first of these layers, and is thus
    opened once all of that module is.

    Parameters
    ----------
    backbone : Module

    Returns
    -------
    layers : list of Layer

    Notes
    -----
    The order is that in which modules were assigned to their parents. In timm's ResNet, VGG, MobileNet, EfficientNet,
    DenseNet, ConvNeXt, Swin, ViT and Inception it is the order of the forward pass as well; of parallel branches (the
    shortcut of a residual block, the paths of RepVGG) one simply comes first. An own module whose ``__init__`` assigns
    its layers in another order than its ``forward`` uses them is frozen in the order of ``__init__``.

    Examples
    --------
    >>> backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3))
    >>> [(layer.name, len(layer.parameters)) for layer in list_layers(backbone)]
    [('0', 4), ('3', 2)]
    """
    layers: list[Layer] = []
    seen: set[nn.Parameter] = set()  # a parameter may be shared; it counts where it is met first
    waiting = Layer("")  # what belongs to the next layer
    for name, module in backbone.named_modules():
        own = [parameter for parameter in module.parameters(recurse=False) if parameter not in seen]
        seen.update(own)
        if not own and not _has_statistics(module):
            continue
        if any(parameter.ndim > 1 for parameter in module.parameters() if parameter not in seen):
            waiting.parameters.extend(own)
            continue
        if any(parameter.ndim > 1 for parameter in own) or (own and not layers):
            layers.append(Layer(name, waiting.modules, waiting.parameters))
            waiting = Layer("")
        target = layers[-1] if layers else waiting
        target.modules.append(module)
        target.parameters.extend(own)
    return layers


@dataclass(frozen=True)
class FreezeReport:
    """What `freeze` did.

    Attributes
    ----------
    n_layers, n_open : int
        Layers of the backbone, and how many of them are trained.
    first_open : str or None
        The lowest layer that is trained.
    last_frozen : str or None
        The layer below it; the topmost one if none is trained.
    n_frozen_above : int
        Frozen layers above `first_open`: they came frozen.
    n_params, n_frozen_params : int
        Parameters of the network, its head included, and how many of them are frozen.
    """

    n_layers: int
    n_open: int
    first_open: str | None
    last_frozen: str | None
    n_frozen_above: int
    n_params: int
    n_frozen_params: int

    def describe(self) -> str:
        """Put it into one sentence."""
        return f"{self._describe_layers()}; {self._describe_parameters()} are trained"

    def _describe_layers(self) -> str:
        n_frozen = self.n_layers - self.n_open
        if n_frozen == 0:
            return "No layer of the backbone is frozen"
        if self.n_open == 0:
            return f"All {self.n_layers} layers of the backbone are frozen"
        text = f"{n_frozen} of {self.n_layers} layers of the backbone {'is' if n_frozen == 1 else 'are'} frozen"
        if self.n_frozen_above == n_frozen:
            return f"{text}, as passed by the caller"
        above = f" and {self.n_frozen_above} above it, as passed by the caller" if self.n_frozen_above else ""
        return f"{text}, up to '{self.last_frozen}'{above}"

    def _describe_parameters(self) -> str:
        n_trained = self.n_params - self.n_frozen_params
        total = _count_in_words(self.n_params)
        if self.n_frozen_params == 0:
            return f"all {total} parameters"
        part = _count_in_words(n_trained)
        if part.endswith(" million"):  # then the total does so too
            part = part.removesuffix(" million")
        return f"{part} of {total} parameters"


def freeze(network: Network, trainable: Share) -> FreezeReport:
    """Open the top share of the backbone's layers to training, and freeze those below.

    It may be called again at any time with another share. Parameters that were frozen when it was first called, by the
    caller of the library in a module of his own, stay frozen always. The head is left as it is. Follow it with
    `set_train_mode`, without which frozen batch norms would still move.

    Parameters
    ----------
    network : Network
        Its parameters' ``requires_grad`` is set in place; a frozen one loses its gradient.
    trainable : {"head", "all"} or float
        What `find_trainable` returns. A fraction is rounded to whole layers, at least one.

    Returns
    -------
    report : FreezeReport

    Raises
    ------
    InputError
        If nothing would be left to train.

    Examples
    --------
    >>> network = Network(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)), nn.Linear(8, 2))
    >>> print(freeze(network, 0.5).describe())
    1 of 2 layers of the backbone is frozen, up to '0'; 602 of 826 parameters are trained
    """
    _check_share(trainable, "trainable")
    if network.head is None:
        _refuse_headless([trainable])
    kept = _recall_frozen(network)
    layers = list_layers(network.backbone)
    n_open = _count_open(trainable, len(layers))
    for place, layer in enumerate(layers):
        for parameter in layer.parameters:
            parameter.requires_grad_(place >= len(layers) - n_open and parameter not in kept)
            if not parameter.requires_grad:
                parameter.grad = None  # an optimiser would follow the last one for ever
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise InputError(
            f"Nothing is left to train: all layers that trainable={trainable!r} would open came frozen "
            "(requires_grad=False), and the network has no head. Open some of them before fit, or use a head."
        )
    return _report(network, layers)


def set_train_mode(network: Network, *, batch_norm: bool = True) -> None:
    """Put a network into training mode, except for what is frozen.

    A module all of whose parameters are frozen, and everything inside it, is put into eval mode: its batch norms keep
    their statistics bit by bit, and its dropout and drop-path rest. So is a batch norm without parameters that follows
    a frozen layer.

    Parameters
    ----------
    network : Network
    batch_norm : bool, default=True
        False leaves every batch norm in eval mode, also where its scale and shift are trained: statistics of small
        batches (below 16 images) do more harm than good.

    Examples
    --------
    >>> network = Network(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3)), nn.Linear(8, 2))
    >>> report = freeze(network, 0.5)
    >>> set_train_mode(network)
    >>> [module.training for module in network.backbone]
    [False, False, True]
    """
    network.train()
    for module in network.backbone.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()
    for layer in list_layers(network.backbone):
        if not layer.is_open:
            for module in layer.modules:
                module.eval()
    if not batch_norm:
        for module in network.modules():
            if _has_statistics(module):
                module.eval()


def _is_number(value: Any) -> bool:
    return Interval(float).accepts(value)


def _check_share(share: Any, what: str, *, advice: str = "") -> None:
    if not (_NAMES.accepts(share) or _FRACTION.accepts(share)):
        raise InputError(
            f'{what} must be "head", "all" or a fraction > 0 and <= 1 of the layers{advice}. Got {shorten(share)} '
            "instead."
        )


def _check_epoch(epoch: Any, max_epochs: int) -> None:
    if not _WHOLE.accepts(epoch) or epoch < 0:
        raise InputError(f"An epoch in trainable must be an integer >= 0. Got {shorten(epoch)} instead.")
    if epoch >= max_epochs:
        raise InputError(
            f"trainable names epoch {epoch}, but with max_epochs={max_epochs} the last one is {max_epochs - 1} (epochs "
            "count from 0). Raise max_epochs, or name an earlier epoch."
        )


def _refuse_headless(shares: list[Share] | Iterator[Share]) -> None:
    if "head" in shares:
        raise InputError(
            'trainable="head" would train nothing: the network has no head (head=None), its backbone gives the logits. '
            'Use trainable="all" or a fraction, from epoch 0 on.'
        )


def _has_statistics(module: nn.Module) -> bool:
    """Tell whether a module is a norm that follows its batches, of whatever class."""
    return getattr(module, "running_mean", None) is not None


def _recall_frozen(network: Network) -> set[nn.Parameter]:
    """Return the parameters that came frozen; the first call notes them, by name so that a copy remembers them too."""
    parameters = dict(network.backbone.named_parameters())
    if not hasattr(network, _CAME_FROZEN):
        names = frozenset(name for name, parameter in parameters.items() if not parameter.requires_grad)
        setattr(network, _CAME_FROZEN, names)
    came_frozen = getattr(network, _CAME_FROZEN)
    return {parameter for name, parameter in parameters.items() if name in came_frozen}


def _count_open(trainable: Share, n_layers: int) -> int:
    if isinstance(trainable, str):
        return n_layers if trainable == "all" else 0
    return max(1, int(trainable * n_layers + 0.5))


def _report(network: Network, layers: list[Layer]) -> FreezeReport:
    places = [place for place, layer in enumerate(layers) if layer.is_open]
    n_below = places[0] if places else len(layers)
    parameters = list(network.parameters())
    return FreezeReport(
        n_layers=len(layers),
        n_open=len(places),
        first_open=layers[n_below].name if places else None,
        last_frozen=layers[n_below - 1].name if n_below else None,
        n_frozen_above=len(layers) - n_below - len(places),
        n_params=sum(parameter.numel() for parameter in parameters),
        n_frozen_params=sum(parameter.numel() for parameter in parameters if not parameter.requires_grad),
    )


def _count_in_words(number: int) -> str:
    return f"{number / 1e6:.2f} million" if number >= 999_995 else f"{number:,}"
