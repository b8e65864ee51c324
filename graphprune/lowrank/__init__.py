"""Low rank: which layers become two in a row, and with how few channels between them."""
