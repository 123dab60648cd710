"""How Python reaches a device: every CUDA driver, NVRTC and cuBLAS call, and nothing about tokens or models."""
