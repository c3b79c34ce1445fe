"""The recipes for clusters: the Slurm script does what it should with stand-ins, the RayJob has what KubeRay requires."""

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from formless.cli.main import app

RECIPES = Path(__file__).parent.parent / "recipes"
STANDINS = {
    "scontrol": "printf 'node1\\nnode2\\n'",
    "hostname": "echo '127.0.0.1 10.0.0.1 '",
    "srun": 'while [[ $1 == -* ]]; do shift; done\nexec "$@"',
    "ray": """echo "ray $*" >> "$CALLS"
[[ $* == *--head* ]] || exec sleep 60
exec python3 -c "
import re, socket, sys, time
listening = socket.create_server(('127.0.0.1', int(re.findall('--port=(.*?) ', sys.argv[1])[0])))
time.sleep(60)" "$*\"""",
    "formless": """until grep -q 'ray start --address' "$CALLS"; do sleep 0.02; done
echo "formless $*" >> "$CALLS"
exit 3""",
}


def parses(command: list[str]) -> bool:
    group: Any = typer.main.get_command(app)
    group.commands[command[1]].make_context(command[1], command[2:]).close()
    return command[0] == "formless"


def test_the_slurm_script_is_bash() -> None:
    subprocess.run(["bash", "-n", RECIPES / "slurm.sh"], check=True)


@pytest.mark.parametrize(("gpus", "workers"), [("4", "8"), (None, "2")])
def test_the_slurm_script_starts_ray_on_every_node_and_ends_it(tmp_path: Path, gpus: str | None, workers: str) -> None:
    for name, text in STANDINS.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    calls = tmp_path / "calls"
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "node[1-2]"}
    job |= {"SLURM_NNODES": "2", "SLURM_CPUS_PER_TASK": "32"} | ({"SLURM_GPUS_ON_NODE": gpus} if gpus else {})
    environment = os.environ | job | {"CALLS": str(calls), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["bash", RECIPES / "slurm.sh", "sample", "--out", "/shared/runs/first"]
    # the pipes close when all that the script started has ended
    done = subprocess.run(command, env=environment, timeout=30, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    lines = calls.read_text().splitlines()
    address = f"127.0.0.1:{20000 + os.getpid() % 10000}"
    node = f"--num-cpus=32 --num-gpus={gpus or 0} --block"
    head, other = sorted((line for line in lines if line.startswith("ray")), key=lambda line: "--head" not in line)
    assert head.endswith(f"--include-dashboard=false {node}")
    assert "--node-ip-address=127.0.0.1" in head
    assert other == f"ray start --address={address} {node}"
    (run,) = (line for line in lines if line.startswith("formless"))
    assert run == f"formless run sample --out /shared/runs/first --executor ray --ray-address {address} --workers {workers}"
    assert parses(shlex.split(run))


def test_the_ray_job_has_what_kuberay_requires() -> None:
    job = yaml.safe_load((RECIPES / "rayjob.yaml").read_text("utf-8"))
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert re.fullmatch(r"[a-z][a-z-]*-", job["metadata"]["generateName"])
    spec = job["spec"]
    assert parses(shlex.split(spec["entrypoint"]))
    assert shlex.split(spec["entrypoint"])[-2:] == ["--ray-address", "auto"]
    assert spec["shutdownAfterJobFinishes"] is True
    cluster = spec["rayClusterSpec"]
    pins = (RECIPES.parent / "constraints.txt").read_text().splitlines()
    assert f"ray=={cluster['rayVersion']}" in pins
    assert cluster["authOptions"] == {"mode": "token"}
    (workers,) = cluster["workerGroupSpecs"]
    assert re.fullmatch(r"[a-z][a-z-]*", workers["groupName"])
    assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
    for group in (cluster["headGroupSpec"], workers):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert container["name"].startswith("ray-")
        assert container["image"] == cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["image"]
        assert re.fullmatch(r"\d+Gi", container["resources"]["limits"]["memory"])
        (mount,) = container["volumeMounts"]
        assert [volume["name"] for volume in pod["volumes"]] == [mount["name"]]
        paths = [path for path in shlex.split(spec["entrypoint"]) if path.startswith("/")]
        assert paths
        assert all(path.startswith(mount["mountPath"]) for path in paths)
        assert {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"} in container["env"]
    (worker,) = workers["template"]["spec"]["containers"]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == "1"
