"""The old way to queue: a program that imports Prefect and queues one run, spawned once a call.

Usage: queue_flow.py full-frames --video-id ID --video-path FILE --db-path FILE --output-dir FOLDER [--frame-rate HZ]
"""

import argparse
import json

from prefect.deployments import run_deployment

parser = argparse.ArgumentParser()
parser.add_argument("flow", choices=["full-frames"])
parser.add_argument("--video-id", required=True)
parser.add_argument("--video-path", required=True)
parser.add_argument("--db-path", required=True)
parser.add_argument("--output-dir", required=True)
parser.add_argument("--frame-rate", type=float, default=0.1)
options = vars(parser.parse_args())
flow = options.pop("flow")
flow_run = run_deployment(f"{flow}/production", parameters=options, timeout=0, tags=[f"video:{options['video_id']}"])
print(json.dumps({"flow_run_id": str(flow_run.id), "status": "queued"}))
