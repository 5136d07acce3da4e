"""Gateway, store and peers as processes of this machine."""
