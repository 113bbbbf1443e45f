"""Helpers without knowledge of models or data sets: boxes, batches, processes, meters, checkpoints,
pictures.
"""
