"""The foot of every page: the version of samkit, and the day of the commit it was built from.

tools/render.py passes the day on in SOURCE_DATE_EPOCH, so the same commit gives the same pages.
"""

from __future__ import annotations

import samkit


def sign(app, config):
    config.version = config.release = samkit.__version__
    config.html_last_updated_fmt = "%Y-%m-%d"


def setup(app):
    app.connect("config-inited", sign)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
