"""Convert key names of Detectron2: a ResNet, or a DETR trained in Detectron2."""

from collections.abc import Mapping

from torch import Tensor

from export.key_names.renaming import Renaming, inside_detector, rename_all, with_prefixes
from models.weights import DETECTOR_PREFIX

# torchvision's names and Detectron2's. There, the norm is a submodule of the convolution; its pairs
# come first, so that the other keys of the convolution match afterwards.
_RESNET = [
    ("bn1.{name*}", "stem.conv1.norm.{name*}"),
    ("conv1.{name*}", "stem.conv1.{name*}"),
    ("layer{i}.{k}.bn{j}.{name*}", "res{i+1}.{k}.conv{j}.norm.{name*}"),
    ("layer{i}.{k}.conv{j}.{name*}", "res{i+1}.{k}.conv{j}.{name*}"),
    ("layer{i}.{k}.downsample.1.{name*}", "res{i+1}.{k}.shortcut.norm.{name*}"),
    ("layer{i}.{k}.downsample.0.{name*}", "res{i+1}.{k}.shortcut.{name*}"),
]
_BACKBONE = Renaming(
    [
        *with_prefixes(_RESNET, "backbone.0.body.", "backbone.0.backbone."),
        ("{rest*}", "{rest*}"),
    ]
)
_BARE_RESNET = Renaming(with_prefixes(_RESNET, "", ""))
_STEM = "stem.conv1.weight"
# Rows of a head for COCO's 80 classes, without the gaps in the category ids, and "no object".
_ROWS_OF_80 = 81
# Tensors outside the model: image normalisation of the meta-architecture, weights of the loss.
_NOT_OF_THE_MODEL = ("pixel_mean", "pixel_std", "criterion.empty_weight")


def is_detectron2(state: Mapping[str, Tensor]) -> bool:
    """Whether the ResNet in a state dict has the key names of Detectron2."""
    return any(key.endswith(_STEM) for key in state)


def from_detectron2(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Convert weights to our key names.

    Args:
        state: a DETR whose backbone has Detectron2's names, on its own or under ``detr.`` in
            Detectron2's meta-architecture; or only a ResNet, converted to torchvision's names.
        source: file or address of the weights, for messages.

    Raises:
        UserError: a key is unknown.
    """
    parts = {key: v for key, v in state.items() if not key.startswith(_NOT_OF_THE_MODEL)}
    if _STEM in parts:
        bare = {key: v for key, v in parts.items() if not key.startswith(("linear.", "fc."))}
        return rename_all(bare, _BARE_RESNET.to_ours, source)
    if all(key.startswith(DETECTOR_PREFIX) for key in parts):  # inside the meta-architecture
        parts = {key.removeprefix(DETECTOR_PREFIX): value for key, value in parts.items()}
    renamed = rename_all(parts, inside_detector(_BACKBONE.to_ours), source)
    if any(k.endswith("class_embed.bias") and len(v) == _ROWS_OF_80 for k, v in renamed.items()):
        print(
            f"{source}: the head has 81 rows: labels are indices of COCO's 80 classes, not "
            'category ids; a head from the original\'s converter lacks "no object", see '
            "docs/export.md"
        )
    return renamed
