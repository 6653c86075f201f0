"""The commit that run.json names."""

import subprocess

import pytest

from jaxdiff.provenance import find_commit


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.delenv("JAXDIFF_COMMIT", raising=False)
    # Nothing of the user's git, and no repository around the folder, plays a part.
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    find_commit.cache_clear()
    (tmp_path / "code.py").write_text("a = 1\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "code.py")
    author = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    git(tmp_path, *author, "commit", "--quiet", "--message=First")
    yield tmp_path
    find_commit.cache_clear()


def git(folder, *command):
    result = subprocess.run(
        ["git", "-C", folder, *command], check=True, capture_output=True, text=True
    )
    return result.stdout.strip()


def test_a_commit_is_named_and_changes_are_told(repository):
    head = git(repository, "rev-parse", "HEAD")
    assert find_commit(repository) == head
    (repository / "code.py").write_text("a = 2\n")
    find_commit.cache_clear()
    assert find_commit(repository) == f"{head}-dirty"


def test_an_image_names_the_commit_that_it_was_built_of(repository, monkeypatch):
    monkeypatch.setenv("JAXDIFF_COMMIT", "abc")
    assert find_commit(repository) == "abc"


def test_what_git_does_not_track_has_no_commit(repository, monkeypatch):
    folder = repository / "site-packages"
    folder.mkdir()
    (folder / "code.py").write_text("a = 1\n")
    assert find_commit(folder) == "unknown"
    find_commit.cache_clear()
    monkeypatch.setenv("PATH", "")
    assert find_commit(repository) == "unknown"
