"""What docs/faq.md says about other programs: the script for Slurm, and LPIPS by torchmetrics."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY, TINY, arguments, log_rows, make_pairs, same_training
from PIL import Image

PAGE = (REPOSITORY / "docs" / "faq.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="bash and signals")
def test_the_job_for_slurm_saves_requeues_and_resumes(tmp_path):
    """srun runs its command and passes its exit code on; scontrol notes what it is told."""
    (script,) = re.findall(r"^```\n(#!/bin/bash\n#SBATCH.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert len(script.splitlines()) == 10
    make_pairs(tmp_path / "pairs")
    fields = {**TINY, "data_root": tmp_path / "pairs", "save_epochs": 1, "validate_epochs": 100}
    words = " ".join(arguments(**fields))
    script = script.replace("train.py facades", f"train.py facades {words} --epochs 40")
    (tmp_path / "facades.sbatch").write_text(script)
    programs = {
        "python": f'exec "{sys.executable}" "$@"',
        "srun": 'echo $$ > task; exec "$@"',
        "scontrol": 'echo "$@" >> requeued',
    }
    for name, line in programs.items():
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{line}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    for file in REPOSITORY.glob("*.py"):
        (tmp_path / file.name).symlink_to(file)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "SLURM_JOB_ID": "17",
        "CUDA_VISIBLE_DEVICES": "",
    }
    run = tmp_path / "runs" / "facades"

    def job(stop: bool) -> int:
        (tmp_path / "task").unlink(missing_ok=True)
        before = (run / "log.csv").stat().st_size if run.exists() else 0
        process = subprocess.Popen(["bash", "facades.sbatch"], cwd=tmp_path, env=environment)
        while stop and not ((run / "log.csv").exists() and grown(run / "log.csv", before)):
            assert process.poll() is None
            time.sleep(0.05)
        if stop:  # as Slurm does: the training, not the script
            os.kill(int((tmp_path / "task").read_text()), signal.SIGTERM)
        return process.wait(300)

    def grown(file: Path, before: int) -> bool:
        return file.stat().st_size > before + 500

    assert job(stop=True) == 0
    assert (tmp_path / "requeued").read_text() == "requeue 17\n"
    stopped = int(log_rows(run)[-1]["step"])
    assert 0 < stopped < 240
    assert job(stop=True) == 0
    assert stopped < int(log_rows(run)[-1]["step"]) < 240
    assert job(stop=False) == 0  # to the end, without putting itself into the queue again
    assert (tmp_path / "requeued").read_text() == "requeue 17\n" * 2
    whole = [*arguments(**fields), "--epochs", "40", "--output", str(tmp_path / "whole")]
    train = [sys.executable, "train.py", "facades", *whole]
    subprocess.run(train, cwd=tmp_path, env=environment, check=True)
    assert same_training(run, tmp_path / "whole")


@pytest.mark.slow
def test_lpips_of_the_folders_of_an_evaluation(tmp_path):
    """With random weights of AlexNet, as the trained ones need a network."""
    torchvision = pytest.importorskip("torchvision")
    (block,) = re.findall(r"^```py\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    torch.manual_seed(0)
    weights = tmp_path / "torch" / "hub" / "checkpoints"
    weights.mkdir(parents=True)
    name = torchvision.models.AlexNet_Weights.IMAGENET1K_V1.url.rpartition("/")[2]
    torch.save(torchvision.models.alexnet().state_dict(), weights / name)
    test = tmp_path / "runs" / "demo" / "test"
    examples = REPOSITORY / "pretrained" / "facades" / "examples"
    for kind in ("output", "target"):
        shutil.copytree(examples, test / kind)
    (tmp_path / "block.py").write_text(block, encoding="utf-8")
    environment = {**os.environ, "TORCH_HOME": str(tmp_path / "torch"), "OMP_NUM_THREADS": "1"}

    def lpips() -> float:
        command = [sys.executable, "block.py"]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return float(re.fullmatch(r"LPIPS (\d\.\d{4})\n", done.stdout)[1])

    assert lpips() == 0
    Image.open(examples / "1.png").rotate(180).save(test / "output" / "2.png")
    assert lpips() > 0
