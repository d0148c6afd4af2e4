"""The checks of tools/gpu-check."""
