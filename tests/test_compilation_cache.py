"""The folder of compiled programs: on accelerators by default, and where the user says."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache as jax_cache

from jaxdiff import compilation_cache

OPTIONS = (
    "jax_compilation_cache_dir",
    "jax_enable_compilation_cache",
    "jax_persistent_cache_min_compile_time_secs",
)


@pytest.fixture(autouse=True)
def restored_options(tmp_path, monkeypatch):
    """No folder is named and the home folder is empty; the options of JAX are put back."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    before = {name: getattr(jax.config, name) for name in OPTIONS}
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    jax_cache.reset_cache()


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_an_accelerator_has_a_cache_in_the_home_folder(platform, tmp_path):
    folder = tmp_path / ".cache" / "jaxdiff"
    assert compilation_cache.enable(platform) == folder
    assert jax.config.jax_compilation_cache_dir == str(folder)


def test_a_cpu_has_none():
    assert compilation_cache.enable("cpu") is None
    assert jax.config.jax_compilation_cache_dir is None


@pytest.mark.parametrize("name", ["", "relative"])
def test_the_folder_follows_xdg(name, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", name)
    assert compilation_cache.enable("gpu") == tmp_path / ".cache" / "jaxdiff"
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert compilation_cache.enable("gpu") == tmp_path / "cache" / "jaxdiff"


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_what_the_user_chose_stays(platform, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    assert compilation_cache.enable(platform) == tmp_path / "mine"
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mine")
    jax.config.update("jax_enable_compilation_cache", False)
    assert compilation_cache.enable(platform) is None


def test_programs_are_kept_in_it(tmp_path):
    """The folder reaches JAX, which writes what took long enough."""
    jax_cache.reset_cache()  # earlier tests have compiled, where a command has not
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    folder = compilation_cache.enable("gpu")
    jax.jit(jnp.sin)(jnp.ones(3))
    assert isinstance(folder, Path)
    assert list(folder.iterdir())
