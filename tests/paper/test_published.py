from samkit.paper import published


def test_the_published_runs_name_their_source_and_settings():
    reference = published.diagonal()
    assert "notebook" in reference["source"]
    assert reference["step_size"] == 5 / 30
    assert len(reference["runs"]) == 11
    assert {run["method"] for run in reference["runs"]} == {"gd", "n-sam", "1-sam"}
