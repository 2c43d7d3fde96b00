"""ONNX Runtime sessions, with emulation of bf16 where it has no kernels. Heavy."""
