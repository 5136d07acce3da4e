"""What a run leaves for people and programs: a line a round, and a summary."""
