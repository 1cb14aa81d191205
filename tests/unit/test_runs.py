"""Run folders: who may write into one, and which bundle is meant."""

import os

import pytest

from mbti_ray.config import load_run
from mbti_ray.errors import ConfigError, RunError
from mbti_ray.runs.lookup import (
    cache_folder,
    fetch_bundle,
    locate_bundle,
    locked_run_folder,
    newest_bundle,
    storage_folder,
)
from mbti_ray.runs.run_folder import RunFolder

pytestmark = pytest.mark.unit


@pytest.fixture
def storage(tmp_path):
    return tmp_path / "runs"


def resolve_run_folder(config, **options):
    """The folder that a command would get, after it has given its lock back."""
    with locked_run_folder(config, **options) as folder:
        return folder


def config_in(storage, *overrides):
    return load_run("quick", [f"storage={storage}", *overrides])


def begin(storage, name, *, age=0.0):
    """A run folder with a config and something in it, `age` seconds old."""
    folder = RunFolder(storage / name)
    folder.begin(config_in(storage, f"name={name}"), "refuse")
    folder.metrics.write_text("{}\n")
    make_old(folder.config, age)
    return folder


def make_old(path, age):
    time = 1_700_000_000 - age
    os.utime(path, (time, time))


def make_bundle(folder, *, age=0.0):
    folder.mkdir(parents=True)
    (folder / "bundle.json").write_text("{}")
    make_old(folder / "bundle.json", age)
    return folder


