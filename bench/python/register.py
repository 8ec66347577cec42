"""Registers what queue_flow.py queues: a process work pool and the deployment full-frames/production."""

import asyncio

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate


@flow(name="full-frames")
def full_frames(video_id: str, video_path: str, db_path: str, output_dir: str, frame_rate: float = 0.1) -> None:
    """Never run: only its deployment is needed."""


async def main() -> None:
    async with get_client() as client:
        await client.create_work_pool(WorkPoolCreate(name="video-processing-pool", type="process"), overwrite=True)
        flow_id = await client.create_flow(full_frames)
        await client.create_deployment(
            flow_id=flow_id, name="production", work_pool_name="video-processing-pool", entrypoint="none.py:full_frames"
        )


asyncio.run(main())
