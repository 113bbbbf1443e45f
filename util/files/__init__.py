"""Reading and writing of checkpoints, safetensors, downloads, images and segment maps."""
