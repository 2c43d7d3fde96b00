"""Checks without a GPU whether TensorRT could build a plan of an ONNX file. Heavy."""
