"""What was done, told to people and to programs."""
