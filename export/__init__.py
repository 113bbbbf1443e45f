"""Export to ONNX, TorchScript, torch.export, Hugging Face, safetensors; import of Detectron2."""
