"""Which indices go: budgets, shares of the groups, exact counts."""
