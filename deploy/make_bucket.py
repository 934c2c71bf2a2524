#!/usr/bin/env python3
"""Makes the bucket for the artifacts, unless it is there. Runs once in the container, before the server."""

import os

import boto3

name = os.environ["ARTIFACT_BUCKET"]
store = boto3.client("s3", endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"])
if name not in {bucket["Name"] for bucket in store.list_buckets()["Buckets"]}:
    store.create_bucket(Bucket=name)
    print(f"made the bucket {name}")
