"""The directive {interactive} NAME: an interactive figure in a page that is no notebook."""

from __future__ import annotations

from docutils import nodes
from docutils.parsers.rst import Directive

from samkit.paper import interactive


class Interactive(Directive):
    required_arguments = 1

    def run(self):
        try:
            return [nodes.raw("", interactive.html(self.arguments[0]), format="html")]
        except ValueError as error:
            raise self.error(str(error)) from None


def setup(app):
    app.add_directive("interactive", Interactive)
    app.add_js_file("mount.mjs", type="module")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
