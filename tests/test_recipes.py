"""The recipes for clusters and the commands of their page: stand-ins do what they say, and parsers take them."""

import copy
import os
import re
import shlex
import shutil
import subprocess
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from jsonschema import Draft202012Validator

from formless.cli.main import app
from tests.kuberay import JOB

ROOT = Path(__file__).parent.parent
RECIPES = ROOT / "recipes"
PAGE = (ROOT / "docs" / "how-to" / "run_on_clusters.md").read_text("utf-8")
RAY = re.search(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE)[1]

COUNT, RANGE = r"[1-9]\d*", r"[1-9]\d*(-[1-9]\d*)?"
MEMORY = r"\d+[KMGT]?"
TIME = r"\d+(:[0-5]?\d){0,2}|\d+-([01]?\d|2[0-3])(:[0-5]?\d){0,2}"  # [days-]hours:minutes:seconds, minutes alone, ...
GPUS = r"([a-z]\w*:)?[1-9]\d*(,[a-z]\w*:[1-9]\d*)*"
SBATCH = {
    "account": r"\w+", "array": r"[\d,:%-]+", "begin": r"\S+", "chdir": r"\S+", "comment": ".+", "constraint": r"\S+",
    "cpus-per-gpu": COUNT, "cpus-per-task": COUNT, "dependency": r"\w+:?[\d:,?+]*", "error": r"\S+", "exclude": r"\S+",
    "exclusive": r"|user|mcs", "export": r"\S+", "gpus": GPUS, "gpus-per-node": GPUS, "gpus-per-task": GPUS,
    "gres": rf"gpu:{GPUS}", "job-name": r"[\w.-]+", "mail-type": r"[A-Z_0-9,]+", "mail-user": r"\S+@\S+", "mem": MEMORY,
    "mem-per-cpu": MEMORY, "mem-per-gpu": MEMORY, "no-requeue": "", "nodelist": r"\S+", "nodes": RANGE, "ntasks": COUNT,
    "ntasks-per-node": COUNT, "open-mode": "append|truncate", "output": r"\S+", "partition": r"[\w,-]+", "qos": r"\w+",
    "requeue": "", "reservation": r"\S+", "signal": r"(R?B?:)?(\d+|[A-Z0-9]+)(@\d+)?", "time": TIME, "tmp": MEMORY,
}  # fmt: skip
"""Options of sbatch and the form of their values, from its manual page (https://slurm.schedmd.com/sbatch.html)."""
SRUN = {"overlap": "", "nodes": RANGE, "ntasks": COUNT, "nodelist": r"\S+", "exclude": r"\S+"}
STANDINS = {
    "scontrol": "printf 'node1\\nnode2\\n'",
    "hostname": "echo '127.0.0.1 10.0.0.1 '",
    "srun": 'echo "srun $*" >> "$CALLS"\nwhile [[ $1 == -* ]]; do shift; done\nexec "$@"',
    "ray": """echo "ray $*" >> "$CALLS"
[[ $* == *--head* ]] || exec sleep 60
exec python3 -c "
import re, socket, sys, time
listening = socket.create_server(('127.0.0.1', int(re.findall('--port=(.*?) ', sys.argv[1])[0])))
time.sleep(60)" "$*\"""",
    "formless": """until grep -q '^ray start --address' "$CALLS"; do sleep 0.02; done
echo "formless $*" >> "$CALLS"
exit 3""",
}


def parses(command: list[str]) -> bool:
    group: Any = typer.main.get_command(app)
    group.commands[command[1]].make_context(command[1], command[2:]).close()
    return command[0] == "formless"


def ray_parses(command: list[str]) -> bool:
    from ray.scripts.scripts import cli

    cli.commands[command[1]].make_context(command[1], command[2:]).close()  # raises click's usage errors
    return command[0] == "ray"


def wrong_options(words: list[str], known: dict[str, str]) -> list[str]:
    """The long options of a command of Slurm that it does not have, or whose value has another form."""
    found = [word.removeprefix("--").partition("=") for word in words]
    return [
        word for word, (name, _, value) in zip(words, found, strict=True) if not re.fullmatch(known.get(name, "(?!)"), value)
    ]


def sbatch_lines() -> list[str]:
    return re.findall(r"^#SBATCH (.*)$", (RECIPES / "slurm.sh").read_text("utf-8"), re.MULTILINE)


def commands(name: str, text: str = PAGE) -> list[list[str]]:
    """The lines of a page's bash blocks that call a program, without their comments."""
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    return [shlex.split(line, comments=True) for line in "\n".join(blocks).splitlines() if line.startswith(f"{name} ")]


def test_the_slurm_script_is_bash() -> None:
    subprocess.run(["bash", "-n", RECIPES / "slurm.sh"], check=True)
    if shellcheck := shutil.which("shellcheck"):
        subprocess.run([shellcheck, RECIPES / "slurm.sh"], check=True)


