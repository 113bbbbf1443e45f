"""Convert to and from Hugging Face's DETR: ``python -m export.huggingface --help``.

``to`` writes a folder for ``DetrForObjectDetection.from_pretrained`` (with masks:
``DetrForSegmentation``); ``from`` converts such a folder to a checkpoint.
"""
