"""The commands `export` and `import`, in processes of their own, on SQLite and a live store."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest

from streamstores.cli.archives import archive_name
from tests.cli.processes import run, start, until, use, with_small_files
from tests.cli.test_copy import LARGE, TARGETS, everything, fill, store_url

pytestmark = pytest.mark.long


@pytest.fixture
def source(tmp_path) -> str:
    return f"sqlite:///{tmp_path}/source.db"


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "exported"


def outcomes(*arguments: object, url: str, code: int = 0) -> dict[str, str]:
    result = run(*arguments, "--json", url=url)
    assert result.returncode == code, result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    return {line["id"]: line["outcome"] for line in lines[:-1]}


@pytest.mark.parametrize("kind", TARGETS)
def test_what_was_exported_is_imported_and_both_can_be_repeated(kind, source, folder, tmp_path):
    use(source, fill)
    for expected in ("copied", "unchanged"):
        assert set(outcomes("export", folder, url=source).values()) == {expected}
    assert len(list(folder.iterdir())) == 6
    for url in store_url(kind, tmp_path):
        for expected in ("copied", "unchanged"):
            assert set(outcomes("import", folder, url=url).values()) == {expected}
        assert use(url, everything) == use(source, everything)


def test_standard_tools_can_read_a_file(source, folder):
    use(source, lambda store: store.create("s", b"two\n", b"lines\n", attributes={"k": "v"}))
    run("export", folder, url=source)
    path = folder / archive_name("s")
    line = subprocess.run(["tail", "-n", "1", path], capture_output=True, check=True).stdout
    fields = json.loads(line)
    assert (fields["id"], fields["sizes"], fields["attributes"]) == ("s", [4, 6], {"k": "v"})
    command = ["head", "-c", str(fields["tail"]), path]
    assert subprocess.run(command, capture_output=True, check=True).stdout == b"two\nlines\n"


def test_a_stream_that_has_grown_is_exported_and_imported_again(source, folder, tmp_path):
    target = f"sqlite:///{tmp_path}/target.db"
    for _ in range(2):
        use(source, _create_or_append)
        run("export", folder, url=source)
        run("import", folder, url=target)
    assert use(target, everything) == use(source, everything)
    assert len(list(folder.iterdir())) == 1


async def _create_or_append(store):
    if not [info async for info in store.list("s")]:
        return await store.create("s", b"first", attributes={"n": "1"})
    return await store.append("s", b"second", state="done", attributes={"n": "2"})


def test_ids_that_differ_only_in_case_or_are_long_have_files_of_their_own():
    names = {archive_name(name).lower() for name in ("a", "A", "é" * 127, "é" * 126)}
    assert len(names) == 4
    assert max(map(len, names)) < 255


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: b"",
        lambda text: text[:-1],
        lambda text: text[: len(text) // 2],
        lambda text: b"X" + text[1:],
        lambda text: text.replace(b'"format": 1', b'"format": 9'),
        lambda text: b"not a stream at all\n",
    ],
)
def test_a_damaged_file_is_reported_and_the_others_are_imported(
    source, folder, tmp_path, damage
):
    use(source, fill)
    run("export", folder, url=source)
    path = folder / archive_name("large")
    path.write_bytes(damage(path.read_bytes()))
    url = f"sqlite:///{tmp_path}/target.db"
    found = outcomes("import", folder, url=url, code=7)
    assert sorted(found.values()) == ["copied"] * 5 + ["failed"]
    assert "large" not in use(url, everything)
    assert outcomes("export", folder, url=source)["large"] == "copied"
    assert outcomes("import", folder, url=url)["large"] == "copied"
    assert use(url, everything) == use(source, everything)


def test_another_stream_of_the_same_id_is_not_touched_by_an_import(source, folder, tmp_path):
    url = f"sqlite:///{tmp_path}/target.db"
    use(source, lambda store: store.create("s", b"one"))
    use(url, lambda store: store.create("s", b"other"))
    run("export", folder, url=source)
    assert outcomes("import", folder, url=url, code=4) == {"s": "failed"}


def test_an_interrupted_export_leaves_whole_files_and_a_second_one_finishes(source, folder):
    async def fill_large(store):
        for number in range(40):
            await store.create(f"s/{number:02}", *[LARGE] * 16, state="done")

    use(source, fill_large)
    with start("export", folder, url=source) as process:
        until(lambda: len(list(folder.glob("*.stream"))) > 2, "some files")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)
    assert process.returncode == 130
    assert list(folder.glob("*.part")) == []
    whole = len(list(folder.glob("*.stream")))
    assert whole < 40
    found = list(outcomes("export", folder, url=source).values())
    assert (found.count("unchanged"), found.count("copied")) == (whole, 40 - whole)


def test_a_full_disk_ends_an_export_with_one_line_and_a_second_one_finishes(source, folder):
    use(source, lambda store: store.create("a", b"small", state="done"))
    use(source, lambda store: store.create("b", *[LARGE] * 16, state="done"))
    bound = with_small_files(16 * len(LARGE) // 2)
    full = run("export", folder, url=source, preexec_fn=bound)
    assert full.returncode == 1
    assert len(full.stderr.splitlines()) == 1
    assert b"File too large" in full.stderr
    assert [each.name for each in folder.iterdir()] == [archive_name("a")]
    assert outcomes("export", folder, url=source) == {"a": "unchanged", "b": "copied"}


def test_wrong_folders_and_stores_are_one_line_and_a_code(source, folder):
    use(source, fill)
    assert run("import", folder, url=source).returncode == 2
    folder.write_text("a file")
    assert run("export", folder, url=source).returncode == 2
    assert run("export", "/dev/null/x", url=source).returncode == 1
    assert run("export", folder.with_name("new"), "none", url=source).returncode == 3
    assert run("export", folder.with_name("new"), url="redis://127.0.0.1:1").returncode == 5
