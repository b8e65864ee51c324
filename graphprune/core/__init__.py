"""The algebra and the nouns that all rooms share; it knows no operation and no model."""
