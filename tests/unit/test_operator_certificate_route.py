"""Who gets a certificate from the planner: the job's own cloud pod, for servers of its job."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from lockstep_api.certificates import Certificate
from lockstep_operator.authority import IssuerFiles
from lockstep_operator.core.certificates import Authority
from lockstep_serving.tls import load, request_of, server_context
from tests.support.certificates import HOST, SEED, shaken, trusting
from tests.support.kube import job_body
from tests.support.organisation import root_of, written
from tests.support.planner import CERTIFICATE, DONE, OUTCOME, client, planner_of_a_job

AUTHORITY = Authority(SEED)
KEY = ec.generate_private_key(ec.SECP256R1())
ASKED = {"server": "cloud", "csr": request_of(KEY)}


async def test_the_cloud_pod_gets_what_its_devices_trust() -> None:
    async with planner_of_a_job(authority=AUTHORITY) as setup:
        answer = await setup.http.post(CERTIFICATE, json=ASKED)
        assert answer.status_code == 200
        made, context = Certificate.model_validate_json(answer.content), server_context()
        load(context, made.chain, key=KEY)
        ca = AUTHORITY.of_job(setup.uid, [HOST, "digits-edges.lab.svc"])
        assert shaken(context, trusting(ca.pem))[0] == "TLSv1.3"


@pytest.mark.parametrize(
    ("token", "status"), [(None, 401), ("unknown", 401), ("device", 403), ("trainer", 403)]
)
async def test_nobody_else_gets_one(token: str | None, status: int) -> None:
    async with (
        planner_of_a_job(authority=AUTHORITY) as setup,
        client(setup.planner, token=token) as http,
    ):
        answer = await http.post(CERTIFICATE, json=ASKED)
        assert (answer.status_code, setup.sample("lockstep_certificates_total")) == (status, None)


@pytest.mark.parametrize(
    ("asked", "status", "why"),
    [
        (ASKED | {"server": "e-0"}, 422, "neither cloud nor an edge"),
        (ASKED | {"csr": "none"}, 422, "no PKCS#10 request"),
        (ASKED | {"csr": "A" * 4097}, 422, "at most 4096"),
        (ASKED | {"csr": "A" * (1 << 20)}, 413, "at most 8192 bytes"),
        ({"server": "cloud"}, 422, "csr: Field required"),
    ],
)
async def test_what_is_no_fit_request_is_refused(
    asked: dict[str, str], status: int, why: str
) -> None:
    async with planner_of_a_job(authority=AUTHORITY) as setup:
        answer = await setup.http.post(CERTIFICATE, json=asked)
        assert (answer.status_code, why in answer.json()["message"]) == (status, True)
        assert len(answer.content) < 300


@pytest.mark.parametrize(
    ("job", "authority"),
    [(job_body(security={"tls": "disabled"}), AUTHORITY), (None, None)],
    ids=["of the job", "of the operator"],
)
async def test_without_tls_there_is_none(job: Any, authority: Authority | None) -> None:
    async with planner_of_a_job(job=job, authority=authority) as setup:
        answer = await setup.http.post(CERTIFICATE, json=ASKED)
        assert (answer.status_code, "plain HTTP" in answer.json()["message"]) == (422, True)


async def test_when_the_organisations_ca_has_ended_the_job_says_so_once(tmp_path: Path) -> None:
    """Its servers ask again and again, and go on with what they have."""
    key = ec.generate_private_key(ec.SECP256R1())
    written(tmp_path, key, root_of(key))
    for later in (timedelta(days=1, seconds=60), timedelta(days=3)):
        async with planner_of_a_job(authority=AUTHORITY) as setup:
            assert setup.planner.signing is not None
            signing = replace(
                setup.planner.signing,
                issuer=IssuerFiles(tmp_path),
                clock=partial(lambda after: datetime.now(UTC) + after, later),
            )
            planner = replace(setup.planner, signing=signing)
            async with client(planner) as http:
                answers = [await http.post(CERTIFICATE, json=ASKED) for _ in range(3)]
            assert {one.status_code for one in answers} == {503}
            assert "the organisation's CA has ended" in answers[0].json()["message"]
            told = [one for one in setup.kube.events if one["reason"] == "CertificateNotSigned"]
            assert len(told) == 1
            assert (told[0]["type"], told[0]["message"][:6]) == ("Warning", "cloud:")


async def test_a_job_that_has_ended_gets_none() -> None:
    async with planner_of_a_job(authority=AUTHORITY) as setup:
        await setup.http.post(OUTCOME, json=DONE)
        answer = await setup.http.post(CERTIFICATE, json=ASKED)
        assert answer.status_code == 409
