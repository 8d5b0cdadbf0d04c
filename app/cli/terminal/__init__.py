"""Standard input and output, messages, signals and failures of the commands."""
