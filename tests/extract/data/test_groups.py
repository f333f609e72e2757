"""Groups from the user's table or pattern to the split, the summary and the next run."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from onepass.extract import Backbone, extract_features, plan, repair, verify
from onepass.extract.data.groups import GroupRule
from onepass.extract.data.source import check_source, scan_source
from onepass.extract.data.sources import open_source
from onepass.extract.data.splits import draw_splits
from onepass.extract.one_pass.report import Extraction
from onepass.extract.one_pass.run import run_extraction
from onepass.features import FeatureFile, ImageTable
from onepass.features.errors import DataError, OptionError
from support import MakeFolder, flip_bit, run_program


def run(data: object, backbone: Backbone, out: Path, **options: object) -> Extraction:
    return run_extraction(data, backbone, out=out, **options)


def table_of(path: Path) -> ImageTable:
    with FeatureFile(path) as file:
        return file.table


def groups_of(path: Path) -> dict[str, str]:
    table = table_of(path)
    return dict(zip(table.paths, table.groups, strict=True))


def by_pairs(data: Path) -> dict[str, str]:
    """Images 0 and 1 of a class are of one patient, 2 and 3 of the next."""
    paths = sorted(path.relative_to(data).as_posix() for path in data.rglob("*.png"))
    return {path: f"{path.split('/')[-2][0]}{int(Path(path).stem) // 2}" for path in paths}


def write_csv(path: Path, groups: dict[str, str]) -> Path:
    path.write_text("path,group\n" + "".join(f'"{name}",{group}\n' for name, group in groups.items()))
    return path


@pytest.fixture
def data(make_folder: MakeFolder) -> Path:
    return make_folder({"cats": 20, "dogs": 20})


def assert_whole(table: ImageTable) -> None:
    """No group in two splits, and both sides in every class."""
    for group in table.group_names():
        assert len({split for split, name in zip(table.splits, table.groups, strict=True) if name == group}) == 1
    for label in range(len(table.class_names)):
        assert set(table.splits[table.labels == label].tolist()) == {0, 2}


def test_a_table_a_mapping_and_a_pattern_give_the_same_groups(data: Path, tiny_backbone: Backbone, tmp_path: Path):
    expected = by_pairs(data)
    run(data, tiny_backbone, tmp_path / "a.h5", groups=write_csv(tmp_path / "g.csv", expected))
    run(data, tiny_backbone, tmp_path / "b.h5", groups=expected)
    assert groups_of(tmp_path / "a.h5") == groups_of(tmp_path / "b.h5") == expected
    by_class = run(data, tiny_backbone, tmp_path / "c.h5", group_pattern=r"^\w+/(\d+)")
    assert groups_of(by_class.path) == {path: Path(path).stem for path in expected}
    assert by_class.groups == 20
    for name in "abc":
        assert_whole(table_of(tmp_path / f"{name}.h5"))
    np.testing.assert_array_equal(table_of(tmp_path / "a.h5").splits, table_of(tmp_path / "b.h5").splits)


def test_names_of_files_that_occur_once_will_do(tmp_path: Path, make_folder: MakeFolder):
    data = make_folder({"cats": 2, "dogs": 2})
    for path in sorted(data.glob("dogs/*.png")):
        path.rename(path.with_name(f"dog {path.name}"))
    (data / "cats" / "notes.txt").write_text("no image, needs no group")
    rows = {"dog 0.png": "d", "dogs/dog 1.png": " d ", "cats/0.png": "c", "cats/1.png": ""}
    table = write_csv(tmp_path / "g.csv", rows)
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes().replace(b"\n", b"\r\n"))  # as a spreadsheet writes it
    scan = scan_source(open_source(data), groups=GroupRule.of(table, None))
    assert dict(zip(scan.table.paths, scan.table.groups, strict=True)) == {
        "cats/0.png": "c", "cats/1.png": "", "cats/notes.txt": "", "dogs/dog 0.png": "d", "dogs/dog 1.png": "d",
    }  # fmt: skip


def test_paths_of_several_folders_begin_at_what_they_have_in_common(make_folder: MakeFolder):
    first, second = make_folder({"cats": 2, "dogs": 1}, name="a"), make_folder({"cats": 1, "dogs": 2}, name="b", seed=1)
    scan = scan_source(open_source([first, second]), groups=GroupRule.of(None, "^([ab])/"))
    assert scan.table.groups == ("a",) * 3 + ("b",) * 3


def test_changing_groups_alone_computes_nothing_and_draws_by_group(data: Path, tiny_backbone: Backbone, tmp_path: Path):
    run(data, tiny_backbone, tmp_path / "f.h5")
    again = run(data, tiny_backbone, tmp_path / "f.h5", groups=by_pairs(data))
    assert (again.computed, again.reused, again.groups) == (0, 40, 20)
    assert "a fifth of the 20 groups became the test split, chosen by name" in str(again)
    assert_whole(table_of(again.path))
    fresh = run(data, tiny_backbone, tmp_path / "fresh.h5", groups=by_pairs(data), base=[again.path])
    np.testing.assert_array_equal(table_of(again.path).splits, table_of(fresh.path).splits)


def test_the_same_command_without_groups_keeps_them_also_of_renamed_images(
    data: Path, tiny_backbone: Backbone, tmp_path: Path
):
    expected = by_pairs(data)
    run(data, tiny_backbone, tmp_path / "f.h5", groups=write_csv(tmp_path / "g.csv", expected))
    before = (tmp_path / "f.h5").read_bytes()
    run(data, tiny_backbone, tmp_path / "f.h5")
    assert (tmp_path / "f.h5").read_bytes() == before
    (data / "cats" / "3.png").rename(data / "cats" / "renamed.png")
    (data / "cats" / "notes.txt").write_text("no image")
    run(data, tiny_backbone, tmp_path / "f.h5")
    expected["cats/renamed.png"] = expected.pop("cats/3.png")
    assert groups_of(tmp_path / "f.h5") == {**expected, "cats/notes.txt": ""}
    with FeatureFile(tmp_path / "f.h5") as file:
        assert file.provenance["group_file"] == str(tmp_path / "g.csv")


def test_new_images_need_a_group_where_others_have_one(
    data: Path, make_folder: MakeFolder, tiny_backbone: Backbone, tmp_path: Path
):
    run(data, tiny_backbone, tmp_path / "f.h5", groups=by_pairs(data))
    make_folder({"owls": 4}, seed=3)
    message = (
        r"^the images of the feature file have groups, and nobody says that of 4 images, such as owls/0.png, "
        r"owls/1.png, owls/2.png. Give the groups again, with groups or group_pattern\.$"
    )
    with pytest.raises(DataError, match=message):
        run(data, tiny_backbone, tmp_path / "f.h5")
    assert run(data, tiny_backbone, tmp_path / "f.h5", groups=by_pairs(data)).computed == 4


def test_a_pattern_is_applied_again_by_the_same_command(
    data: Path, make_folder: MakeFolder, tiny_backbone: Backbone, tmp_path: Path
):
    run(data, tiny_backbone, tmp_path / "f.h5", group_pattern=r"/(\d)")
    before = dict(zip(table_of(tmp_path / "f.h5").groups, table_of(tmp_path / "f.h5").splits, strict=True))
    make_folder({"owls": 5}, seed=3)
    again = run(data, tiny_backbone, tmp_path / "f.h5")
    assert (again.computed, again.groups) == (5, 9 + 1)
    after = dict(zip(table_of(again.path).groups, table_of(again.path).splits, strict=True))
    assert after == before
    with FeatureFile(again.path) as file:
        assert file.provenance["group_pattern"] == r"/(\d)"
    with FeatureFile(run(data, tiny_backbone, tmp_path / "f.h5", group_pattern=r"/(\d)\d*\.").path) as file:
        assert file.provenance["group_pattern"] == r"/(\d)\d*\."  # the same groups, by another rule


def test_new_images_of_a_group_go_where_the_group_is(make_folder: MakeFolder):
    for seed in range(10):
        name = f"small{seed}"
        data = make_folder({"cats": 3, "dogs": 3}, name=name, seed=seed)
        rule = GroupRule.of(None, r"(\w+/\d)")
        before = scan_source(open_source(data), groups=rule).table
        for i, old in enumerate(sorted(data.glob("*/*.png"))):
            old.rename(old.with_name(f"{old.stem} old{i}.png"))
        make_folder({"cats": 4, "dogs": 4}, name=name, seed=seed + 100)
        after = scan_source(open_source(data), known=before, known_drawn=True, groups=rule).table
        side = dict(zip(before.groups, before.splits, strict=True))
        assert len(after) == 14
        for group, split in zip(after.groups, after.splits, strict=True):
            assert side.get(group, split) == split


def test_an_image_that_joins_a_group_goes_with_it(rng: np.random.Generator):
    hashes, labels = rng.integers(0, 256, (40, 32), dtype=np.uint8), np.arange(40, dtype=np.int32) % 2
    sizes = np.zeros(40, np.int64)

    def table(groups: tuple[str, ...], known: ImageTable | None) -> ImageTable:
        splits = draw_splits(labels, hashes, groups, known=known, seed=0)
        return ImageTable(("a", "b"), tuple(map(str, range(40))), labels, splits, hashes, sizes, sizes, groups)

    before = table(("",) * 30 + ("p",) * 10, None)
    after = table(("",) * 20 + ("p",) * 20, before)
    np.testing.assert_array_equal(after.splits[:20], before.splits[:20])
    assert set(after.splits[20:].tolist()) == {before.splits[39]}


def test_files_that_cannot_be_read_do_not_count_as_the_other_side(data: Path, tiny_backbone: Backbone, tmp_path: Path):
    first = run(data, tiny_backbone, tmp_path / "a.h5", group_pattern=r"^(\w+/\d)")
    with FeatureFile(first.path) as file:
        path = data / file.table.paths[file.rows_of("test")[0]]
    path.unlink()
    path.symlink_to("nowhere")
    done = run(data, tiny_backbone, tmp_path / "b.h5", group_pattern=r"^(\w+/\d)")
    assert ([s.reason for s in done.skipped], done.overlapping_groups) == (["no such file or directory"], [])


def test_groups_torn_by_the_users_folders_are_told(make_folder: MakeFolder, tiny_backbone: Backbone, tmp_path: Path):
    make_folder({"cats": 4, "dogs": 4}, name="photos/train")
    make_folder({"cats": 3, "dogs": 2}, name="photos/test", seed=1)
    done = run(tmp_path / "photos", tiny_backbone, tmp_path / "f.h5", group_pattern=r"(\w+/\d+)\.")
    line = "5 groups lie in more than one split, such as cats/0 in train and test"
    assert not done.drawn_split
    assert line in str(done).splitlines()
    assert done.record()["overlapping_groups"][0] == {"group": "cats/0", "splits": ["train", "test"]}
    shown = run_program("onepass", "info", "f.h5", cwd=tmp_path).stdout
    assert f"groups 8; {line}" in " ".join(shown.split())
    facts = json.loads(run_program("onepass", "info", "f.h5", "--json", cwd=tmp_path).stdout)
    assert (facts["groups"], len(facts["overlapping_groups"])) == (8, 5)


LENGTH = r"g.csv, line 2, has more or fewer fields than its first line. Needed: path,group. Quote what contains a sep"
MISSING = (
    r"g.csv gives no group to 39 images, such as cats/1.png, cats/10.png, cats/11.png \(of 40 files\). Add a line for "
    r"each; an empty group makes an image a group of its own\.$"
)
UNKNOWN = (
    r"g.csv names 2 files, such as cats/99.png, birds/1.png, not to be found in .*photos. Needed: paths from there on, "
    r"such as cats/0.png, or names of files that occur once. Correct or remove these lines\.$"
)
SEVERAL = (
    r"g.csv names 0.png, which is 2 files, such as cats/0.png, dogs/0.png. Needed: the path from .*photos on, such as "
    r"cats/0.png\.$"
)


@pytest.mark.parametrize(("lines", "message"), [
    ("cats/0.png,a\n", MISSING),
    ("cats/0.png,a\ncats/99.png,b\nbirds/1.png,c\n", UNKNOWN),
    ("0.png,a\n", SEVERAL),
    ("cats/0.png,a\ncats/0.png,b\n", r"g.csv gives cats/0.png two groups, 'a' and 'b'. Needed: one\.$"),
    ("cats/0.png,a,b\n", LENGTH),
    ("cats/0.png\n", LENGTH),
    ('"cats"/0.png,a\n', r"g.csv is not CSV, line 2: ',' expected after '\"'. Needed: path,group\.$"),
])  # fmt: skip
def test_a_table_that_does_not_fit_is_refused(data: Path, tmp_path: Path, lines: str, message: str):
    (tmp_path / "g.csv").write_text("path,group\n" + lines)
    with pytest.raises(DataError, match=message):
        check_source(open_source(data), groups=tmp_path / "g.csv")


def test_a_mapping_may_name_a_file_in_two_ways_but_not_with_two_groups(data: Path):
    (data / "cats" / "0.png").rename(data / "cats" / "only.png")
    groups = by_pairs_of_any(data)
    check_source(open_source(data), groups={**groups, "only.png": groups["cats/only.png"]})
    with pytest.raises(DataError, match=r"^groups gives cats/only.png two groups, 'g' and 'other'. Needed: one\.$"):
        check_source(open_source(data), groups={**groups, "only.png": "other"})


def by_pairs_of_any(data: Path) -> dict[str, str]:
    return {path.relative_to(data).as_posix(): "g" for path in data.rglob("*.png")}


@pytest.mark.parametrize(("text", "message"), [
    (b"file;group\n", r"g.csv has the columns 'file, group'; needed: path,group\.$"),
    (b"", r"g.csv has no line that names its columns. Needed: path,group\.$"),
    (None, r"g.csv cannot be read: No such file or directory. Needed: path,group\.$"),
])  # fmt: skip
def test_a_file_that_is_no_such_table_is_refused(data: Path, tmp_path: Path, text: bytes | None, message: str):
    if text is not None:
        (tmp_path / "g.csv").write_bytes(text)
    with pytest.raises(DataError, match=message):
        check_source(open_source(data), groups=tmp_path / "g.csv")


NEEDED = r"; needed: a regular expression with the group in parentheses, such as '\(patient\\d\+\)_'\.$"


@pytest.mark.parametrize(("pattern", "message"), [
    (r"(x", r"^group_pattern is '\(x' \(missing \), unterminated subpattern at position 0\)" + NEEDED),
    (r"x+", r"^group_pattern is 'x\+', without parentheses" + NEEDED),
])  # fmt: skip
def test_a_pattern_that_is_none_is_refused(data: Path, pattern: str, message: str):
    with pytest.raises(OptionError, match=message):
        check_source(open_source(data), group_pattern=pattern)


@pytest.mark.parametrize("pattern", [r"^cats/(\d+)", r"^cats/(\d+)|^dogs/", r"^(?:cats/|dogs/\d+())(\d*)"])
def test_an_image_without_a_match_is_refused(data: Path, pattern: str):
    message = (
        r"^group_pattern .* finds no group in (2|4)0 images, such as .*/0.png, .*/1.png, .*/10.png \(of 40 files\). "
        r"Widen the pattern, or give a table with groups\.$"
    )
    with pytest.raises(DataError, match=message):
        check_source(open_source(data), group_pattern=pattern)


def test_one_image_without_a_match_is_named(data: Path):
    (data / "cats" / "0.png").rename(data / "cats" / "x.png")
    with pytest.raises(DataError, match=r"finds no group in cats/x.png \(of 40 files\). Widen the pattern, or give a"):
        check_source(open_source(data), group_pattern=r"(\d+)\.png")


def test_a_table_and_a_pattern_together_are_refused(data: Path):
    with pytest.raises(OptionError, match=r"^groups and group_pattern were both given; needed: one of them\.$"):
        check_source(open_source(data), groups={}, group_pattern="(.)")


def test_mistakes_are_told_before_a_backbone_is_made_or_an_image_read(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(
        "onepass.extract.pixels.image_bytes.hashlib.file_digest", lambda *_: pytest.fail("a file was read")
    )
    monkeypatch.setattr(
        "onepass.extract.one_pass.run.load_backbone", lambda *_, **__: pytest.fail("a backbone was made")
    )
    with pytest.raises(DataError, match="gives no group to 40 images"):
        extract_features(data, groups={}, out=tmp_path / "f.h5")
    with pytest.raises(DataError, match="gives no group to 40 images"):
        scan_source(open_source(data), groups=GroupRule.of({}, None))


def test_a_plan_checks_the_groups_and_counts_their_bytes(data: Path, tiny_backbone: Backbone, tmp_path: Path):
    plain = plan(data, tiny_backbone, out=tmp_path / "f.h5")
    estimate = plan(data, tiny_backbone, out=tmp_path / "f.h5", group_pattern=r"(\w+/\d+\.png)")
    assert estimate.disk - plain.disk == 40 * len("dogs/19.png")
    with pytest.raises(DataError, match="gives no group to 40 images"):
        plan(data, tiny_backbone, out=tmp_path / "f.h5", groups={})


def test_the_command_takes_groups(data: Path, tiny_file: Path, tmp_path: Path):
    write_csv(tmp_path / "g.csv", by_pairs(data))
    command = ("extract", "photos", "--backbone", str(tiny_file))
    found = json.loads(run_program(*command, "--groups", "g.csv", "--json", cwd=tmp_path).stdout)
    assert (found["groups"], found["overlapping_groups"], found["computed"]) == (20, [], 40)
    wrong = run_program(*command, "--group-pattern", "cats", cwd=tmp_path)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("error: --group-pattern is 'cats', without parentheses; needed: a regular")


class TestRepair:
    @pytest.fixture
    def made(self, data: Path, tiny_backbone: Backbone, tmp_path: Path) -> Path:
        """A drawn split by groups given in a mapping, which nobody has later; one image without a name."""
        groups = {**by_pairs(data), "cats/0.png": ""}
        return run(data, tiny_backbone, tmp_path / "f.h5", groups=groups).path

    @pytest.mark.parametrize(("name", "size"), [("groups", 2), ("splits", 1), ("labels", 4), ("entry_checksums", 4)])
    def test_a_damaged_entry_gets_its_group_and_its_side_back(self, made: Path, name: str, size: int):
        before = table_of(made)
        flip_bit(made, name, byte=5 * size)
        flip_bit(made, name, byte=27 * size)
        assert verify(made, golden=False).verdict == "damaged"
        assert repair(made).computed == 0
        assert table_of(made).same_files(before)
        assert verify(made, golden=False).verdict == "whole"

    def test_a_sector_of_zeros_in_the_groups_is_mended(self, made: Path):
        before = table_of(made)
        with FeatureFile(made) as file:
            offset = file.extents["groups"].offset
        with open(made, "r+b") as raw:
            raw.seek(offset + 2 * 4)
            raw.write(bytes(2 * 7))
        with FeatureFile(made) as file:
            assert file.unchecked_table().groups[4:11] == ("",) * 7
        # Where both images of a group are hit, nothing knows its name any more.
        hit = [before.groups[i] for i in range(4, 11)]
        gone = [i for i in range(4, 11) if hit.count(before.groups[i]) == 2]
        assert 0 < len(gone) < 7
        assert repair(made).dropped == len(gone)
        after, kept = table_of(made), [i for i in range(40) if i not in gone]
        assert after.paths == tuple(before.paths[i] for i in kept)
        assert after.groups == tuple(before.groups[i] for i in kept)
        np.testing.assert_array_equal(after.splits, before.splits[kept])

    def test_zeroed_checksums_are_made_up_for_by_the_table_of_the_user(
        self, data: Path, tiny_backbone: Backbone, tmp_path: Path
    ):
        table = write_csv(tmp_path / "g.csv", by_pairs(data))
        made = run(data, tiny_backbone, tmp_path / "f.h5", groups=table).path
        before = table_of(made)
        with FeatureFile(made) as file:
            offset = file.extents["entry_checksums"].offset
        with open(made, "r+b") as raw:
            raw.seek(offset)
            raw.write(bytes(4 * 7))
        repair(made)
        assert table_of(made).same_files(before)

    def test_a_lone_group_is_told_by_the_pattern(self, data: Path, tiny_backbone: Backbone, tmp_path: Path):
        made = run(data, tiny_backbone, tmp_path / "f.h5", group_pattern=r"(\w+/\d+)\.").path
        before = table_of(made)
        flip_bit(made, "groups", byte=5 * 7 + 2)
        (data / "cats" / "unlike any other.png").write_bytes((data / "cats" / "0.png").read_bytes())
        repair(made)
        assert table_of(made).same_files(before)

    def test_drop_keeps_the_groups_of_the_others(self, made: Path, data: Path):
        before = table_of(made)
        flip_bit(made, "groups", byte=5 * 2)
        shutil.rmtree(data)
        assert repair(made, drop=True).dropped == 1
        assert table_of(made).groups == (*before.groups[:5], *before.groups[6:])
