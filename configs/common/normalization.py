"""Means and standard deviations of RGB pixels in [0, 255]."""

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
HALF = (127.5, 127.5, 127.5)  # AugReg: to [-1, 1]