def test_sbatch_has_the_options_of_the_slurm_script() -> None:
    lines = sbatch_lines()
    assert len(lines) == 7
    assert wrong_options(lines, SBATCH) == []
    right = ["--time=90", "--time=1-12", "--time=2-00:30:00", "--gpus-per-node=a100:4", "--mem=64G", "--nodes=2-4", "--requeue"]
    assert wrong_options(right, SBATCH) == []
    wrong = ["--time=24:00:x", "--time=1:75", "--gpu-per-node=4", "--mem=64GB", "--nodes=two", "--requeue=yes"]
    assert wrong_options(wrong, SBATCH) == wrong


@pytest.mark.skipif(not shutil.which("sbatch"), reason="Slurm's client is not installed")
def test_sbatch_itself_takes_the_slurm_script(tmp_path: Path) -> None:
    """It parses everything before it looks for the controller, which is not there."""
    config = "ClusterName=x\nSlurmctldHost=localhost(127.0.0.1)\nGresTypes=gpu\nNodeName=node[1-2]\n"
    config += "PartitionName=main Nodes=ALL Default=YES\nMessageTimeout=2\nSlurmctldTimeout=2\n"
    (tmp_path / "slurm.conf").write_text(config)
    environment = os.environ | {"SLURM_CONF": str(tmp_path / "slurm.conf")}
    (command,) = commands("sbatch")
    asked = [command[0], "--test-only", *command[1:]]
    done = subprocess.run(asked, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert "Unable to contact slurm controller" in done.stderr


def test_the_commands_of_the_page_are_parsed() -> None:
    started = commands("ray")
    assert len(started) == 2
    assert all(map(ray_parses, started))
    run = commands("formless")
    assert len(run) == 3
    assert all(map(parses, run))
    (sbatch,) = commands("sbatch")
    assert (ROOT / sbatch[1]).is_file()
    assert parses(["formless", "run", *sbatch[2:]])
    created, _ = commands("kubectl")
    assert created[:3] == ["kubectl", "create", "-f"]
    assert (ROOT / created[3]).is_file()


def test_the_image_is_of_the_same_ray_and_of_a_known_python() -> None:
    (image,) = re.findall(r"^FROM (.*)$", PAGE, re.MULTILINE)
    tag = re.fullmatch(r"rayproject/ray:(\d+\.\d+\.\d+)-py(\d)(\d+)-gpu", image)
    assert tag
    assert tag[1] == RAY
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    (least,) = re.findall(r'^requires-python = ">=(\d+)\.(\d+)"$', project, re.MULTILINE)
    assert (int(tag[2]), int(tag[3])) >= tuple(map(int, least))
    (installed,) = re.findall(r"^RUN pip install '/formless\[(.*)\]'$", PAGE, re.MULTILINE)
    assert f"\n{installed} = [" in project


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
    assert all(ray_parses(shlex.split(line)) for line in (head, other))
    started = [shlex.split(line)[1:] for line in lines if line.startswith("srun")]
    assert len(started) == 3
    for words in started:
        assert wrong_options(list(takewhile(lambda word: word.startswith("-"), words)), SRUN) == []
    (run,) = (line for line in lines if line.startswith("formless"))
    assert run == f"formless run sample --out /shared/runs/first --executor ray --ray-address {address} --workers {workers}"
    assert parses(shlex.split(run))


def ray_job() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((RECIPES / "rayjob.yaml").read_text("utf-8"))
    return found


def test_the_ray_job_is_what_kuberay_takes() -> None:
    Draft202012Validator.check_schema(JOB)
    assert [error.message for error in Draft202012Validator(JOB).iter_errors(ray_job())] == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda spec, _: spec.update(entryPoint="x"), "'entryPoint' was unexpected"),
        (lambda _, group: group.pop("maxReplicas"), "'maxReplicas' is a required property"),
        (lambda _, group: group["rayStartParams"].update({"num-cpus": 0}), "0 is not of type 'string'"),
        (lambda _, group: group["template"]["spec"].update(volume=[]), "'volume' was unexpected"),
        (lambda _, group: group["template"]["spec"]["containers"][0].pop("image"), "'image' is a required property"),
        (lambda _, group: group["template"]["spec"]["containers"][0]["resources"]["limits"].update(memory="64GB"), "'64GB'"),
    ],
)
def test_a_misspelled_ray_job_is_seen(change: Any, said: str) -> None:
    job = copy.deepcopy(ray_job())
    change(job["spec"], job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0])
    assert any(said in error.message for error in Draft202012Validator(JOB).iter_errors(job))


def test_the_parts_of_the_ray_job_fit_together() -> None:
    job = ray_job()
    assert re.fullmatch(r"[a-z][a-z-]*-", job["metadata"]["generateName"])
    spec = job["spec"]
    assert parses(shlex.split(spec["entrypoint"]))
    assert shlex.split(spec["entrypoint"])[-2:] == ["--ray-address", "auto"]
    assert spec["shutdownAfterJobFinishes"] is True
    cluster = spec["rayClusterSpec"]
    assert cluster["rayVersion"] == RAY
    assert cluster["authOptions"] == {"mode": "token"}
    (workers,) = cluster["workerGroupSpecs"]
    assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
    for group in (cluster["headGroupSpec"], workers):
        options = [f"--{name}={value}" for name, value in group["rayStartParams"].items()]
        assert ray_parses(["ray", "start", *options])  # KubeRay makes the command of them
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
