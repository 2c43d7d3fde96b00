"""Exports a component as an ONNX file. Heavy."""
