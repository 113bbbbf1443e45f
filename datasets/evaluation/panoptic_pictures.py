"""Read the samples for a figure of panoptic predictions next to the ground truth."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from datasets.annotations.coco_file import replace_text_ids
from datasets.coco_panoptic import CocoPanoptic
from datasets.loading.listed_images import read_row_image
from util.files.panoptic_png import decode_id_map
from util.visualize.contact_sheet import evenly_spaced
from util.visualize.panoptic import PanopticSample

_NUM_IMAGES = 6


def panoptic_samples(
    dataset: CocoPanoptic, prediction_folder: str | Path
) -> Iterator[PanopticSample]:
    """Yield a few images, evenly spaced among the predictions, with ground truth and prediction.

    Args:
        dataset: dataset with the ground truth.
        prediction_folder: output folder of `datasets.panoptic_eval.PanopticEvaluator`.
    """
    folder = Path(prediction_folder)
    predictions = json.loads((folder / "predictions.json").read_text(encoding="utf-8"))
    rows = predictions["annotations"]
    replace_text_ids(rows)
    for predicted in evenly_spaced(rows, _NUM_IMAGES):
        image_id = predicted["image_id"]
        image, truth = dataset.segments.image(image_id), dataset.segments.map_of(image_id)
        yield PanopticSample(
            partial(read_row_image, dataset.img_folder, image),
            decode_id_map(Path(dataset.ann_folder) / truth["file_name"]),
            [
                {**segment, "isthing": dataset.is_thing[segment["category_id"]]}
                for segment in truth["segments_info"]
            ],
            decode_id_map(folder / predicted["file_name"]),
            predicted["segments_info"],
            dataset.categories,
            f"image {image['id']}",
        )
