"""Reading images and building batches."""
