"""The released models: weights table, model cards, COCO's categories."""
