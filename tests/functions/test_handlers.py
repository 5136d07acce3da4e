"""The deployed handlers, against real stores over presigned URLs."""

import json
import logging
import tomllib
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from function_site import FUNCTIONS, NAMES, RESULT_KEY, VALID_SECONDS, Event, Site

from peer import messages
from peer.learning.serving import Settings
from peer.learning.worker import Worker
from peer.messages import (
    Batch,
    EvaluateReply,
    EvaluateRequest,
    GradientReply,
    GradientRequest,
    ModelSpec,
    Refusal,
    RemoteObject,
    StoredReply,
)
from peer.store import tensors
from peer.store.checksums import checksum
from peer.store.servers import free_port

REPLY_KEY = "runs/test/replies/call"


def test_gradient_handler_stores_what_a_local_worker_computes(site: Site) -> None:
    request = site.gradient_request()

    status, body = site.invoke("gradient", messages.encode(request))

    reply = messages.decode(body, GradientReply)
    kept: list[bytes] = []
    local = Worker(
        lambda remote: site.store.get(urlsplit(remote.url).path.split("/", 2)[2]),
        lambda _, encoded: kept.append(b"".join(encoded.chunks)),
    )
    expected = local.gradient(request)
    assert status == 200
    assert reply.training.num_samples == 64
    assert (reply.checksum, reply.training) == (expected.checksum, expected.training)
    assert bytes(site.store.get(RESULT_KEY, reply.length)) == kept[0]


@pytest.mark.parametrize(("is_told", "status"), [(True, 200), (False, 400)])
def test_gradient_handler_has_the_next_rounds_parts_before_they_are_asked_for(
    site: Site, is_told: bool, status: int
) -> None:
    request = site.gradient_request()
    first, *others = halves_of(request.data.parts[0], site)
    this = changed(
        request,
        data=msgspec.structs.replace(request.data, parts=[first]),
        batches=[Batch(index=0, ranges=[(0, 0, 32)])],
        next_parts=others if is_told else [],
    )
    # nobody can read anything at these addresses: what is asked for there is refused
    denied = [replace_url(each, tampered(each.url)) for each in others]
    following = changed(
        this, round=1, data=msgspec.structs.replace(request.data, parts=denied), next_parts=[]
    )

    site.invoke("gradient", messages.encode(this))
    found, body = site.invoke("gradient", messages.encode(following))

    assert found == status
    if is_told:
        assert messages.decode(body, GradientReply).training.num_samples == 32
    else:
        assert messages.decode(body, Refusal).error == "store_denied"


