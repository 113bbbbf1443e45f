"""A loaded detector with its class names and the size of its input images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from PIL import Image
from torch import Tensor, nn

from datasets.coco import PUBLISHED_SCALES, make_coco_transforms
from datasets.loading.byte_images import IMAGENET, Normalization
from datasets.transforms import Transform
from models.panoptic import SEGMENT_THRESHOLDS
from util.category_ids import CategoryIds, OwnId
from util.cli.suggestions import did_you_mean
from util.errors import UserError
from util.options import NEW_FLAG_DEFAULTS

# By classification loss: scores of the focal loss are lower, see `models.panoptic`.
_DEFAULT_THRESHOLDS = {"ce": 0.5, "focal": 0.2}


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model in evaluation mode, with its class names and the size of its input images.

    Attributes:
        model: takes a batch (B, 3, H, W).
        num_classes: number of classes without "no object".
        categories: class names by category id, where known.
        unused_ids: category ids of rows of the classification head that belong to no class: they
            were not trained, and are not predicted.
        is_thing: thing (True) or stuff by category id, where known.
        category_ids: original id of the class in each row of the classification head, for
            `models.postprocess.PostProcess`; None: category ids are row numbers.
        short_side: short side of input images in pixels.
        max_size: maximum long side of input images in pixels.
        normalization: mean and standard deviation of input images.
        best_threshold: score with the best F1 in the evaluation of these weights during training;
            None: not known.
        segment_threshold: minimum score of segments in panoptic maps.
    """

    model: nn.Module
    num_classes: int
    categories: Mapping[int, str]
    unused_ids: frozenset[int] = frozenset()
    is_thing: Mapping[int, bool] = field(default_factory=dict)
    category_ids: Sequence[OwnId] | None = None
    short_side: int = max(PUBLISHED_SCALES)
    max_size: int = NEW_FLAG_DEFAULTS["max_size"]
    normalization: Normalization = IMAGENET
    best_threshold: float | None = None
    segment_threshold: float = SEGMENT_THRESHOLDS["ce"]

    @property
    def cls_loss(self) -> str:
        """Classification loss, ``ce`` or ``focal``: determines how logits become scores."""
        return str(getattr(self.model, "cls_loss", "ce"))

    @property
    def threshold(self) -> float:
        """Default minimum score of detections: ``best_threshold``, else 0.5 (focal: 0.2)."""
        best = self.best_threshold
        return _DEFAULT_THRESHOLDS[self.cls_loss] if best is None else best

    @property
    def is_panoptic(self) -> bool:
        """Whether the model predicts panoptic maps: it has masks, and knows things and stuff."""
        return bool(self.is_thing) and hasattr(self.model, "mask_head")

    def transform(self) -> Transform:
        """Scales and normalizes an image, as in the evaluation of the model."""
        return make_coco_transforms(
            "val", [self.short_side], self.max_size, normalization=self.normalization
        )

    def batch_of(self, image: Image.Image) -> Tensor:
        """The image as a batch (1, 3, H, W), scaled and normalized, on the model's device."""
        device = next(self.model.parameters()).device
        batch: Tensor = self.transform()(image, None)[0][None].to(device)
        return batch

    def name_of(self, category_id: int) -> str:
        """The class name of a category id, or ``class <id>`` if it is unknown."""
        return self.categories.get(category_id, f"class {category_id}")

    def has_class(self, category_id: int) -> bool:
        """Whether a category id can be a class: only ``unused_ids`` cannot."""
        return category_id not in self.unused_ids

    def rows(self) -> CategoryIds:
        """Category ids by row of the classification head."""
        return CategoryIds(tuple(self.category_ids or range(self.num_classes)))

    def ids_of(self, names: Sequence[str]) -> set[int]:
        """The category ids of classes by name.

        Raises:
            UserError: a class is unknown.
        """
        known = {i: self.name_of(i) for i in self.categories or self.rows().by_row}
        listed = list(dict.fromkeys(known.values()))
        for name in names:
            if name not in listed:
                hint = did_you_mean(name, listed) or f"; its classes are {', '.join(listed)}"
                raise UserError(f"the model has no class {name!r}{hint}")
        return {i for i, name in known.items() if name in names}
