"""What schemathesis cannot guess: an index that is there, with points in it, and what goes with its dimension.

Random ids are of no index, so that every call would be a 404. Calls are led to one of two indices instead: those that only read or store to the first,
which keeps its points; those that delete points to the second. An index is deleted only where the run itself has created it.
"""

import json
import os
import urllib.request
import uuid

import schemathesis
from schemathesis.generation import GenerationMode
from schemathesis.generation.meta import TestPhase

SERVER = os.environ["FAISS_PROXY_URL"]
KEY = "test-key-1"
DIMENSION = 3
POINTS = ["a", "b", "c"]
# Shorter than this, a call that waits behind others may be a 504, as its client asked for.
TIMEOUT_SECONDS = 60


def call(method, path, body):
    request = urllib.request.Request(SERVER + path, json.dumps(body).encode(), method=method)
    request.add_header("X-API-Key", KEY)
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def fill(index):
    points = [{"id": id, "values": [n, 1, 0], "metadata": {"n": n}} for n, id in enumerate(POINTS)]
    call("POST", f"/v1/index/{index}/vectors", {"vectors": points})


def new_index(name):
    index = call("POST", "/v1/index", {"name": name, "dimension": DIMENSION})["id"]
    fill(index)
    return index


KEPT = new_index("kept")
EMPTIED = new_index("emptied")
EMPTYING = [("POST", "/reset"), ("POST", "/vectors/delete"), ("DELETE", "/vectors/{vector_id}")]


def is_uuid(text):
    try:
        return str(uuid.UUID(text)) == text
    except (ValueError, TypeError, AttributeError):
        return False


def is_timeout(text):
    try:
        return float(text) >= 0
    except (ValueError, TypeError):
        return False


def of_the_dimension(vector):
    """As it is, where it is none: base64, or what is wrong on purpose."""
    if not isinstance(vector, list) or not all(isinstance(number, (int, float)) for number in vector):
        return vector
    return [max(-1e9, min(1e9, number)) for number in (vector + [1.0] * DIMENSION)[:DIMENSION]]


def fit(body):
    """The same body, with vectors that the index can have."""
    if not isinstance(body, dict):
        return
    for field in ["vector", "values"]:
        if field in body:
            body[field] = of_the_dimension(body[field])
    for field in ["vectors", "queries"]:
        for item in body[field] if isinstance(body.get(field), list) else []:
            fit(item)


def is_stateful(case):
    """It goes on with what it created itself."""
    return case.meta is not None and case.meta.phase.name is TestPhase.STATEFUL


def lead(case, ids):
    path = case.operation.path
    if (case.method, path) == ("DELETE", "/v1/index/{index_id}"):
        if ids["index_id"] in [KEPT, EMPTIED]:
            ids["index_id"] = str(uuid.uuid4())
    elif not is_stateful(case):
        empties = any(case.method == method and path.endswith(end) for method, end in EMPTYING)
        if empties:
            fill(EMPTIED)
        ids["index_id"] = EMPTIED if empties else KEPT


@schemathesis.hook
def before_call(context, case, kwargs):
    ids, headers = case.path_parameters or {}, case.headers or {}
    if is_uuid(ids.get("index_id")):
        lead(case, ids)
    if is_timeout(headers.get("X-Request-Timeout")):
        headers["X-Request-Timeout"] = str(TIMEOUT_SECONDS)
    if case.meta is not None and case.meta.generation.mode is not GenerationMode.POSITIVE:
        return
    # Every other time, so that there are ids of no point too.
    id = ids.get("vector_id")
    if isinstance(id, str) and len(id) % 2 == 1:
        ids["vector_id"] = POINTS[len(id) // 2 % len(POINTS)]
    # Both together are a 422, whatever they are; and so is a key that came with another request before.
    if "If-Match" in headers:
        headers.pop("If-None-Match", None)
    if "Idempotency-Key" in headers:
        headers["Idempotency-Key"] = str(uuid.uuid4())
    fit(case.body)
