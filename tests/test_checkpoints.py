"""Checkpoint files: damaged, of strangers, of earlier versions; always a line, never code."""

import random
import re
import resource
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import (
    REPOSITORY,
    TINY,
    RunsCode,
    config_for,
    equal,
    log_rows,
    refusal,
    same_training,
    truncate,
)
from PIL import Image

import evaluate
import train
from config import Config
from engine.cli import UserError
from engine.files import DamagedError, find_damage
from utils import (
    CHECKPOINT_FORMAT,
    build_generator,
    load_checkpoint,
    load_generator,
    save_checkpoint,
    translate,
)

pytestmark = pytest.mark.usefixtures("undrawn")

FORMAT_1 = REPOSITORY / "tests" / "checkpoint_format_1.pt"

# ---- Damage -----------------------------------------------------------------------------------


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def nothing(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("harm", [truncate, flip_a_bit, zeros, nothing, Path.unlink])
def test_the_last_good_checkpoint_is_used_with_a_message(finished, copied, capsys, harm):
    harm(copied / "checkpoints" / "latest.pt")
    checkpoint = load_checkpoint(copied)
    assert checkpoint["step"] == 12  # of 18
    printed = capsys.readouterr().err
    if harm is not Path.unlink:
        assert "latest.pt cannot be read as a checkpoint" in printed
        assert "previous.pt, step 12" in printed
        with pytest.raises(UserError, match=r"latest\.pt cannot be read as a checkpoint"):
            load_generator(copied / "checkpoints" / "latest.pt")  # asked for by name
    weights = load_generator(copied).state_dict()
    assert equal(checkpoint["generator"], dict(weights))
    # It resumes from there, and ends where it should.
    assert train.main(["--resume", copied]) == 0
    assert same_training(copied, finished)
    assert log_rows(copied) == log_rows(finished)
    for name in ("latest.pt", "previous.pt"):
        assert find_damage(copied / "checkpoints" / name) is None


def test_kept_checkpoints_are_the_last_resort_and_without_any_it_is_refused(pairs, tmp_path):
    run = tmp_path / "run"
    train.train(config_for(pairs, run, epochs=2, keep_epochs=1))
    for name in ("latest.pt", "previous.pt", "epoch_0002.pt"):
        truncate(run / "checkpoints" / name)
    assert load_checkpoint(run)["step"] == 6
    truncate(run / "checkpoints" / "epoch_0001.pt")
    with pytest.raises(UserError, match=r"epoch_0001\.pt cannot be read as a checkpoint"):
        load_checkpoint(run)


def test_a_run_is_found_by_any_of_its_names(copied):
    (copied / "checkpoints" / "latest.pt").unlink()
    assert load_checkpoint(copied / "checkpoints")["step"] == 12
    with pytest.raises(UserError, match=r"latest\.pt does not exist; .*copied has previous\.pt"):
        load_checkpoint(copied / "checkpoints" / "latest.pt")


def test_every_flipped_bit_is_found_or_harmless(finished, tmp_path):
    """Flips that the checksums miss lie where zip has no content; what is read is unchanged."""
    data = (finished / "checkpoints" / "latest.pt").read_bytes()
    sound = load_checkpoint(finished)
    place = random.Random(0)
    found = 0
    for _ in range(150):
        flipped = bytearray(data)
        flipped[place.randrange(len(data))] ^= 1 << place.randrange(8)
        path = tmp_path / "flipped.pt"
        path.write_bytes(flipped)
        try:
            assert equal(load_checkpoint(path), sound)
        except DamagedError:
            found += 1
    assert found > 125


def test_a_damaged_checkpoint_never_pushes_out_a_good_one(tmp_path):
    path = tmp_path / "checkpoints" / "latest.pt"
    previous = path.with_name("previous.pt")
    for step in (1, 2):
        save_checkpoint(path, Config(), step=step, generator={"weight": torch.ones(9999)})
    flip_a_bit(path)
    save_checkpoint(path, Config(), step=3, generator={"weight": torch.ones(9999)})
    assert (load_checkpoint(path)["step"], load_checkpoint(previous)["step"]) == (3, 1)


def test_a_failed_write_leaves_both_checkpoints(tmp_path):
    """A real write error: files may not grow past 1 MB."""
    path = tmp_path / "checkpoints" / "latest.pt"
    for step in (1, 2):
        save_checkpoint(path, Config(), step=step, generator={"weight": torch.ones(10)})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(UserError, match=r"latest\.pt cannot be written: File too large"):
            save_checkpoint(path, Config(), step=3, generator={"weight": torch.zeros(1_000_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    names = {file.name: load_checkpoint(file)["step"] for file in path.parent.iterdir()}
    assert names == {"latest.pt": 2, "previous.pt": 1}


# ---- Files from strangers ---------------------------------------------------------------------

NOT_READ = "cannot be read as a checkpoint"
NOT_OURS = "is not a checkpoint of this project"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (lambda path: path.write_bytes(b"x" * 100), NOT_READ),
        (lambda path: path.write_bytes(b""), NOT_READ),
        (lambda path: torch.save({"format": RunsCode()}, path), NOT_READ),
        (lambda path: torch.save({"weights": 1}, path), NOT_OURS),
        (lambda path: torch.save({"format": 1}, path), NOT_OURS),
        (lambda path: torch.save({"format": "one"}, path), NOT_OURS),
        (lambda path: torch.save([1, 2], path), NOT_OURS),
        (lambda path: torch.save({"format": 99}, path), "checkpoint format 99"),
    ],
)
def test_other_files_are_refused_as_checkpoints(tmp_path, monkeypatch, content, line):
    monkeypatch.chdir(tmp_path)
    content(tmp_path / "file.pt")
    with pytest.raises(UserError, match=rf"file\.pt.*{line}"):
        load_checkpoint(tmp_path / "file.pt")
    assert not (tmp_path / "harmed").exists()
    with pytest.raises(UserError, match=r"run folder or checkpoint .*nothing does not exist"):
        load_checkpoint(tmp_path / "nothing")
    with pytest.raises(UserError, match="holds no checkpoint"):
        load_checkpoint(tmp_path)


def test_code_in_a_checkpoint_is_never_run(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    state = torch.load(finished / "checkpoints" / "latest.pt", weights_only=True)
    for key in ("generator", "extra"):
        torch.save({**state, key: RunsCode()}, "stranger.pt")
        with pytest.raises(DamagedError, match=rf"stranger\.pt {NOT_READ}: Weights only load"):
            load_generator("stranger.pt")
    for main, words in (
        (evaluate.main, ["stranger.pt"]),
        (train.main, ["--resume", "stranger.pt"]),
    ):
        line = refusal(capsys, main, *words)
        assert f"error: stranger.pt {NOT_READ}: Weights only load" in line
    assert not (tmp_path / "harmed").exists()


def lacking(state):
    del state["generator"]["output.1.weight"]


def another_shape(state):
    state["generator"]["output.1.weight"] = torch.zeros(3, 3, 4, 4)


def strange(state):
    state["generator"]["extra"] = torch.zeros(1)


def no_tensors(state):
    state["generator"] = dict.fromkeys(state["generator"], "weight")


def absurd_configuration(state):
    state["config"]["base_channels"] = 2**14


def absurd_tensors(state):
    """A file of a few bytes that stands for gigabytes."""
    state["config"]["base_channels"] = 4096
    with torch.device("meta"):
        network = build_generator(Config(**{**TINY, "base_channels": 4096}))
    state["generator"] = {
        key: torch.zeros(1).expand(value.shape) for key, value in network.state_dict().items()
    }


def shared(state):
    """Ten lists of ten lists of ... of one tensor: more than can be counted one by one."""
    nested = [torch.zeros(1)]
    for _ in range(40):
        nested = [nested] * 10
    state["extra"] = nested
    state["format"] = CHECKPOINT_FORMAT + 1


def cyclic(state):
    state["extra"] = state
    strange(state)


def sparse(state):
    state["generator"]["output.1.weight"] = torch.zeros(8, 3, 4, 4).to_sparse()


def on_no_device(state):
    state["generator"]["output.1.weight"] = torch.zeros(8, 3, 4, 4, device="meta")


def endless(state):
    state["config"]["learning_rate"] = 10**400


def mixed_fields(state):
    state["config"] |= {1: 2, "\x1b[31m" * 10**5: 3}


def newer(state):
    state["format"] = CHECKPOINT_FORMAT + 1


def unknown_field(state):
    state["config"]["telepathy"] = True


def wrong_value(state):
    state["config"]["depth"] = "deep"


NO_FIT = "its generator does not fit its configuration: .*"
FOREIGN = {
    lacking: NO_FIT + r"output\.1\.weight is missing",
    another_shape: NO_FIT + r"output\.1\.weight.*\[3, 3, 4, 4\].*\[8, 3, 4, 4\]",
    strange: NO_FIT + "extra is not part of it",
    no_tensors: NO_FIT,
    absurd_configuration: NO_FIT + "encoder.0.0.weight has the shape",
    absurd_tensors: NOT_OURS,
    shared: "checkpoint format 2",
    cyclic: NO_FIT + "extra is not part of it",
    sparse: NOT_OURS,
    on_no_device: NOT_OURS,
    endless: "learning_rate is 10+",
    mixed_fields: "fields unknown to this version",
    newer: "checkpoint format 2, this version reads up to 1; update the code",
    unknown_field: "fields unknown to this version.*telepathy",
    wrong_value: "depth is 'deep'",
}


@pytest.mark.parametrize("change", FOREIGN, ids=lambda change: change.__name__)
def test_checkpoints_that_do_not_fit_are_refused_in_one_line(finished, tmp_path, capsys, change):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    state = torch.load(finished / "checkpoints" / "latest.pt", weights_only=True)
    state["generator"] = dict(state["generator"])
    change(state)
    torch.save(state, run / "checkpoints" / "latest.pt")
    with pytest.raises(UserError, match=FOREIGN[change]) as error:
        load_generator(run)
    assert str(error.value).isprintable() and len(str(error.value)) <= 1000
    line = refusal(capsys, train.main, "--resume", run, "--epochs", 9)
    assert re.search(FOREIGN[change], line)


def moments_of_another_shape(state):
    state["optimizer_d"]["state"][0]["exp_avg"] = torch.zeros(2)


def no_discriminator(state):
    del state["discriminator"]


def no_random_numbers(state):
    state["rng"] = []


def other_random_numbers(state):
    state["rng"] = [{"cpu": torch.zeros(3, dtype=torch.uint8)}]


def wrong_shift(state):
    state["shift"] = "x"


def no_list_of_random_numbers(state):
    state["rng"] = [torch.zeros(3)]


def many_losses(state):
    state["losses_steps"] = 10**400


def no_step(state):
    state["step"] = -1


INCOMPLETE = {
    moments_of_another_shape: "does not fit",
    no_discriminator: "does not fit: 'discriminator'",
    no_random_numbers: "does not fit",
    other_random_numbers: "does not fit",
    wrong_shift: "does not fit",
    no_list_of_random_numbers: "does not fit",
    many_losses: "does not fit",
    no_step: NOT_OURS,
}


@pytest.mark.parametrize("change", INCOMPLETE, ids=lambda change: change.__name__)
def test_a_run_resumes_only_from_all_of_its_state(copied, capsys, change):
    (copied / "checkpoints" / "previous.pt").unlink()
    state = torch.load(copied / "checkpoints" / "latest.pt", weights_only=True)
    change(state)
    torch.save(state, copied / "checkpoints" / "latest.pt")
    line = refusal(capsys, train.main, "--resume", copied, "--epochs", 9)
    assert INCOMPLETE[change] in line


def test_a_compressed_checkpoint_is_refused(finished, tmp_path):
    """It could unpack to any size; torch.save never writes one."""
    with (
        zipfile.ZipFile(finished / "checkpoints" / "latest.pt") as source,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in source.namelist():
            bomb.writestr(name, source.read(name))
    with pytest.raises(UserError, match=rf"bomb\.pt {NOT_READ}: it is compressed"):
        load_generator(tmp_path / "bomb.pt")


def test_loading_a_generator_draws_no_random_numbers(finished):
    state = torch.get_rng_state()
    load_generator(finished)
    assert torch.equal(state, torch.get_rng_state())


# ---- Formats ----------------------------------------------------------------------------------


def test_a_checkpoint_of_format_1_loads_for_ever(pairs, tmp_path):
    """Kept from the first version: what it made of an image then, and that it can resume."""
    generator = load_generator(FORMAT_1)
    ramp = np.arange(32 * 32 * 3, dtype=np.uint32).reshape(32, 32, 3) % 256
    image = translate(generator, Image.fromarray(ramp.astype(np.uint8)), noise=False)
    kept = np.asarray(Image.open(FORMAT_1.with_suffix(".png")))
    assert np.abs(np.asarray(image).astype(int) - kept).max() <= 2
    shutil.copy(FORMAT_1, tmp_path / "latest.pt")
    words = ["--resume", tmp_path / "latest.pt", "--data_root", pairs, "--epochs", 3]
    assert train.main(words) == 0
    assert load_checkpoint(tmp_path)["step"] == 18


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_the_names_of_wrappers_are_taken_off(finished, tmp_path, prefix):
    state = load_checkpoint(finished)
    state["generator"] = {prefix + key: value for key, value in state["generator"].items()}
    torch.save(state, tmp_path / "wrapped.pt")
    assert equal(
        dict(load_generator(tmp_path / "wrapped.pt").state_dict()),
        dict(load_generator(finished).state_dict()),
    )


def test_a_compiled_generator_is_saved_and_loaded_plainly(finished, tmp_path):
    generator = load_generator(finished)
    compiled = torch.compile(generator)
    assert any(key.startswith("_orig_mod.") for key in compiled.state_dict())
    save_checkpoint(tmp_path / "c.pt", generator.config, step=0, generator=compiled.state_dict())
    again = load_generator(tmp_path / "c.pt")
    assert equal(dict(again.state_dict()), dict(generator.state_dict()))
