"""Choice of the tokens that run next, their blocks, and the packed batch of a step."""
