"""A store with a dataset, and settings under which the handlers may use it."""

from urllib.parse import urlsplit

import pytest
import torch
from function_site import NAMES, VALID_SECONDS, Site, load_handler

from peer.learning.datasets import catalogue
from peer.store.s3 import Store


@pytest.fixture
def site(store: Store, monkeypatch: pytest.MonkeyPatch) -> Site:
    torch.set_num_threads(1)
    parts = urlsplit(store.sign_get("any", VALID_SECONDS))
    endpoint = f"{parts.scheme}://{parts.netloc}"
    monkeypatch.setenv("peerless_store_origins", f"http://elsewhere:9000, {endpoint}")
    monkeypatch.setenv("peerless_models", "cnn,squeezenet1_1")
    handlers = {function: load_handler(function) for function in NAMES}
    return Site(store, catalogue.push(store, "synthetic-100", held_out=0), handlers, endpoint)
