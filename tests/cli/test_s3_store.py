"""A whole job whose store is a bucket: a real S3 server, the real command line."""

import json
from pathlib import Path

from helpers import last_json, make_bucket
from scenario.play import ENVIRONMENT, config


def test_a_job_lives_in_a_bucket_from_start_to_download(simyard, s3_server, tmp_path):
    env = ENVIRONMENT | make_bucket(s3_server, "robots")
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config("", iterations=6)))
    store = "s3://robots/lab one"

    done = simyard("train", path, "--store", store, "--json", **env)

    assert done.returncode == 0, done.stderr
    result = last_json(done)
    assert result["store"] == f"{store}/jobs/{result['job_id']}"
    assert "the-secret-key" not in done.stdout + done.stderr

    listed = simyard("jobs", "list", "--store", store, **env)
    assert result["job_id"] in listed.stdout
    folder = tmp_path / "here"
    fetched = simyard("jobs", "download", result["job_id"], folder, "--store", store, **env)
    assert fetched.returncode == 0, fetched.stderr
    here = {str(file.relative_to(folder)): file.stat().st_size for file in Path(folder).rglob("*") if file.is_file()}
    assert here == {entry["name"]: entry["size_bytes"] for entry in result["artifacts"]}
