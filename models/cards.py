"""Model cards of the released models in docs/: ``python -m models.cards`` writes them."""

from pathlib import Path

from models.zoo import RELEASED_MODELS, ReleasedModel
from util.files.checkpoint import atomic_write

DOCS = Path(__file__).resolve().parents[1] / "docs"
_BEGIN, _END = "<!-- begin: python -m models.cards -->\n", "<!-- end -->\n"


def overview_table() -> str:
    """Markdown table with a row per model."""
    head = (
        "| name | box AP | AP50 | mask AP | PQ | parameters | file | size |\n"
        "|---|---|---|---|---|---|---|---|\n"
    )
    return head + "".join(_table_line(name, model) for name, model in RELEASED_MODELS.items())


def _table_line(name: str, model: ReleasedModel) -> str:
    numbers = (model.box_ap, model.box_ap50, model.mask_ap, model.pq)
    cells = [
        f"[`{name}`](cards/{name}.md)",
        *("" if number is None else f"{number:.1f}" for number in numbers),
        f"{model.num_parameters / 1e6:.1f} M",
        f"[{model.file}]({model.url})",
        "" if model.size_mb is None else f"{model.size_mb} MB",
    ]
    return f"| {' | '.join(cells)} |\n"


def model_card(name: str) -> str:
    """Model card in Markdown.

    Args:
        name: key of `models.zoo.RELEASED_MODELS`.
    """
    model = RELEASED_MODELS[name]
    sections = (
        f"# {name}\n\n{model.title}. Made by `python -m models.cards`; do not edit.",
        _use(name, model),
        f"## Model\n\n{_list(_architecture(model))}",
        f"## Training\n\n{_list(_training(model))}",
        f"## Published results\n\n{_results(model)}",
        f"## File\n\n{_list(_file(model))}",
        f"## Limits\n\n{_list(_limits(model))}",
    )
    return "\n\n".join(sections) + "\n"


def _use(name: str, model: ReleasedModel) -> str:
    output = "scores, labels and boxes in pixels"
    call = "postprocessor(outputs, sizes)  # sizes: (B, 2) height and width of the images"
    if model.masks:
        output = "a PNG of segment ids and a list of the segments"
        call = "postprocessor(outputs, sizes_in, sizes_out)  # B pairs of height and width each"
    images = "a batch (B, 3, H, W)" if model.minimal else "a list of (3, H, W) or a batch"
    return f"""## Use

```python
options = {{"pretrained": True, "return_postprocessor": True}}
model, postprocessor = torch.hub.load(REPO, "{name}", **options)
outputs = model.eval()(images)  # {images}
results = {call}
```

`REPO` is this repository on GitHub, or its folder with `source="local"`. Images are RGB, normalised
with the ImageNet mean (0.485, 0.456, 0.406) and deviation (0.229, 0.224, 0.225), the short side
scaled to 800 pixels and the long side to at most 1333. A result is, for each image, {output}."""


def _architecture(model: ReleasedModel) -> list[str]:
    backbone = model.backbone.replace("resnet", "ResNet-")
    dilated = ", last stage dilated (DC5)" if model.dilation else ""
    head = "" if not model.masks else "; a mask head on attention maps and backbone features"
    module = "models/demo.py" if model.minimal else "models/detr.py"
    if model.masks:
        module += ", models/segmentation.py"
    return [
        f"backbone: {backbone}{dilated}",
        f"transformer: 6 encoder and 6 decoder layers, 256 channels, 8 heads; 100 queries{head}",
        f"parameters: {model.num_parameters:,}",
        f"classes: {model.num_classes}; labels are COCO's category ids, "
        f"{len(model.category_names)} of which occur (`models/coco_categories.py`)",
        f"source: `{module}`",
    ]


def _training(model: ReleasedModel) -> list[str]:
    labels = "panoptic labels" if model.masks else "boxes"
    data = [] if model.minimal else [f"data: COCO 2017 train, {labels}; backbone from ImageNet"]
    return [*data, f"schedule: {model.schedule}"]


def _results(model: ReleasedModel) -> str:
    numbers = {
        "box AP": model.box_ap,
        "box AP50": model.box_ap50,
        "mask AP": model.mask_ap,
        "PQ": model.pq,
    }
    known = {what: number for what, number in numbers.items() if number is not None}
    source = "As its authors published them for COCO val2017; not measured again here."
    if not known:
        return f"{model.remark[0].upper()}{model.remark[1:]}; not measured here."
    lines = [f"| {' | '.join(known)} |", "|---" * len(known) + "|"]
    lines.append(f"| {' | '.join(f'{number:.1f}' for number in known.values())} |")
    return "\n".join([source, "", *lines])


def _file(model: ReleasedModel) -> list[str]:
    size = [] if model.size_mb is None else [f"size: {model.size_mb} MB"]
    return [
        f"address: <{model.url}>",
        f"SHA-256 begins with: `{model.sha256_prefix}` (compared after the download)",
        *size,
        "licence: Apache 2.0, as the original codebase",
    ]


def _limits(model: ReleasedModel) -> list[str]:
    limits = ["at most 100 objects an image; weaker on small objects than on large ones"]
    if model.dilation:
        limits.append("trained with one image a GPU: larger batches, which are padded, cost AP")
    if model.minimal:
        limits.append("images of a batch have one size, of at most 1600 pixels a side")
        limits.append("for reading and first steps; `detr_resnet50` is more accurate")
    limits.append("knows COCO's categories in photographs as COCO has them")
    return limits


def _list(items: list[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def with_current_table(page: str) -> str:
    """Replace the table between the markers of the overview page."""
    before, _, rest = page.partition(_BEGIN)
    after = rest.partition(_END)[2]
    return before + _BEGIN + overview_table() + _END + after


def pages() -> dict[Path, str]:
    """Content of each file: the overview and one card per model."""
    overview = DOCS / "models.md"
    cards = {DOCS / "cards" / f"{name}.md": model_card(name) for name in RELEASED_MODELS}
    return {overview: with_current_table(overview.read_text(encoding="utf-8")), **cards}


def write_pages() -> None:
    """Write all `pages`."""
    for path, text in pages().items():
        with atomic_write(path, "w") as file:
            file.write(text)
        print(path)


if __name__ == "__main__":
    write_pages()
