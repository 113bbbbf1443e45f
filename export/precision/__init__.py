"""ONNX files in less than 32 bits: 16-bit floats, and 8-bit integers."""
