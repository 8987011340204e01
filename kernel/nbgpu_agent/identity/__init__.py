"""Who may use an agent that others can reach: its certificates, its users, their tokens, and who calls."""