def refusal(error, call, *arguments, **options):
    with pytest.raises(error) as caught:
        call(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


# A folder to write into


@pytest.mark.parametrize("existing", ["refuse", "fresh"])
def test_a_new_name_is_a_new_folder_and_nothing_is_written_by_choosing(storage, existing):
    config = config_in(storage, "name=mine")
    assert (
        resolve_run_folder(config, default_name="quick", existing=existing).path == storage / "mine"
    )
    assert not storage.exists()


def test_without_a_name_a_run_is_called_after_its_preset_and_the_time(storage):
    folder = resolve_run_folder(config_in(storage), default_name="quick", existing="refuse")
    assert folder.path.parent == storage
    assert folder.path.name.startswith("quick-20")
    assert not storage.exists()


def test_a_run_that_exists_is_refused_with_the_ways_out(storage):
    folder = begin(storage, "mine")
    message = refusal(
        RunError,
        resolve_run_folder,
        config_in(storage, "name=mine"),
        default_name="quick",
        existing="refuse",
    )
    assert message.startswith(f"{folder.path}: exists already; --resume")
    assert "--fresh" in message
    assert folder.metrics.exists()


def test_resume_goes_on_with_the_folder_of_that_name_and_keeps_what_is_in_it(storage):
    folder = begin(storage, "mine")
    config = config_in(storage, "name=mine")
    assert resolve_run_folder(config, default_name="quick", existing="resume") == folder
    folder.begin(config, "resume")
    assert folder.metrics.exists()


def test_resume_without_a_name_takes_the_newest_run_of_the_preset(storage):
    begin(storage, "quick-1", age=10)
    newest = begin(storage, "quick-0", age=5)
    begin(storage, "minilm-9", age=0)
    folder = resolve_run_folder(config_in(storage), default_name="quick", existing="resume")
    assert folder == newest


def test_resume_of_nothing_says_so_with_the_nearest_name(storage):
    message = refusal(
        RunError, resolve_run_folder, config_in(storage), default_name="quick", existing="resume"
    )
    assert message == f"{storage}: no run called quick-... to resume"
    begin(storage, "mine")
    message = refusal(
        RunError,
        resolve_run_folder,
        config_in(storage, "name=mime"),
        default_name="quick",
        existing="resume",
    )
    assert message == f'{storage / "mime"}: no run to resume; did you mean "mine"?'


def test_resume_does_not_take_a_folder_that_is_no_run(storage):
    (storage / "photos").mkdir(parents=True)
    message = refusal(
        RunError,
        resolve_run_folder,
        config_in(storage, "name=photos"),
        default_name="quick",
        existing="resume",
    )
    assert "no run to resume" in message


def test_fresh_deletes_a_run_only_when_it_begins(storage):
    folder = begin(storage, "mine")
    config = config_in(storage, "name=mine", "seed=5")
    assert resolve_run_folder(config, default_name="quick", existing="fresh") == folder
    assert folder.metrics.exists()
    folder.begin(config, "fresh")
    assert not folder.metrics.exists()
    assert load_run(str(folder.config)).seed == 5


@pytest.mark.parametrize("content", ["picture.jpg", None])
def test_fresh_never_deletes_a_folder_that_is_no_run(storage, content):
    folder = storage / "photos"
    folder.mkdir(parents=True)
    if content:
        (folder / content).write_text("x")
    message = refusal(
        RunError,
        resolve_run_folder,
        config_in(storage, "name=photos"),
        default_name="quick",
        existing="fresh",
    )
    assert message.startswith(f"{folder}: contains no config.yaml, so it is not a run; not deleted")
    assert folder.is_dir()
    assert content is None or (folder / content).exists()


def test_no_run_is_called_like_the_folder_of_tokenised_data(storage):
    message = refusal(
        ConfigError,
        resolve_run_folder,
        config_in(storage, f"name={cache_folder(str(storage)).name}"),
        default_name="quick",
        existing="refuse",
    )
    assert "choose another name" in message


def test_a_run_that_begins_again_forgets_that_it_gave_up(storage):
    folder = begin(storage, "mine")
    folder.failure.write_text("training diverged")
    folder.begin(config_in(storage, "name=mine"), "resume")
    assert not folder.failure.exists()


def test_a_begun_folder_holds_the_resolved_config(storage):
    config = config_in(storage, "name=mine", "optim.lr=0.5")
    folder = RunFolder(storage / "mine")
    folder.begin(config, "refuse")
    assert load_run(str(folder.config)) == config


def test_storage_has_to_be_a_folder(tmp_path):
    assert storage_folder(str(tmp_path / "x" / ".." / "y")) == (tmp_path / "y").resolve()
    (tmp_path / "file").write_text("")
    assert "is a file" in refusal(ConfigError, storage_folder, str(tmp_path / "file"))
    assert storage_folder(f"file://{tmp_path}/z") == (tmp_path / "z").resolve()


# A bundle to read


def test_a_bundle_whose_replacement_was_cut_off_is_the_newest_again(storage):
    run = storage / "cut"
    (run / ".bundle.0123abcd.old").mkdir(parents=True)
    (run / ".bundle.0123abcd.old" / "bundle.json").write_text("{}")
    (run / "config.yaml").write_text("{}")
    assert newest_bundle(storage) == run / "bundle"


def test_the_newest_bundle_is_a_studys_even_where_a_run_is_newer(storage):
    best = make_bundle(storage / "study" / "best" / "bundle", age=100)
    make_bundle(storage / "run" / "bundle", age=1)
    assert newest_bundle(storage) == best


@pytest.mark.parametrize("kind", ["best/bundle", "bundle"])
def test_the_newest_bundle_is_the_newest_of_its_kind(storage, kind):
    make_bundle(storage / "a" / kind, age=30)
    newest = make_bundle(storage / "b" / kind, age=10)
    make_bundle(storage / "c" / kind, age=20)
    assert newest_bundle(storage) == newest


def test_a_bundle_that_is_not_whole_yet_is_not_the_newest(storage):
    whole = make_bundle(storage / "a" / "bundle", age=30)
    make_bundle(storage / "b" / "bundle.new")
    (storage / "c" / "bundle").mkdir(parents=True)
    assert newest_bundle(storage) == whole


@pytest.mark.parametrize("exists", [True, False])
def test_where_there_is_no_bundle_the_command_that_makes_one_is_said(storage, exists):
    if exists:
        storage.mkdir()
    message = refusal(RunError, newest_bundle, storage)
    assert message.startswith(f"{storage}: contains no bundle; create one with ")


def test_a_bundle_is_found_at_its_own_folder_a_run_and_a_study(storage):
    run = make_bundle(storage / "run" / "bundle")
    best = make_bundle(storage / "study" / "best" / "bundle")
    assert fetch_bundle(run) == fetch_bundle(storage / "run") == run
    assert (
        fetch_bundle(best) == fetch_bundle(best.parent) == fetch_bundle(storage / "study") == best
    )
    assert fetch_bundle(str(storage / "run")) == run


def test_a_path_that_does_not_exist_is_told_the_nearest(storage):
    make_bundle(storage / "study" / "bundle")
    message = refusal(RunError, fetch_bundle, storage / "stuy")
    assert message == f'{storage / "stuy"}: no such folder; did you mean "{storage / "study"}"?'
    message = refusal(RunError, fetch_bundle, storage / "x" / "y" / "z")
    assert message == f"{storage / 'x' / 'y' / 'z'}: no such folder"


def test_a_folder_without_a_bundle_is_told_so(storage):
    begin(storage, "mine")
    message = refusal(RunError, fetch_bundle, storage / "mine")
    assert message.startswith(f"{storage / 'mine'}: is not a bundle or a run with a bundle")


def test_a_command_takes_the_bundle_it_is_given_or_the_newest(storage):
    old = make_bundle(storage / "a" / "bundle", age=10)
    new = make_bundle(storage / "b" / "bundle")
    assert fetch_bundle(locate_bundle(None, str(storage))) == new
    assert fetch_bundle(locate_bundle(str(storage / "a"), str(storage))) == old
