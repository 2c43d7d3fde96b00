"""TensorRT engines: loading, calling from several threads, and what a plan takes and returns. Heavy."""
