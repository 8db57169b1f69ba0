"""Callers may catch mien's errors or Python's, and the exit status is the error's."""

import pytest

from mien import errors

BUILTIN = {
    errors.UsageError: (ValueError, 2),
    errors.Refused: (PermissionError, 2),
    errors.MediaError: (OSError, 1),
    errors.NoFace: (LookupError, 1),
    errors.ModelNotFound: (LookupError, 1),
    errors.ModelError: (ValueError, 1),
    errors.ProviderError: (RuntimeError, 1),
}


@pytest.mark.parametrize("error", BUILTIN, ids=lambda e: e.__name__)
def test_every_error_is_ours_and_python_s(error):
    builtin, status = BUILTIN[error]
    for kind in (errors.MienError, builtin):
        with pytest.raises(kind, match=r"a\.mp4: torn"):
            raise error("a.mp4: torn")
    assert error("x").exit_status == status
    assert str(error("a.mp4: torn")) == "a.mp4: torn"  # the whole message, with no number before


def test_the_table_above_is_complete():
    ours = {
        e for e in vars(errors).values() if isinstance(e, type) and e.__module__ == "mien.errors"
    }
    assert ours - {errors.MienError} == set(BUILTIN)
    assert errors.MienError("x").exit_status == 1
