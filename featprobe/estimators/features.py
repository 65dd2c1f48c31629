"""Images to embeddings as a scikit-learn transformer: the numbers that `featprobe extract` caches."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from featprobe.errors import FeatprobeError
from featprobe.estimators.faults import EstimatorError, as_value_error
from featprobe.estimators.images import GivenImages, images_of
from featprobe.estimators.memo import MEMO, read_rows, write_rows
from featprobe.records import DENSE_POOLINGS, PRECISIONS, PREPROCESSING_RULES, Recipe, sha256_json

if TYPE_CHECKING:
    from featprobe.backbones import Backbone

LOADED_MOST: Final = 2
"""Backbones that stay in memory, so that every fold of a cross-validation needn't read the weights again."""

_LOADED: OrderedDict[str, Any] = OrderedDict()
_LOCK = threading.RLock()


class FeatureExtractor(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Embeddings of images by a frozen backbone.

    `X`, for `fit` and `transform`: a list, array or pandas Series of paths; a list of uint8 arrays [H, W] or
    [H, W, 3], of any sizes; one uint8 array [N, H, W] or [N, H, W, 3]; PIL images. The parameters are the flags of
    `featprobe extract`, with its rules for downloads (FEATPROBE_OFFLINE=1 forbids them); None is its default.
    Embeddings are equal to those that it caches for the same file up to the rounding of batches of other sizes, and
    to the last bit where the batches are the same.

    Nothing is learnt from `X`: `fit` loads the weights and resolves the preprocessing. What was computed is kept in
    memory by the content of the image (at most 256 MiB in a process), so that cross-validation runs the backbone
    once; with `cache`, a folder, it is kept on disk too, for other processes and later days.

    After `fit`: `recipe_`, everything that can change an embedding (its `images` are nobody's); `key_`, the pooling,
    or LAYER/POOLING; `n_features_out_`. Unreadable images are an error: a row can't be left out here.
    """

    def __init__(
        self,
        backbone: str = "dinov2_vits14",
        *,
        weights: str = "pretrained",
        pooling: str | None = None,
        layer: str | None = None,
        preprocessing: str | None = None,
        image_size: int | None = None,
        batch_size: int | None = None,
        device: str = "auto",
        precision: str = "fp32",
        cache: str | Path | None = None,
    ) -> None:
        self.backbone = backbone
        self.weights = weights
        self.pooling = pooling
        self.layer = layer
        self.preprocessing = preprocessing
        self.image_size = image_size
        self.batch_size = batch_size
        self.device = device
        self.precision = precision
        self.cache = cache

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn's checks and meta-estimators ask for."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        return tags

    def fit(self, X: Any, y: Any = None) -> Self:
        """Load the weights and resolve the preprocessing; `X` is looked at only to see that it holds images.

        Raises EstimatorError (a ValueError) for parameters or an X that can't be used, and for weights that can't be
        had.
        """
        del y
        images_of(X)
        with as_value_error():
            backbone = self._loaded()
            self.key_, self.recipe_ = self._resolved(backbone)
            self.n_features_out_ = int(backbone.dim(self.key_))
        return self

    def transform(self, X: Any) -> npt.NDArray[np.float32]:
        """float32 [N, D]."""
        check_is_fitted(self, "recipe_")
        images = images_of(X)
        with as_value_error():
            hashes = images.hashes()
            rows = self._rows(images, hashes)
            return np.stack([rows[value] for value in hashes])

    def get_feature_names_out(self, input_features: Any = None) -> npt.NDArray[Any]:
        """BACKBONE_0, BACKBONE_1, ..., [D]."""
        del input_features
        check_is_fitted(self, "recipe_")
        return np.array([f"{self.backbone}_{k}" for k in range(self.n_features_out_)], dtype=object)

    def _rows(self, images: GivenImages, hashes: list[str]) -> dict[str, npt.NDArray[np.float32]]:
        """Hash -> embedding of every image, from memory, from disk, or from the backbone."""
        key = sha256_json([self.recipe_.images_free, self.key_])
        root = None if self.cache is None else Path(self.cache).expanduser()
        rows = MEMO.get(key, hashes)
        if root is not None:
            missing = [value for value in hashes if value not in rows]
            rows |= read_rows(root, key, missing) if missing else {}
        fresh = self._computed(images, hashes, set(rows))
        if fresh and root is not None:
            write_rows(root, key, fresh)
        rows |= fresh
        MEMO.put(key, rows)
        return rows

    def _computed(
        self, images: GivenImages, hashes: list[str], known: set[str]
    ) -> dict[str, npt.NDArray[np.float32]]:
        first = {value: row for row, value in reversed(list(enumerate(hashes))) if value not in known}
        if not first:
            return {}
        from featprobe.stages.embedding import embedded
        from featprobe.stages.machine import keep_freed_memory, pick_device

        device = pick_device(self.device)
        keep_freed_memory(device)
        rows = np.array(sorted(first.values()), dtype=np.int64)
        with _LOCK:
            found = embedded(
                images,
                rows,
                self._loaded(self.recipe_.weights),
                self.recipe_,
                self.key_,
                device=device,
                batch_size=self.batch_size,
            )
        if found.quarantined:
            row, reason = found.quarantined[0]
            raise EstimatorError(
                f"{len(found.quarantined)} of {len(hashes)} images can't be read",
                f"the first is {images.samples.path[row]}: {reason}",
                "leave them out of X; featprobe inspect lists all of a data set",
            )
        return {hashes[row]: found.table[at] for at, row in enumerate(found.rows.tolist())}

    def _resolved(self, backbone: Backbone) -> tuple[str, Recipe]:
        """(the key that is taken, the recipe)."""
        from featprobe.stages.extract import recipe_for
        from featprobe.stages.rules import resolved_rule
        from featprobe.stages.sources import Source

        key = backbone.canonical(f"{self.layer or 'last'}/{self.pooling or backbone.info.default_pooling}")
        if key.rpartition("/")[2] in DENSE_POOLINGS:
            raise EstimatorError(
                f"pooling={self.pooling!r} keeps the patches of an image apart",
                "a transformer gives one row for each image",
                "use pooling='mean', or 'gap' for a CNN",
            )
        rule = resolved_rule(self._config(), backbone, self.image_size)
        nobody = GivenImages(())
        source = Source(nobody, nobody.samples, "", {})
        return key, recipe_for(source, backbone, rule, precision=self.precision, storage="float32")

    def _config(self) -> Any:
        """The extraction that these parameters ask for; EstimatorError for a value that no flag takes."""
        from featprobe.config import ExtractConfig

        for name, value, known in (
            ("preprocessing", self.preprocessing, (None, *PREPROCESSING_RULES)),
            ("precision", self.precision, PRECISIONS),
        ):
            if value not in known:
                raise EstimatorError(f"{name} is {value!r}", f"known: {', '.join(map(str, known))}")
        return ExtractConfig(
            backbone=(self.backbone,),
            weights=(str(self.weights),),
            pooling=() if self.pooling is None else (self.pooling,),
            layer=() if self.layer is None else (self.layer,),
            preprocessing=self.preprocessing,
            image_size=() if self.image_size is None else (self.image_size,),
            batch_size=self.batch_size,
            device=self.device,
            precision=self.precision,
        )

    def _loaded(self, wanted: str = "") -> Backbone:
        """The backbone with its weights, as an extraction loads it, from memory where it was loaded before.

        `wanted`: their SHA-256, where they must be the ones that `fit` found.
        """
        config = self._config()
        name = sha256_json(
            [self.backbone, str(self.weights), self.pooling, self.layer, _stamp(str(self.weights))]
        )
        with _LOCK:
            if name not in _LOADED:
                from featprobe.stages.extract import load_backbone
                from featprobe.stages.sources import backbone_runs

                _LOADED[name] = load_backbone(config, backbone_runs(config)[0], seed=config.seed)
                while len(_LOADED) > LOADED_MOST:
                    _LOADED.popitem(last=False)
            _LOADED.move_to_end(name)
            backbone: Backbone = _LOADED[name]
        if wanted and backbone.weights_sha256 != wanted:
            raise FeatprobeError(
                f"the weights {self.weights!r} of {self.backbone} have changed since fit",
                f"SHA-256 {backbone.weights_sha256[:12]} against {wanted[:12]}",
                "fit again",
            )
        return backbone


def _stamp(weights: str) -> list[Any]:
    """What changes when the place that weights are read from changes: file, folder, permission to download."""
    import os

    path = Path(weights)
    about = path.stat() if path.is_file() else None
    seen = [str(path.resolve()), about.st_mtime_ns, about.st_size] if about else []
    return [*seen, os.environ.get("FEATPROBE_WEIGHTS_DIR", ""), os.environ.get("FEATPROBE_OFFLINE", "")]
