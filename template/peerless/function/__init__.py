"""The function: faas-cli puts the handler here."""
