"""PyTorch modules and exported programs: captured, and written back."""
