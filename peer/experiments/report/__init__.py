"""What an experiment found: a page without any outside asset, and Markdown with its plots beside it."""
