"""What the accuracy benchmark is made of: networks, data, methods, tables."""