def halves_of(part: RemoteObject, site: Site) -> list[RemoteObject]:
    """Return objects that are the first and the second half of a stored part of 100 records."""
    content = bytes(site.store.get(urlsplit(part.url).path.split("/", 2)[2]))
    found = []
    for number, half in enumerate([content[: len(content) // 2], content[len(content) // 2 :]]):
        site.store.put_bytes(f"runs/test/half-{number}", half)
        found.append(site.remote(f"runs/test/half-{number}", len(half), checksum("sha256", [half])))
    return found


def tampered(url: str) -> str:
    """Return a presigned address whose signature is another object's."""
    return url[:-6] + "000000"


def test_evaluate_handler_counts_every_sample(site: Site) -> None:
    request = EvaluateRequest(**site.fields("cnn"))

    status, body = site.invoke("evaluate", messages.encode(request))

    evaluation = messages.decode(body, EvaluateReply).evaluation
    assert status == 200
    assert evaluation.num_samples == 64
    assert evaluation.loss_sum > 0


def test_reply_of_an_asynchronous_call_is_put_and_its_delivery_is_done(site: Site) -> None:
    request = changed(site.gradient_request(), reply_url=site.store.sign_put(REPLY_KEY, VALID_SECONDS))

    status, body = site.invoke("gradient", messages.encode(request))

    stored = site.store.get_message(REPLY_KEY, StoredReply)
    assert (status, stored.status) == (200, 200)
    assert bytes(stored.reply) == body
    assert messages.decode(body, GradientReply).training.num_samples == 64


def test_refusal_of_an_asynchronous_call_is_put_and_its_delivery_is_done(site: Site) -> None:
    reply_url = site.store.sign_put(REPLY_KEY, VALID_SECONDS)

    status, _ = site.invoke("gradient", json.dumps({"protocol": 2, "reply_url": reply_url}).encode())

    stored = site.store.get_message(REPLY_KEY, StoredReply)
    assert (status, stored.status) == (200, 409)
    assert messages.decode(bytes(stored.reply), Refusal).error == "version_differs"


def test_reply_is_put_nowhere_else_than_into_an_allowed_store(site: Site) -> None:
    request = changed(site.gradient_request(), reply_url="http://10.255.0.1:9000/bucket/key")

    status, refusal = site.refused("gradient", messages.encode(request))

    assert (status, refusal.error) == (403, "not_allowed")


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        (b'{"error": "out_of_memory", "limit_bytes": 7}', {"error": "out_of_memory", "limit_bytes": 7}),
        (b"<html>", {"error": "", "message": "<html>", "speaks": []}),
    ],
)
def test_what_became_of_a_killed_call_is_put_by_evaluate(
    site: Site, body: bytes, kept: dict[str, Any]
) -> None:
    query = {"reply_url": site.store.sign_put(REPLY_KEY, VALID_SECONDS)}

    reply = site.handlers["evaluate"].handle(Event(body, query, {"X-Function-Status": "507"}), None)

    stored = site.store.get_message(REPLY_KEY, StoredReply)
    assert (reply["statusCode"], stored.status) == (200, 507)
    assert json.loads(bytes(stored.reply)) == kept


def test_reply_that_a_function_has_put_is_left_alone(site: Site) -> None:
    query = {"reply_url": site.store.sign_put("runs/test/replies/done", VALID_SECONDS)}

    reply = site.handlers["evaluate"].handle(Event(b"{}", query, {"X-Function-Status": "200"}), None)

    assert reply["statusCode"] == 200
    assert site.store.head("runs/test/replies/done") is None


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b"\xff\xfe", b'{"protocol": 1}', b"[" * 100_000, b'{"protocol": "1"}']
)
@pytest.mark.parametrize("function", NAMES)
def test_handler_something_else_is_a_bad_request(site: Site, function: str, body: bytes) -> None:
    status, refusal = site.refused(function, body)

    assert (status, refusal.error) == (400, "bad_request")
    assert f"not a {function.title()}Request" in refusal.message


def test_handler_unknown_field_is_a_bad_request(site: Site) -> None:
    fields = json.loads(messages.encode(site.gradient_request()))

    status, refusal = site.refused("gradient", json.dumps(fields | {"colour": 1}).encode())

    assert (status, refusal.error) == (400, "bad_request")
    assert "colour" in refusal.message


def test_handler_other_protocol_is_told_which_it_speaks(site: Site) -> None:
    status, refusal = site.refused("gradient", b'{"protocol": 2, "a_new_field": true}')

    assert (status, refusal.error, refusal.speaks) == (409, "version_differs", [1])


def test_handler_model_that_is_not_allowed_is_refused(site: Site) -> None:
    request = site.gradient_request(model="cnn")

    status, refusal = site.refused(
        "gradient", messages.encode(changed(request, model=ModelSpec(name="os:system")))
    )

    assert (status, refusal.error) == (403, "not_allowed")
    assert "peerless_models" in refusal.message


def changed(request: GradientRequest, **changes: Any) -> GradientRequest:
    return msgspec.structs.replace(request, **changes)


def moved_result(request: GradientRequest, origin: str) -> GradientRequest:
    return changed(request, result_url=f"{origin}/bucket/key?X-Amz-Signature=secret")


def moved_weights(request: GradientRequest, origin: str) -> GradientRequest:
    weights = request.weights
    moved = RemoteObject(url=f"{origin}/b/k?secret", length=weights.length, checksum=weights.checksum)
    return changed(request, weights=moved)


def moved_part(request: GradientRequest, origin: str) -> GradientRequest:
    part = RemoteObject(url=f"{origin}/b/k?secret", length=1, checksum="")
    return changed(request, data=msgspec.structs.replace(request.data, parts=[*request.data.parts, part]))


def moved_next_part(request: GradientRequest, origin: str) -> GradientRequest:
    return changed(request, next_parts=[RemoteObject(url=f"{origin}/b/k?secret", length=1, checksum="")])


