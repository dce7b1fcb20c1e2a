"""The demo: train, test and draw a small detector or segmentor on synthetic scenes."""
