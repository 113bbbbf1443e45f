"""Readers of annotation formats: each returns COCO-shaped tables in memory."""
