"""Settings: which place wins, and what is said of wrong ones."""

import pytest

from mien import config
from mien.errors import UsageError


def test_defaults(tmp_path):
    settings = config.load(environment={}, folder=tmp_path)
    assert settings == config.Settings()
    assert settings.generator == "relight"


def test_order(tmp_path):
    (tmp_path / "mien.toml").write_text(
        'blend = "poisson"\nworkers = 2\nthreads = 2\nquality = 30\nwhite_balance = true\n'
    )
    settings = config.load(
        environment={"MIEN_WORKERS": "3", "MIEN_THREADS": "3", "PATH": "/bin"},
        flags={"threads": 4, "quality": None, "encoder": None},
        folder=tmp_path,
    )
    assert settings.blend == "poisson"
    assert settings.white_balance is True
    assert (settings.quality, settings.workers, settings.threads) == (30, 3, 4)


def test_named_file_goes_before_the_folder_s(tmp_path):
    (tmp_path / "mien.toml").write_text("workers = 2\n")
    (tmp_path / "other.toml").write_text("workers = 5\n")
    named = tmp_path / "other.toml"
    assert config.load(named, environment={}, folder=tmp_path).workers == 5
    by_variable = config.load(environment={"MIEN_CONFIG": str(named)}, folder=tmp_path)
    assert by_variable.workers == 5


def test_variables_of_the_tests_are_no_settings():
    assert config.load(environment={"MIEN_TEST_MEDIA": "/media"}) == config.Settings()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("blnd = 'soft'", ["mien.toml: blnd", "unknown key", "blend"]),
        ("consent = 'self'", ["mien.toml: consent", "unknown key"]),
        ("blend = 'hard'", ["mien.toml: blend", "soft", "poisson", "hard"]),
        ("workers = 0", ["mien.toml: workers", "greater than or equal to 1"]),
        ("workers = 'many'", ["mien.toml: workers", "integer", "many"]),
        ("workers =", ["mien.toml", "TOML"]),
        ("[swap]\nworkers = 1", ["mien.toml: swap", "unknown key"]),
    ],
)
def test_wrong_file(text, words, tmp_path):
    (tmp_path / "mien.toml").write_text(text)
    with pytest.raises(UsageError) as caught:
        config.load(environment={}, folder=tmp_path)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_status == 2


def test_wrong_variable_and_flag(tmp_path):
    with pytest.raises(UsageError, match="environment variable MIEN_COLOUR: unknown key"):
        config.load(environment={"MIEN_COLOUR": "lab"}, folder=tmp_path)
    with pytest.raises(UsageError, match=r"MIEN_THREADS: .*'two'"):
        config.load(environment={"MIEN_THREADS": "two"}, folder=tmp_path)
    with pytest.raises(UsageError, match=r"--color: .*'gray'"):
        config.load(environment={}, flags={"color": "gray"}, folder=tmp_path)
    with pytest.raises(UsageError, match=r"gone\.toml: no such settings file"):
        config.load(tmp_path / "gone.toml", environment={})
    (tmp_path / "mien.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="TOML"):
        config.load(environment={}, folder=tmp_path)
