"""To int8: files by ONNX Runtime, modules by torchao."""
