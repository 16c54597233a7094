"""Images in, features of a backbone out."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted
from torch import nn

from multilabelkit.checks import Check, Constraint, check_parameters
from multilabelkit.data.bad_images import check_files_exist, locate_error, warn_of_failures
from multilabelkit.data.images import COLOR_MODES, MAX_PIXELS, InputSpec, check_images
from multilabelkit.data.loading import PixelReader
from multilabelkit.data.pixel_cache import prepare_folder
from multilabelkit.data.threads import count_workers
from multilabelkit.errors import ImageDecodeError
from multilabelkit.features import compute_features
from multilabelkit.inference import choose_device, choose_dtype, explain_memory
from multilabelkit.nn.backbones import OWN_BACKBONES
from multilabelkit.nn.embedding import create_embedding_model
from multilabelkit.nn.network import Network
from multilabelkit.reading import (
    IMAGE_PARAMETERS,
    UsableImages,
    check_backbone_params,
    create_reader,
    draw_seed,
    list_bad_images,
)

if TYPE_CHECKING:
    from sklearn.utils import Tags

_PARAMETERS: dict[str, list[Constraint]] = {
    **IMAGE_PARAMETERS,
    "layer": [Check(lambda v: v is None or isinstance(v, str), "None or the name of a layer of the backbone")],
}


class ImageEmbedder(TransformerMixin, BaseEstimator):
    """Turn images into features of a backbone, for any estimator that takes a table of numbers.

    `fit` learns nothing from the images: it makes the network, and `transform` runs them through it. Each image is
    computed once: features are kept, and found again by the content of the image, in another fold, another search and
    another process.

    Parameters
    ----------
    backbone : str, Module or callable, default="resnet50"
        *Model, often set.* The network that turns images into features: a name from ``timm.list_models()``;
        "small_cnn" or "plain_cnn"; a `torch.nn.Module` of your own (fit works on a copy); or a class or function that
        returns one. Maps and tokens that yours returns are averaged.
    image_size : int, default=None
        *Images, often set.* Side in pixels of the square that images become. None takes the backbone's own (150 for
        small_cnn, 224 for your own).
    color_mode : {"rgb", "grey"}, default="rgb"
        *Images.* What images are converted to.
    resize : {"squish", "pad", "crop"}, default="squish"
        *Images.* How an image becomes square: its aspect ratio changes; or it is kept, with black added on two sides;
        or it is kept and only the middle square is seen, which can cut the labelled thing away.
    normalization : {"pretrained", "unit"} or (mean, std), default="pretrained"
        *Images.* How pixels are scaled: as the backbone's weights expect, by 1/255 alone, or by your own mean and
        standard deviation per channel, in units of pixel / 255.
    on_bad_image : {"raise", "nan"}, default="raise"
        *Images, often set.* What happens where images cannot be decoded. "raise": an error that lists all of them.
        "nan": transform warns once and gives them rows of NaN.
    max_pixels : int, default=89478485
        *Images, rarely set.* A file of more pixels is refused before it is decoded.
    decoder : {"auto", "pillow"}, default="auto"
        *Images, rarely set.* "auto" leaves plain JPEG files on this machine to simplejpeg, which is faster and gives
        the same pixels; URLs, bytes and all else go to Pillow. "pillow": everything does, as is best for files that
        strangers made.
    feature_cache : {"auto", "memory"}, path or None, default="auto"
        *Images, rarely set.* Where features are kept. "auto" is the user's cache folder (``MULTILABELKIT_CACHE`` moves
        it; 20 GiB at most), "memory" this process (1 GiB at most), None nowhere.
    pretrained : bool or path, default=True
        *Model, often set.* True takes the weights that timm downloads, False random ones, a path those of a local
        checkpoint (safetensors, or a torch state dict). small_cnn, plain_cnn and classes or functions of your own
        have no weights to download: theirs are random, unless they load some themselves.
    backbone_params : dict, default=None
        *Model, rarely set.* Keywords for timm, or for the class or function given as `backbone`.
    layer : str, default=None
        *Model.* A layer of the backbone whose output to take, by its name in ``backbone.named_modules()``, such as
        "layer3"; maps are averaged over their places, and tokens over all of them, class tokens too. None takes the
        features that the backbone itself gives, pooled as it was trained to.
    batch_size : int, default=32
        *Runtime.* Images in a forward pass. Features depend on it by rounding errors, and are kept for each.
    device : str, default="auto"
        *Runtime.* A torch device; "auto" takes a GPU if there is one.
    precision : {"auto", "bf16", "fp16", "fp32"}, default="auto"
        *Runtime.* What the backbone computes in; "auto" is bf16 where the processor multiplies it natively.
    num_workers : int, default=None
        *Runtime, rarely set.* Threads that decode images; None is one per processor, at most 8; 0 decodes in between.
    random_state : int, RandomState or None, default=None
        *Runtime.* Seed of random weights; pretrained ones do not depend on it. With None each fit draws other random
        weights, so that no fold of a cross-validation finds the features of another.

    Attributes
    ----------
    network_ : Network
        The torch module: the backbone, without a head.
    input_spec_ : InputSpec
        The size, channels and scaling of its input.
    n_features_out_ : int
        The number of features of an image.

    See Also
    --------
    multilabelkit.MultiLabelImageClassifier : Fine-tunes the backbone, which these features leave as it is.

    Examples
    --------
    >>> from multilabelkit.datasets import make_shapes
    >>> images = make_shapes(20, random_state=0).images
    >>> embedder = ImageEmbedder("plain_cnn", image_size=32, feature_cache="memory", random_state=0)
    >>> embedder.fit_transform(images).shape
    (20, 128)
    """

    def __init__(
        self,
        backbone: str | nn.Module | Callable[..., nn.Module] = "resnet50",
        *,
        image_size: int | None = None,
        color_mode: str = "rgb",
        resize: str = "squish",
        normalization: str | tuple = "pretrained",
        on_bad_image: str = "raise",
        max_pixels: int = MAX_PIXELS,
        decoder: str = "auto",
        feature_cache: str | os.PathLike | None = "auto",
        pretrained: bool | str | os.PathLike = True,
        backbone_params: Mapping[str, Any] | None = None,
        layer: str | None = None,
        batch_size: int = 32,
        device: str | torch.device = "auto",
        precision: str = "auto",
        num_workers: int | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.backbone = backbone
        self.image_size = image_size
        self.color_mode = color_mode
        self.resize = resize
        self.normalization = normalization
        self.on_bad_image = on_bad_image
        self.max_pixels = max_pixels
        self.decoder = decoder
        self.feature_cache = feature_cache
        self.pretrained = pretrained
        self.backbone_params = backbone_params
        self.layer = layer
        self.batch_size = batch_size
        self.device = device
        self.precision = precision
        self.num_workers = num_workers
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> ImageEmbedder:
        """Check the parameters and make the network; no image is read.

        Parameters
        ----------
        X : sequence of n_samples paths, URLs, encoded bytes, PIL images, arrays or tensors
        y : ignored

        Returns
        -------
        self : object

        Raises
        ------
        InputError
            If a parameter or X cannot be used, or the weights cannot be had.
        """
        self._check_parameters()
        check_images(X)
        self._model = create_embedding_model(
            self.backbone,
            layer=self.layer,
            in_chans=COLOR_MODES[self.color_mode],
            image_size=self.image_size,
            normalization=self.normalization,
            pretrained=self.pretrained,
            backbone_params=self.backbone_params or {},
            seed=draw_seed(self.random_state) if self._draws_weights() else 0,
        )
        self.input_spec_: InputSpec = dataclasses.replace(self._model.spec, resize=self.resize)
        self.n_features_out_ = self._model.n_features
        return self

    @property
    def network_(self) -> Network:
        """The network; its `embed` gives the features."""
        check_is_fitted(self)
        return self._model.network

    def transform(self, X: Any) -> np.ndarray:
        """Return the features of images.

        Parameters
        ----------
        X : sequence of n_samples images, as for `fit`

        Returns
        -------
        features : ndarray of shape (n_samples, n_features_out_), float32
            One row per image, in order, and bit for bit the same whatever images stand beside it. A DataFrame after
            ``set_output(transform="pandas")``.

        Raises
        ------
        ImageDecodeError
            If images cannot be decoded; it lists all of them.
        """
        check_is_fitted(self)
        self._check_parameters()
        sources = check_images(X)
        keep_bad = self.on_bad_image == "nan"
        reader = create_reader(self, sources, size=self.input_spec_.size, spec=self.input_spec_, keep_bad=keep_bad)
        try:
            if not keep_bad:
                check_files_exist(sources)
            features = self._compute(reader)
        except ImageDecodeError as error:
            images = UsableImages(sources, np.arange(len(sources)))
            list_bad_images(self, images, advice=", or set on_bad_image='nan' to have rows of NaN for what is bad")
            raise locate_error(error, sources) from error
        if reader.failures:
            failures = sorted(reader.failures.items())
            features[[row for row, _ in failures]] = np.nan
            consequence = "Their rows are NaN, as on_bad_image='nan' asks."
            warn_of_failures(failures, n_images=len(sources), consequence=consequence)
        return features

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Return the names of the features: that of the backbone, that of the layer if one is set, and a number.

        Parameters
        ----------
        input_features : ignored

        Returns
        -------
        names : ndarray of shape (n_features_out_,), str objects
        """
        check_is_fitted(self)
        parts = [_name_backbone(self.backbone), *([] if self.layer is None else [self.layer])]
        return np.array(["_".join([*parts, str(number)]) for number in range(self.n_features_out_)], dtype=object)

    def _compute(self, reader: PixelReader) -> np.ndarray:
        spec, device = self.input_spec_, choose_device(self.device)
        with explain_memory(batch_size=self.batch_size, spec=spec, device=device):
            return compute_features(
                lambda: self.network_.to(device),
                reader,
                get_fingerprint=self._model.compute_fingerprint,
                spec=spec,
                device=device,
                dtype=choose_dtype(self.precision, device),
                batch_size=self.batch_size,
                num_workers=count_workers(self.num_workers),
                feature_cache=self.feature_cache,
            )

    def _check_parameters(self) -> None:
        check_parameters(type(self).__name__, self.get_params(deep=False), _PARAMETERS)
        if isinstance(self.backbone, str):
            check_backbone_params(self.backbone_params or {}, owner="embedder")
        if self.feature_cache not in ("auto", "memory", None):
            prepare_folder(self.feature_cache, parameter="feature_cache")

    def _draws_weights(self) -> bool:
        """Tell whether the weights are random, as far as can be known."""
        if isinstance(self.backbone, nn.Module) or not isinstance(self.pretrained, bool):
            return False
        return not self.pretrained or not isinstance(self.backbone, str) or self.backbone in OWN_BACKBONES

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_model")

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        tags.non_deterministic = self.random_state is None and self._draws_weights()
        return tags


def _name_backbone(backbone: Any) -> str:
    if isinstance(backbone, str):
        return backbone
    return getattr(backbone, "__name__", type(backbone).__name__).lower()
