"""A COCO folder with few of the training images."""

import json

from benchmarks.experiments.few_images import main, subset


def data(num_images=10):
    images = [{"id": 3 * i} for i in range(num_images)]
    annotations = [{"id": i, "image_id": 3 * (i // 2)} for i in range(2 * num_images)]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1}]}


def test_a_subset_keeps_the_annotations_of_its_images():
    found = subset(data(), 4, seed=0)
    ids = [image["id"] for image in found["images"]]
    assert len(set(ids)) == 4 and ids == sorted(ids)
    expected = [each for each in data()["annotations"] if each["image_id"] in ids]
    assert found["annotations"] == expected and found["categories"] == data()["categories"]
    assert found == subset(data(), 4, seed=0) != subset(data(), 4, seed=1)


def test_a_folder_has_fewer_training_images_and_the_same_validation_images(tmp_path, capsys):
    source, output = tmp_path / "all", tmp_path / "few"
    (source / "annotations").mkdir(parents=True)
    for name in ("train2017", "val2017"):
        (source / name).mkdir()
        (source / name / "3.png").write_bytes(b"image")
        (source / "annotations" / f"instances_{name}.json").write_text(json.dumps(data()))
    main([str(source), str(output), "--num_images", "4", "--seed", "1"])
    train, val = (
        json.loads((output / "annotations" / f"instances_{name}.json").read_text())
        for name in ("train2017", "val2017")
    )
    assert train == subset(data(), 4, seed=1) and val == data()
    assert (output / "train2017" / "3.png").read_bytes() == b"image"
    assert "4 training images" in capsys.readouterr().out
