"""The launch files parse, and pass options to train.py that exist; no scheduler is needed."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from worldmodel.config.arguments import parse_overrides
from worldmodel.config.compose import build_config
from worldmodel.system.signals import PREEMPTED

ROOT = Path(__file__).resolve().parents[1]
LAUNCH = ROOT / "launch"


def kubernetes() -> dict[str, Any]:
    """The job of every machine, in the JobSet."""
    jobset = yaml.safe_load((LAUNCH / "jobset.yaml").read_text())
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    rule = jobset["spec"]["failurePolicy"]["rules"][0]
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    return jobset["spec"]["replicatedJobs"][0]["template"]["spec"]


def skypilot() -> dict[str, Any]:
    return yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())


def words_of(command: str) -> list[str]:
    """The arguments of train.py, with a host or a number for each variable."""
    command = re.sub(r"\$\(.*?\)|\$COORDINATOR\b", "host", command.replace("\\\n", " "))
    command = command.replace("$WORDS", skypilot()["envs"]["WORDS"])
    command = re.sub(r"\$\w*(NODES|HOSTS)\b", "2", command)
    words = shlex.split(re.sub(r"\$\w+", "1", command))
    assert words[:3] == ["exec", "python", "train.py"]  # exec: signals reach the trainer
    return words[3:]


@pytest.mark.parametrize("file", ["jobset.yaml", "skypilot.yaml"])
def test_a_launch_file_starts_processes_that_can_connect(file: str) -> None:
    pod = kubernetes()["template"]["spec"]["containers"][0]
    command = pod["args"][0] if file == "jobset.yaml" else skypilot()["run"]
    options = build_config(
        ROOT / "configs", parse_overrides(words_of(command))
    ).training.distributed
    assert options.coordinator_address == "host:29400"
    assert (options.num_processes, options.process_id) == (2, 1)


def test_as_many_pods_start_as_wait_for_each_other() -> None:
    job = kubernetes()
    pod = job["template"]["spec"]["containers"][0]
    environment = {entry["name"]: entry.get("value") for entry in pod["env"]}
    assert job["parallelism"] == job["completions"] == int(environment["HOSTS"])


def test_a_run_that_saved_and_exited_is_started_again() -> None:
    rules = kubernetes()["podFailurePolicy"]["rules"]
    assert {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget"}]} in rules
    assert [PREEMPTED] in [rule["onExitCodes"]["values"] for rule in rules if "onExitCodes" in rule]
    assert skypilot()["resources"]["job_recovery"]["recover_on_exit_codes"] == [PREEMPTED]
    script = LAUNCH / "slurm.sbatch"
    assert f'"$status" -eq {PREEMPTED}' in script.read_text()
    subprocess.run(["bash", "-n", str(script)], check=True)
