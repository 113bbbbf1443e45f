"""Reading and writing of checkpoints, safetensors, downloads and image files."""
