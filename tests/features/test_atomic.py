from pathlib import Path

import pytest

from onepass.features.atomic import replacing


@pytest.mark.parametrize("same_ending", [False, True])
def test_a_failure_leaves_the_old_file_and_nothing_beside(tmp_path: Path, same_ending: bool):
    path = tmp_path / "x.keras"
    path.write_text("old")

    def fail() -> None:
        with replacing(path, same_ending=same_ending) as beside:
            assert beside.suffix == (".keras" if same_ending else ".new")
            beside.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_was_written_takes_the_name(tmp_path: Path):
    with replacing(tmp_path / "x") as beside:
        beside.write_text("new")
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("x", "new")]
