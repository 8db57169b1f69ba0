"""Every answer is one that the OpenAPI document allows, whatever is sent; nothing is a 5xx.

A short look; ``scripts/check_schema.py`` takes a long one.
"""

import importlib
import json
import warnings
from types import SimpleNamespace

import httpx
import pytest

from material import PORTRAIT

EVERY = 13
"""Of the hostile requests each thirteenth is sent here."""


@pytest.fixture(scope="module")
def check_schema(root):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root / "scripts"))
        return importlib.import_module("check_schema")


@pytest.fixture(scope="module")
def document(service):
    return httpx.get(f"{service.url}/openapi.json").json()


def test_hostile_bodies_are_answered_as_documented(service, document, check_schema):
    with service.client("ann") as client:
        enrolled = client.post(
            "/v1/identities",
            files={"photos": ("a.jpg", PORTRAIT.read_bytes())},
            data={"consent": "synthetic"},
        )
        assert enrolled.status_code == 201
        count, found = check_schema.attack(
            document, client.request, identity=enrolled.json()["id"], every=EVERY, start=1
        )
        assert count > 50
        assert found == []
        assert client.get("/readyz").status_code == 200
    assert "Traceback" not in service.log.read_text()


def test_schemathesis_finds_nothing(service, document):
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    import requests
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis.errors import Unsatisfiable
    from schemathesis import checks

    config = schemathesis.Config()
    config.projects.default.checks.not_a_server_error.expected_statuses = [
        *("2xx", "3xx", "4xx"), "503",
    ]  # fmt: skip
    schema = schemathesis.openapi.from_dict(document, config=config)
    session = requests.Session()
    headers = {"Authorization": f"Bearer {service.keys['ann']}"}
    names = []
    for found in schema.get_all_operations():
        operation = found.ok()
        names.append(operation.label)
        for mode in schemathesis.GenerationMode:

            @settings(
                max_examples=3,
                deadline=None,
                derandomize=True,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def ask(case):
                # Random bytes fit the document's "binary", and are no photo. What is no file to
                # the document comes as one with its words in it, of which verify says what it is.
                left = ["positive_data_acceptance"]
                if names[-1] == "POST /v1/verify":
                    left.append("negative_data_rejection")
                case.call_and_validate(
                    base_url=service.url,
                    session=session,
                    headers=headers,
                    excluded_checks=[checks.CHECKS.get_one(name) for name in left],
                )

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # its own, of what it cannot make up
                try:
                    ask()
                except Unsatisfiable:  # there is nothing that could be wrong
                    assert mode.is_negative
    session.close()
    assert len(names) == sum(len(each) for each in document["paths"].values())


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ({"status_code": 500}, "status 500"),
        ({"status_code": 503}, "503 without Retry-After"),
        ({"status_code": 418}, "status 418, which the document does not name"),
        ({"status_code": 404, "headers": {"content-type": "text/html"}}, "status 404 as"),
        ({"status_code": 404, "body": {"status": 400}}, "a problem without"),
        ({"status_code": 200}, ""),
    ],
)
def test_the_look_sees_what_is_wrong(answer, found, document, check_schema):
    said = {"headers": {"content-type": "application/problem+json"}, "body": {}} | answer
    answered = SimpleNamespace(**said, json=lambda: json.loads(json.dumps(said["body"])))
    operation = document["paths"]["/v1/models"]["get"]
    assert check_schema.wrong(document, operation, answered).startswith(found)
