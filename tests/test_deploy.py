"""The files of deploy/: valid, pinned, without a default password, and scripts that do what the pages say."""

import configparser
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
import yaml
from compose_spec import PyCompose
from helpers.project import PROJECT, only_line

from normstudy.cli import build_app

DEPLOY = PROJECT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
CLAIM, JOB = yaml.safe_load_all((DEPLOY / "kuberay.yaml").read_text())
CLUSTER = JOB["spec"]["rayClusterSpec"]
GROUPS = [CLUSTER["headGroupSpec"], *CLUSTER["workerGroupSpecs"]]
SERVE, SLURM = DEPLOY / "serve.sh", DEPLOY / "slurm.sh"
PAGES = [PROJECT / "docs" / name for name in ("cluster.md", "team-server.md")]
REQUIRED = re.compile(r"\$\{(\w+):\?[^}]+\}")
KUBERNETES = "1.34"


def required_by_serve() -> list[str]:
    return re.findall(r"^required (\w+)", SERVE.read_text(), re.MULTILINE)


def test_compose_is_valid_and_takes_each_secret_from_a_variable_of_the_example_which_has_no_values() -> None:
    lines = [line for line in (DEPLOY / ".env.example").read_text().splitlines() if not line.startswith("#")]
    assert all(line.endswith("=") for line in lines)
    text = (DEPLOY / "compose.yaml").read_text()
    PyCompose.from_yaml(text)
    assert {line.removesuffix("=") for line in lines} == set(REQUIRED.findall(text))
    assert text.count("${") == len(REQUIRED.findall(text)), "a variable with a default, or without a message"
    secret = re.compile("PASSWORD|SECRET|KEY|TOKEN")
    for name, service in COMPOSE["services"].items():
        for variable, value in service["environment"].items():
            assert not secret.search(variable) or REQUIRED.fullmatch(value), f"{name}: {variable}"
    assert set(required_by_serve()) <= set(COMPOSE["services"]["mlflow"]["environment"])


def test_only_the_tracking_server_is_published_and_only_on_this_machine() -> None:
    ports = {name: service["ports"] for name, service in COMPOSE["services"].items() if "ports" in service}
    assert ports == {"mlflow": ["127.0.0.1:5000:5000"]}
    assert COMPOSE["networks"]["inside"] == {"internal": True}


def test_the_servers_packages_are_those_that_the_tests_run() -> None:
    lock, tested = (folder / name for folder, name in ((DEPLOY, "requirements.txt"), (PROJECT, "requirements-dev.txt")))
    for requirement in (DEPLOY / "requirements.in").read_text().splitlines():
        pin = re.sub(r"\[.*\]", "", requirement)
        if not pin.startswith(("#", "boto3")):
            assert f"\n{pin} " in tested.read_text(), requirement
            assert f"\n{pin} \\\n    --hash=sha256:" in lock.read_text(), requirement


@pytest.mark.parametrize("missing", [*required_by_serve(), "SLURM_JOB_ID", "MLFLOW_TRACKING_URI", "NORMSTUDY_STATE"])
def test_a_script_refuses_in_one_line_when_a_variable_is_missing(missing: str, tmp_path: Path) -> None:
    path = SERVE if missing in required_by_serve() else SLURM
    settings = {**dict.fromkeys(required_by_serve(), "something"), **slurm_job(tmp_path), "PYTHON": "false"}
    del settings[missing]
    done = run_script(path, settings)
    assert done.returncode == 2
    assert only_line(done.stderr).startswith(f"{path.name}: error: ")
    assert missing in done.stderr or "no SLURM job" in done.stderr


