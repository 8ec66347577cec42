"""Prefect's own Python client as the judge of what ours did.

Reads one JSON request a line from stdin and answers with one JSON line on stdout: {"answer": ...} or {"error": "..."}.
Started once a test, because importing Prefect takes seconds.
"""

import asyncio
import json
import sys
from datetime import timedelta
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterTags,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.sorting import FlowRunSort, LogSort
from prefect.deployments import run_deployment
from prefect.states import Cancelling
from prefect.types._datetime import now


def state_of(state):
    return {
        "type": state.type.value,
        "name": state.name,
        "message": state.message,
        "timestamp": str(state.timestamp),
    }


def run_of(run):
    return {
        "id": str(run.id),
        "name": run.name,
        "state": state_of(run.state) if run.state else None,
        "parameters": run.parameters,
        "tags": run.tags,
        "labels": run.labels,
        "run_count": run.run_count,
        "start_time": str(run.start_time) if run.start_time else None,
        "end_time": str(run.end_time) if run.end_time else None,
        "work_queue_name": run.work_queue_name,
        "work_pool_name": run.work_pool_name,
        "infrastructure_pid": run.infrastructure_pid,
        "idempotency_key": run.idempotency_key,
    }


async def everything(client, id):
    """The run with all that hangs on it, as the UI shows it."""
    flow_run_id = UUID(id)
    run = await client.read_flow_run(flow_run_id)
    states = await client.read_flow_run_states(flow_run_id)
    logs = await client.read_logs(
        LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run_id])), limit=200, sort=LogSort.TIMESTAMP_ASC
    )
    artifacts = await client.read_artifacts(
        artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run_id]))
    )
    task_runs = await client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id])))
    return {
        "run": run_of(run),
        "states": [state_of(state) for state in sorted(states, key=lambda state: state.timestamp)],
        "logs": [{"level": log.level, "message": log.message} for log in logs],
        "artifacts": [
            {"key": a.key, "type": a.type, "description": a.description, "data": a.data} for a in artifacts
        ],
        "task_runs": [
            {
                "id": str(task.id),
                "name": task.name,
                "state": state_of(task.state) if task.state else None,
                "run_count": task.run_count,
                "inputs": {
                    key: [str(getattr(one, "id", one)) for one in value] for key, value in task.task_inputs.items()
                },
            }
            for task in sorted(task_runs, key=lambda task: str(task.expected_start_time))
        ],
    }


async def events(client, id, prefix="prefect."):
    """Events that name this flow run as their resource or as related. Persisted by the server up to 5 s late."""
    response = await client.request(
        "POST",
        "/events/filter",
        json={
            "limit": 50,
            "filter": {
                "occurred": {
                    "since": str(now("UTC") - timedelta(hours=1)),
                    "until": str(now("UTC") + timedelta(hours=1)),
                },
                "event": {"prefix": [prefix]},
                "any_resource": {"id": [f"prefect.flow-run.{id}"]},
                "order": "ASC",
            },
        },
    )
    return response.json()["events"]


async def queue(client, deployment, parameters=None, idempotency_key=None):
    run = await run_deployment(
        deployment, parameters=parameters or {}, timeout=0, idempotency_key=idempotency_key, as_subflow=False
    )
    return run_of(run)


async def read(client, id):
    return run_of(await client.read_flow_run(UUID(id)))


async def result(client, id):
    """What `await run.state.result()` gives whoever called `run_deployment`."""
    run = await client.read_flow_run(UUID(id))
    return await run.state.aresult()


async def list_runs(client, tag=None):
    filter = FlowRunFilter(tags=FlowRunFilterTags(all_=[tag])) if tag else None
    runs = await client.read_flow_runs(flow_run_filter=filter, sort=FlowRunSort.ID_DESC, limit=200)
    return [run_of(run) for run in runs]


async def cancel(client, id):
    """As the UI's button and `prefect flow-run cancel` do it."""
    result = await client.set_flow_run_state(UUID(id), state=Cancelling())
    return {"status": result.status.value, "state": result.state.type.value if result.state else None}


async def wait(client, id, types, timeout=60):
    """Returns the run once its state has one of these types."""
    deadline = asyncio.get_running_loop().time() + timeout
    while True:
        run = await client.read_flow_run(UUID(id))
        if run.state and run.state.type.value in types:
            return run_of(run)
        if asyncio.get_running_loop().time() > deadline:
            raise TimeoutError(f"{id} is {run.state}, not {types}")
        await asyncio.sleep(0.1)


async def deployment(client, name):
    return json.loads((await client.read_deployment_by_name(name)).model_dump_json())


async def work_pool(client, name):
    return json.loads((await client.read_work_pool(name)).model_dump_json())


async def work_queues(client, pool):
    return [json.loads(queue.model_dump_json()) for queue in await client.read_work_queues(work_pool_name=pool)]


async def request(client, method, path, body=None):
    """Any other question to the API."""
    response = await client.request(method, path, json=body)
    return response.json() if response.content else None


VERBS = {
    verb.__name__: verb
    for verb in (
        everything,
        events,
        queue,
        read,
        result,
        list_runs,
        cancel,
        wait,
        deployment,
        work_pool,
        work_queues,
        request,
    )
}


async def main():
    async with get_client() as client:
        loop = asyncio.get_running_loop()
        print(json.dumps({"answer": "ready"}), flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            question = json.loads(line)
            try:
                answer = await VERBS[question.pop("verb")](client, **question)
                print(json.dumps({"answer": answer}), flush=True)
            except Exception as error:  # noqa: BLE001 - the test decides what an error means
                print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)


asyncio.run(main())
