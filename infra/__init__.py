"""What an operator runs: the whole topology on one machine, its set-up, its health, its figures, its backup."""