def test_serve_puts_no_password_into_the_command_or_the_file_of_users(tmp_path: Path) -> None:
    python = script(tmp_path / "python", 'echo "$@ $MLFLOW_BACKEND_STORE_URI"')
    hidden = {"PGPASSWORD": "hidden-1", "MLFLOW_AUTH_ADMIN_PASSWORD": "hidden-2"}
    hidden["MLFLOW_FLASK_SERVER_SECRET_KEY"] = "hidden-3"
    settings = {**dict.fromkeys(required_by_serve(), "something"), **hidden, "PGUSER": "a%b", "PYTHON": str(python)}
    done = run_script(SERVE, settings, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    users = configparser.ConfigParser()
    users.read(tmp_path / "basic_auth.ini")
    assert users["mlflow"]["database_uri"] == "postgresql+psycopg://a%b@something:5432/something"
    assert "--app-name basic-auth" in done.stdout
    assert "--allowed-hosts something" in done.stdout
    assert "hidden" not in done.stdout + (tmp_path / "basic_auth.ini").read_text()


@pytest.mark.parametrize("path", [SERVE, SLURM], ids=lambda path: path.name)
def test_shellcheck_finds_nothing(path: Path) -> None:
    program = Path(sys.executable).parent / "shellcheck"
    done = subprocess.run([program, str(path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_cluster_asks_for_a_token_and_has_the_version_of_ray_that_is_locked() -> None:
    assert CLUSTER["authOptions"] == {"mode": "token"}
    assert f"\nray=={CLUSTER['rayVersion']} " in (PROJECT / "requirements-cluster.txt").read_text()


@pytest.mark.faults  # its package weighs 108 MB, and comes with Ray
def test_claim_and_pods_are_valid_for_kubernetes() -> None:
    import kubernetes_validate

    kubernetes_validate.validate(CLAIM, KUBERNETES, strict=True)
    for group in GROUPS:
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pod"}, "template": group["template"]}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def test_slurm_script_starts_the_cluster_studies_and_ends_the_cluster(tmp_path: Path) -> None:
    done = run_script(SLURM, slurm_job(tmp_path), "experiments/recipe.py")
    assert done.returncode == 0, done.stderr
    head, worker, study = sorted((tmp_path / "calls").read_text().splitlines())
    assert re.fullmatch(r"1 --nodes=1 .*--nodelist=n1 .*ray start --head .*--port=24242 .*", head)
    assert re.fullmatch(r"1 --nodes=2 .*--exclude=n1 .*ray start .*--address=127.0.0.1:24242 .*", worker)
    assert study == "2 study experiments/recipe.py --executor ray --address 127.0.0.1:24242 token of 600"
    assert sorted((tmp_path / "ended").read_text().splitlines()) == ["ray", "ray"]
    assert not list((tmp_path / "state").iterdir()), "the token is gone"


@pytest.mark.parametrize(("number", "back"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
def test_slurm_script_stops_the_study_and_requeues_it_when_its_time_is_over(
    number: signal.Signals, back: bool, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        ["bash", str(SLURM), "long.py"], env=slurm_job(tmp_path), stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 30
    while not (tmp_path / "studying").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 143
    assert sorted((tmp_path / "ended").read_text().splitlines()) == ["ray", "ray", "study"]
    assert (output == "scontrol requeue 4242\n") == back


def test_pages_and_files_name_only_commands_and_options_that_exist() -> None:
    commands = typer.main.get_command(build_app()).commands  # type: ignore[attr-defined]
    files = [*PAGES, SLURM, DEPLOY / "kuberay.yaml", DEPLOY / "compose.yaml"]
    named = re.compile(r"(?:-m |`|^)normstudy ([^`\n]*)", re.MULTILINE)
    calls = [call for file in files for call in named.findall(file.read_text())]
    assert {call.split()[0] for call in calls} == {"study", "report", "sync", "reap"}
    for call in calls:
        command = commands[call.split()[0]]
        options = {option for parameter in command.params for option in parameter.opts}
        assert set(re.findall(r"--[a-z][a-z-]*", call)) <= options, call


def run_script(
    path: Path, environment: dict[str, str], *arguments: str, cwd: Path = PROJECT
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(path), *arguments],
        cwd=cwd,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)
    return path


def slurm_job(folder: Path) -> dict[str, str]:
    """The environment of a SLURM job of three nodes, with stand-ins for SLURM's programs, Ray and the project."""
    wait = 'trap "echo {0} >>' + f"{folder}/ended; exit 143" + '" TERM; echo here >>{1}; while sleep 0.05; do :; done'
    script(folder / "path" / "srun", f'echo "1 $*" >>{folder}/calls; while [[ $1 == --* ]]; do shift; done; exec "$@"')
    script(folder / "path" / "scontrol", 'echo "scontrol $*"')
    script(folder / "bin" / "ray", wait.format("ray", f"{folder}/joined"))
    study = f'echo "2 ${{*:3}} token of $(stat -c %a "$RAY_AUTH_TOKEN_PATH")" >>{folder}/calls'
    long = wait.format("study", f"{folder}/studying")
    all_here = f'[[ "$(wc -l <{folder}/joined)" -eq 2 ]]'
    script(
        folder / "bin" / "python",
        f'case "$1 $2 $4" in\n-m*long.py) {long} ;;\n-m*) {study} ;;\n'
        f"*token_hex*) printf secret ;;\n*ray.init*) {all_here} ;;\nesac",
    )
    return {
        "PATH": f"{folder / 'path'}{os.pathsep}{os.environ['PATH']}",
        "SLURM_JOB_ID": "4242",
        "SLURMD_NODENAME": "n1",
        "SLURM_JOB_NUM_NODES": "3",
        "SLURM_CPUS_PER_TASK": "8",
        "MLFLOW_TRACKING_URI": "https://mlflow.example.org",
        "NORMSTUDY_STATE": str(folder / "state"),
        "NORMSTUDY_BIN": str(folder / "bin"),
        "NORMSTUDY_HEAD": "127.0.0.1",
        "NORMSTUDY_POLL_SECONDS": "0.1",
    }
