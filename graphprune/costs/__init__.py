"""What a choice costs: counted in closed form, or measured."""
