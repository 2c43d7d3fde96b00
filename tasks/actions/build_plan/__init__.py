"""Builds a TensorRT plan from an ONNX file. Heavy."""
