"""A discrete-event model of peers and functions, fed with measured service times."""
