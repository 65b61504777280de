"""These tests need the extra `frameworks`, which `make more` installs; nobody else sees them."""


def pytest_ignore_collect(collection_path, config):
    return True if "not long" in config.option.markexpr else None