@pytest.mark.parametrize("move", [moved_result, moved_weights, moved_part, moved_next_part])
@pytest.mark.parametrize(
    "origin", ["http://169.254.169.254", "file://", "http://[", "http://elsewhere:9000@evil"]
)
def test_handler_store_that_is_not_allowed_is_refused(
    site: Site, move: Callable[[GradientRequest, str], GradientRequest], origin: str
) -> None:
    status, refusal = site.refused("gradient", messages.encode(move(site.gradient_request(), origin)))

    assert (status, refusal.error) == (403, "not_allowed")
    assert "peerless_store_origins" in refusal.message
    assert "secret" not in refusal.message


def test_handler_without_allowed_stores_refuses_everything(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("peerless_store_origins")

    status, refusal = site.refused("gradient", messages.encode(site.gradient_request()))

    assert (status, refusal.error) == (403, "not_allowed")
    assert "peerless_store_origins, which has nothing" in refusal.message


def test_handler_missing_object_is_worth_another_try_and_hides_the_signature(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    weights = replace_url(
        site.gradient_request().weights, site.store.sign_get("runs/test/gone", VALID_SECONDS)
    )
    request = changed(site.gradient_request(), weights=weights)

    with caplog.at_level(logging.DEBUG):
        status, refusal = site.refused("gradient", messages.encode(request))

    assert (status, refusal.error) == (502, "object_missing")
    assert "runs/test/gone" in refusal.message
    assert "X-Amz" not in refusal.message + caplog.text


def replace_url(remote: RemoteObject, url: str) -> RemoteObject:
    return RemoteObject(url=url, length=remote.length, checksum=remote.checksum)


def test_handler_tampered_signature_is_denied(site: Site) -> None:
    request = site.gradient_request()
    weights = replace_url(request.weights, tampered(request.weights.url))

    status, refusal = site.refused("gradient", messages.encode(changed(request, weights=weights)))

    assert (status, refusal.error) == (400, "store_denied")


def test_handler_store_that_is_gone_is_unreachable(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("peerless_store_origins", f"{gone},{site.endpoint}")
    request = moved_weights(site.gradient_request(), gone)

    status, refusal = site.refused("gradient", messages.encode(request))

    assert (status, refusal.error) == (502, "store_unreachable")


def test_handler_corrupt_object_is_told_so(site: Site) -> None:
    request = site.gradient_request()
    content = bytearray(site.store.get("runs/test/weights"))
    content[-1] ^= 1
    site.store.put_bytes("runs/test/weights", bytes(content))

    status, refusal = site.refused("gradient", messages.encode(request))

    assert (status, refusal.error) == (502, "object_corrupt")


def test_handler_wrong_model_argument_is_a_bad_request(site: Site) -> None:
    request = changed(site.gradient_request(), model=ModelSpec(name="cnn", arguments={"input_size": 5}))

    status, refusal = site.refused("gradient", messages.encode(request))

    assert (status, refusal.error) == (400, "bad_request")
    assert "input_size" in refusal.message


def test_handler_gradient_that_is_not_finite_is_told_so(site: Site) -> None:
    request = site.gradient_request()
    state = tensors.decode(site.store.get("runs/test/weights")).tensors
    state["parameters"].fill_(float("nan"))
    encoded = tensors.encode(state)
    site.store.put("runs/test/diverged", encoded.chunks, encoded.length)
    weights = site.remote("runs/test/diverged", encoded.length, encoded.sha256())

    status, refusal = site.refused("gradient", messages.encode(changed(request, weights=weights)))

    assert (status, refusal.error) == (400, "not_finite")
    assert site.store.head(RESULT_KEY) is None


def test_settings_of_an_empty_environment_allow_built_in_models_and_no_store() -> None:
    settings = Settings.from_environment({})

    assert "resnet18" in settings.models
    assert settings.store_origins == frozenset()
    assert settings.cache_bytes == 256 << 20


@pytest.mark.parametrize("function", NAMES)
def test_requirements_of_a_function_are_among_the_projects(function: str) -> None:
    with (FUNCTIONS.parent / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]["dependencies"]

    required = (FUNCTIONS / function / "requirements.txt").read_text().split()

    assert set(required) <= set(project)


def test_handlers_are_short() -> None:
    assert all(len(file.read_text().splitlines()) < 100 for file in FUNCTIONS.glob("*/handler.py"))
