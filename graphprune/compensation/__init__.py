"""What makes up for removed channels: loss curves, least squares, descent."""
