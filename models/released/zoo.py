"""Table of the released models: architecture, weights file and published metrics."""

from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from models.released.coco_categories import CATEGORY_NAMES, RELEASED_NUM_CLASSES

BASE_URL = "https://dl.fbaipublicfiles.com/detr/"

_DETECTION_SCHEDULE = "500 epochs, learning rate ÷ 10 after 400"
_SEGMENTATION_SCHEDULE = (
    "300 epochs for the detector, then 25 epochs for the mask head with the detector frozen "
    "(learning rate ÷ 10 after 15)"
)


@dataclass(frozen=True)
class ReleasedModel:
    """A released model; metrics as published for COCO val2017.

    Attributes:
        title: short description.
        backbone: name of the torchvision ResNet.
        file: name of the weights file at `BASE_URL`; ends in the first digits of its SHA-256.
        size_mb: size of the file in MB.
        num_parameters: number of parameters, including frozen parameters, without batch statistics.
        schedule: training schedule.
        dilation: DC5: dilated last stage of the backbone.
        masks: has a mask head.
        minimal: the minimal model of the paper (`models.demo`), not `models.detr`.
        box_ap: box AP in percent.
        box_ap50: box AP at IoU 0.5 in percent.
        mask_ap: mask AP in percent.
        pq: panoptic quality in percent.
        remark: note for the model card.
    """

    title: str
    backbone: str
    file: str
    size_mb: int | None
    num_parameters: int
    schedule: str
    dilation: bool = False
    masks: bool = False
    minimal: bool = False
    box_ap: float | None = None
    box_ap50: float | None = None
    mask_ap: float | None = None
    pq: float | None = None
    remark: str = ""

    @property
    def url(self) -> str:
        """URL of the weights file."""
        return BASE_URL + self.file

    @property
    def sha256_prefix(self) -> str:
        """First eight hexadecimal digits of the SHA-256 of the file."""
        return self.file.removesuffix(".pth").rpartition("-")[2]

    @property
    def categories(self) -> str:
        """Category table: ``coco`` (things) or ``coco_panoptic`` (things and stuff)."""
        return "coco_panoptic" if self.masks else "coco"

    @property
    def num_classes(self) -> int:
        """Number of classes, without the no-object class."""
        return RELEASED_NUM_CLASSES[self.categories]

    @property
    def category_names(self) -> dict[int, str]:
        """Category names by label."""
        return CATEGORY_NAMES[self.categories]


# Size of the weights file in MB, and number of parameters.
_BOX_SIZES = {"50": (159, 41_524_768), "101": (232, 60_464_672)}
_MASK_SIZES = {"50": (165, 42_899_288), "101": (237, 61_839_192)}


def _released(
    depth: str, digest: str, *, dilation: bool = False, masks: bool = False, **scores: Any
) -> ReleasedModel:
    """A released DETR.

    Args:
        depth: number of layers of the ResNet.
        digest: end of the file name.
        dilation, masks, scores: fields of `ReleasedModel`.
    """
    variant = f"r{depth}" + ("-dc5" if dilation else "") + ("-panoptic" if masks else "")
    backbone = f"a dilated ResNet-{depth} (DC5)" if dilation else f"ResNet-{depth}"
    size_mb, num_parameters = (_MASK_SIZES if masks else _BOX_SIZES)[depth]
    return ReleasedModel(
        f"DETR{' for panoptic segmentation' if masks else ''} with {backbone}",
        f"resnet{depth}",
        f"detr-{variant}-{digest}.pth",
        size_mb,
        num_parameters,
        _SEGMENTATION_SCHEDULE if masks else _DETECTION_SCHEDULE,
        dilation,
        masks,
        **scores,
    )


# By torch.hub entry point.
RELEASED_MODELS: dict[str, ReleasedModel] = {
    "detr_resnet50": _released("50", "e632da11", box_ap=42.0, box_ap50=62.4),
    "detr_resnet50_dc5": _released("50", "f0fb7ef5", dilation=True, box_ap=43.3, box_ap50=63.1),
    "detr_resnet101": _released("101", "2c7b67e5", box_ap=43.5, box_ap50=63.8),
    "detr_resnet101_dc5": _released("101", "a2e86def", dilation=True, box_ap=44.9, box_ap50=64.7),
    "detr_resnet50_panoptic": _released(
        "50", "00ce5173", masks=True, box_ap=38.8, mask_ap=31.1, pq=43.4
    ),
    "detr_resnet50_dc5_panoptic": _released(
        "50", "da08f1b1", dilation=True, masks=True, box_ap=40.2, mask_ap=31.9, pq=44.6
    ),
    "detr_resnet101_panoptic": _released(
        "101", "40021d53", masks=True, box_ap=40.1, mask_ap=33.0, pq=45.1
    ),
    "detr_demo": ReleasedModel(
        "The paper's minimal DETR with ResNet-50",
        "resnet50",
        "detr_demo-da2a99e9.pth",
        size_mb=None,
        num_parameters=41_459_616,
        schedule="not published",
        minimal=True,
        remark="about 40 box AP according to its authors",
    ),
}
_BY_FILE = {released.file: released for released in RELEASED_MODELS.values()}


def released_by_file(path: str) -> ReleasedModel | None:
    """The released model whose weights file has the name of a file; None if there is none.

    Args:
        path: path or URL of the file.
    """
    return _BY_FILE.get(PurePath(path).name)
