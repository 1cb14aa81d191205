"""Checkpoints: complete, readable without pickle, and refused in one line when damaged."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from mbti_ray.engine.checkpoint import (
    Checkpoint,
    Progress,
    checkpoints_under,
    load_checkpoint,
    save_checkpoint,
)
from mbti_ray.errors import RunError

pytestmark = pytest.mark.unit


def trained_model():
    """A small model and its optimizer after a step, so that there are moments to save."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.randn(2, 5)).sum().backward()
    optimizer.step()
    return model, optimizer


def some_checkpoint(*, step=7, best=True):
    model, optimizer = trained_model()
    state = model.state_dict()
    return Checkpoint(
        model=state,
        best={name: tensor + 1 for name, tensor in state.items()} if best else None,
        optimizer={
            "optimizer": optimizer.state_dict(),
            "scaler": torch.amp.GradScaler("cpu", init_scale=512.0).state_dict(),
        },
        progress=Progress(
            epoch=2, step=step, best=0.75, best_epoch=1, best_scores={"acc_ei": 0.5, "loss": 0.6}
        ),
    )


@pytest.fixture
def saved(tmp_path):
    folder = tmp_path / "step-0000007"
    save_checkpoint(folder, some_checkpoint())
    return folder


def assert_same_state(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name])


@pytest.mark.parametrize("best", [True, False])
def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path, best):
    checkpoint = some_checkpoint(best=best)
    save_checkpoint(tmp_path / "c", checkpoint)
    there = load_checkpoint(tmp_path / "c")
    assert_same_state(there.model, checkpoint.model)
    if best:
        assert_same_state(there.best, checkpoint.best)
    else:
        assert there.best is None
    assert there.progress == checkpoint.progress
    assert there.optimizer["scaler"] == checkpoint.optimizer["scaler"]


def test_an_optimizer_resumes_from_a_checkpoint_as_if_it_had_not_stopped(saved):
    there = load_checkpoint(saved)
    models = []
    for restored in (False, True):
        model, optimizer = trained_model()
        if restored:
            for parameter in model.parameters():
                parameter.data.zero_()
            model.load_state_dict(there.model)
            optimizer = torch.optim.AdamW(model.parameters(), lr=9.0)
            optimizer.load_state_dict(there.optimizer["optimizer"])
        optimizer.zero_grad()
        model(torch.ones(2, 5)).sum().backward()
        optimizer.step()
        models.append(model)
    assert_same_state(models[0].state_dict(), models[1].state_dict())


def test_no_file_of_a_checkpoint_needs_pickle(saved):
    assert {p.name for p in saved.iterdir()} == {
        "model.safetensors",
        "best.safetensors",
        "optimizer.pt",
        "progress.json",
    }
    torch.load(saved / "optimizer.pt", weights_only=True)
    assert json.loads((saved / "progress.json").read_text("utf-8"))["step"] == 7


def test_tied_weights_are_saved_under_both_names(tmp_path):
    checkpoint = some_checkpoint()
    weight = torch.arange(4.0)
    checkpoint.model = {"one": weight, "two": weight}
    save_checkpoint(tmp_path / "c", checkpoint)
    assert_same_state(load_checkpoint(tmp_path / "c").model, {"one": weight, "two": weight})


FILES = ("model.safetensors", "best.safetensors", "optimizer.pt", "progress.json")


def refusal_of(folder):
    with pytest.raises(RunError) as caught:
        load_checkpoint(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{folder}: checkpoint is damaged (")
    return message


@pytest.mark.parametrize("name", [n for n in FILES if n != "best.safetensors"])
def test_a_missing_file_is_refused_in_one_line_with_its_name(saved, name, monkeypatch):
    monkeypatch.chdir(saved.parent)
    (saved / name).unlink()
    assert name in refusal_of(Path(saved.name))


def test_a_missing_folder_is_refused_in_one_line(tmp_path):
    refusal_of(tmp_path / "nothing")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.95])
def test_a_torn_file_is_refused_in_one_line(saved, name, share):
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[: int(len(content) * share)])
    refusal_of(saved)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", [b"\x00" * 200, b"not what it was", b"[1, 2]", b'{"x": 1}'])
def test_a_file_with_other_content_is_refused_in_one_line(saved, name, content):
    (saved / name).write_bytes(content)
    refusal_of(saved)


def test_a_pickle_that_would_run_code_is_refused_unread(saved, tmp_path):
    mark = tmp_path / "ran"

    class Touch:
        def __reduce__(self):
            return mark.touch, ()

    torch.save({"optimizer": Touch()}, saved / "optimizer.pt")
    refusal_of(saved)
    assert not mark.exists()


def test_the_newest_checkpoint_is_the_one_with_the_most_steps(tmp_path):
    for step in (9, 100, 20):
        save_checkpoint(tmp_path / f"a{step}" / "deep", some_checkpoint(step=step))
    assert checkpoints_under(tmp_path)[0] == tmp_path / "a100" / "deep"


def test_an_unfinished_checkpoint_is_not_the_newest(tmp_path):
    save_checkpoint(tmp_path / "step-0000005", some_checkpoint(step=5))
    save_checkpoint(tmp_path / "step-0000009", some_checkpoint(step=9))
    (tmp_path / "step-0000009" / "progress.json").unlink()
    assert checkpoints_under(tmp_path)[0] == tmp_path / "step-0000005"


def test_there_is_no_newest_checkpoint_where_there_is_none(tmp_path):
    assert checkpoints_under(tmp_path) == []
    assert checkpoints_under(tmp_path / "nothing") == []
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "model.safetensors").write_bytes(b"")
    assert checkpoints_under(tmp_path) == []


@pytest.mark.parametrize("torn", ["", "{", '{"epoch": 1}', "[]"])
def test_a_checkpoint_whose_progress_file_is_torn_is_not_the_newest(tmp_path, torn):
    save_checkpoint(tmp_path / "step-0000005", some_checkpoint(step=5))
    save_checkpoint(tmp_path / "step-0000009", some_checkpoint(step=9))
    (tmp_path / "step-0000009" / "progress.json").write_text(torn, "utf-8")
    assert checkpoints_under(tmp_path)[0] == tmp_path / "step-0000005"


@pytest.mark.parametrize("without_improvement", [0, 1])
def test_the_current_weights_do_not_pass_for_the_best_ones_that_are_missing(
    tmp_path, without_improvement
):
    checkpoint = some_checkpoint()
    checkpoint.progress.epochs_without_improvement = without_improvement
    save_checkpoint(tmp_path, checkpoint)
    (tmp_path / "best.safetensors").unlink()
    if not without_improvement:
        assert load_checkpoint(tmp_path).best is None
        return
    with pytest.raises(RunError, match=r"damaged .*best\.safetensors"):
        load_checkpoint(tmp_path)
