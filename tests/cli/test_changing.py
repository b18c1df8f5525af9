"""`lockstep suspend`, `resume` and `delete`."""

import threading

import pytest

from lockstep_api.names import CLI_MANAGER
from lockstep_cli.errors import Exit
from tests.support.apiserver import FakeApi, Json
from tests.support.cli import Lockstep, device_pod, job, running_status
from tests.support.patience import PATIENCE_S

KEY = ("federatedjobs", "lab", "digits")


def suspended(api: FakeApi) -> object:
    return api.objects[KEY]["spec"].get("suspend")


def test_suspend_applies_one_field_as_a_manager_of_its_own(lockstep: Lockstep) -> None:
    api = lockstep.api
    stored = api.put("federatedjobs", job(status=running_status()))
    done = lockstep("suspend", "digits")
    assert done.lines == ["digits suspended; go on with: lockstep resume digits"]
    assert suspended(api) is True
    ((*key, manager),) = api.applied
    assert (tuple(key), manager) == (KEY, CLI_MANAGER)
    assert api.bodies[-1]["spec"] == {"suspend": True}
    assert api.bodies[-1]["metadata"] == {"name": "digits", "uid": stored["metadata"]["uid"]}


def test_resume_gives_the_field_back(lockstep: Lockstep) -> None:
    """Whatever a manifest says of it later meets no conflict."""
    api = lockstep.api
    api.put("federatedjobs", job(status=running_status()))
    lockstep("suspend", "digits")
    assert lockstep("resume", "digits").lines == ["digits resumed"]
    assert [body["spec"] for body in api.bodies] == [{"suspend": True}, {"suspend": False}, {}]
    assert not suspended(api)


def test_a_suspension_by_others_is_ended_too(lockstep: Lockstep) -> None:
    lockstep.api.put("federatedjobs", job(suspend=True, status=running_status()))
    lockstep("resume", "digits")
    assert not suspended(lockstep.api)


@pytest.mark.parametrize(
    ("command", "spec", "told"),
    [
        ("suspend", {"suspend": True}, "digits is suspended already"),
        ("resume", {}, "digits is not suspended"),
    ],
)
def test_what_is_so_already_is_not_written(
    lockstep: Lockstep, *, command: str, spec: Json, told: str
) -> None:
    lockstep.api.put("federatedjobs", job(status=running_status(), **spec))
    assert lockstep(command, "digits").lines == [told]
    assert lockstep.api.bodies == []


def test_a_job_that_has_ended_is_not_suspended(lockstep: Lockstep) -> None:
    lockstep.api.put("federatedjobs", job(status=running_status(phase="Completed")))
    done = lockstep("suspend", "digits")
    assert (done.code, done.err) == (
        Exit.FAILED,
        "error: digits is completed: there is nothing to suspend\n",
    )


def test_nothing_is_deleted_unless_somebody_said_so(lockstep: Lockstep) -> None:
    lockstep.api.put("federatedjobs", job())
    done = lockstep("delete", "digits")
    assert done.code == Exit.USAGE
    assert "say --yes to delete digits with volume and model" in done.err
    assert KEY in lockstep.api.objects


def test_the_job_that_was_read_is_deleted(lockstep: Lockstep) -> None:
    stored = lockstep.api.put("federatedjobs", job())
    assert lockstep("delete", "digits", "--yes").lines == ["digits deleted"]
    assert KEY not in lockstep.api.objects
    assert lockstep.api.bodies[-1]["preconditions"] == {"uid": stored["metadata"]["uid"]}


def test_if_one_name_is_wrong_nothing_is_deleted(lockstep: Lockstep) -> None:
    lockstep.api.put("federatedjobs", job())
    assert lockstep("delete", "digits", "dogs", "--yes").code == Exit.NOT_FOUND
    assert KEY in lockstep.api.objects


def test_wait_ends_when_pods_are_gone(lockstep: Lockstep) -> None:
    api = lockstep.api
    api.put("federatedjobs", job())
    api.put("pods", device_pod("fast-0", group="fast"))
    gone = threading.Event()

    def last_pod_goes() -> None:
        with api.changed:
            api.changed.wait_for(lambda: api.watches > 0, timeout=PATIENCE_S)
        gone.set()
        api.remove("pods", "lab", name="digits-device-fast-0")

    thread = threading.Thread(target=last_pod_goes)
    thread.start()
    assert lockstep("delete", "digits", "--yes", "--wait").lines == ["digits deleted"]
    assert gone.is_set()
    thread.join()
