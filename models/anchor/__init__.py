"""Anchor queries (``--query_design anchor``), from Conditional DETR, DAB-DETR and DN-DETR."""
