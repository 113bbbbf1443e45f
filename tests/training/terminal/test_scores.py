"""Table of scores with their changes."""

from training.terminal.output import ScoreTable

COCO = [0.312, 0.5, 0.3, -1.0, 0.2, 0.4, 0.1, 0.2, 0.41, -1.0, 0.2, 0.4]
LATER = [0.300, 0.52, 0.3, 0.1, 0.2, 0.4, 0.1, 0.2, 0.41, -1.0, 0.2, 0.4]
QUALITY = {"pq": 0.475, "sq": 0.7, "rq": 0.6, "n": 9}


def test_first_and_second_evaluation():
    table = ScoreTable()
    assert table.lines({"coco_eval_bbox": COCO}) == [
        "              AP    AP50    AP75   small  medium   large   AR100",
        "boxes      0.312   0.500   0.300       -   0.200   0.400   0.410",
    ]
    assert table.lines({"coco_eval_bbox": LATER})[1:] == [
        "boxes      0.300   0.520   0.300   0.100   0.200   0.400   0.410",
        "  change  -0.012  +0.020  +0.000          +0.000  +0.000  +0.000",
    ]


def test_masks_and_panoptic_quality():
    table = ScoreTable()
    stats = {"coco_eval_bbox": COCO, "coco_eval_masks": LATER, "PQ_all": QUALITY}
    stats |= {"PQ_th": {**QUALITY, "pq": 0.4}, "PQ_st": {**QUALITY, "pq": 0.6}}
    lines = table.lines(stats)
    assert lines[2].startswith("masks      0.300")
    assert lines[3] == "PQ 0.475   things 0.400   stuff 0.600"
    better = {**stats, "PQ_all": {**QUALITY, "pq": 0.5}}
    assert table.lines(better)[-1] == "PQ 0.500 (+0.025)   things 0.400 (+0.000)   " + (
        "stuff 0.600 (+0.000)"
    )


def test_raw_and_averaged_weights_are_compared_with_their_own():
    table = ScoreTable()
    table.lines({"coco_eval_bbox": COCO}, "test_")
    averaged = table.lines({"coco_eval_bbox": LATER}, "ema_")
    assert len(averaged) == 2 and averaged[0].endswith("AR100 (EMA weights)")


def test_a_continued_run_compares_with_its_log():
    log = [
        {"test_coco_eval_bbox": LATER, "train_loss": 1.0, "epoch": 0},
        {"test_coco_eval_bbox": COCO, "epoch": 1},
        {"train_loss": 1.0, "epoch": 2},  # an epoch without an evaluation
    ]
    table = ScoreTable()
    table.load_scores(log)
    assert table.lines({"coco_eval_bbox": COCO})[2].split()[1:] == ["+0.000"] * 6


def test_damaged_scores_in_a_log_are_no_scores():
    table = ScoreTable()
    table.load_scores([{"test_coco_eval_bbox": [None] * 12}, {"test_coco_eval_bbox": None}])
    assert len(table.lines({"coco_eval_bbox": COCO})) == 2


def test_voc_scores_have_a_row():
    table = ScoreTable()
    boxes = {"coco_eval_bbox": [0.5] * 12}
    first = table.lines({**boxes, "voc_ap50": 0.5, "voc_ap50_11point": -1.0})
    assert first[-1] == "VOC AP50 0.500   11-point -"
    second = table.lines({**boxes, "voc_ap50": 0.625, "voc_ap50_11point": 0.5})
    assert second[-1] == "VOC AP50 0.625 (+0.125)   11-point 0.500"
