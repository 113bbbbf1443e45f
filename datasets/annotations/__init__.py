"""COCO annotation files: reading, checking, and comparing their classes."""
