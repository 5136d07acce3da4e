"""The live page: what a run and its functions do now, read from where it is anyway, and served read-only.

`collector` reads gateway, store, peers and files; `state` is what it makes of them, and what `/api/state`
answers; `serving` puts it on a page, `terminal` on a terminal. Nothing here writes to any of its sources.
"""
