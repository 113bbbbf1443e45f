"""Models that travel: ONNX, TorchScript, torch.export, Hugging Face, safetensors, Detectron2."""
