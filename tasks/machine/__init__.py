"""What this machine has: GPUs and the installed TensorRT, found without starting CUDA. Light."""
