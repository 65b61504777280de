import pytest

from samkit import records


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("SAMKIT_RESULTS", str(tmp_path))
    return tmp_path


def test_what_is_saved_is_loaded(elsewhere):
    record = {"machine": {"device": "a"}, "rows": [{"m": 1, "ratio": 1.5}]}
    path = records.save("bench", record)
    assert path.parent == elsewhere
    assert records.load("bench") == record
    assert [p.name for p in elsewhere.iterdir()] == ["bench.json"]


def test_a_missing_record_says_where_records_come_from():
    with pytest.raises(FileNotFoundError, match="clone it, or set SAMKIT_RESULTS"):
        records.load("nothing")


def test_half_a_record_is_not_a_record(elsewhere):
    (elsewhere / "half.json").write_text('{"rows": [')
    with pytest.raises(ValueError, match=r"half\.json is not a whole record"):
        records.load("half")


def test_the_repository_is_the_default_place(monkeypatch):
    monkeypatch.delenv("SAMKIT_RESULTS")
    assert records.folder().name == "results"
    assert (records.folder().parent / "samkit").is_dir()
