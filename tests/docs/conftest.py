"""Code blocks of Markdown pages."""

import re

import pytest

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="session")
def code_blocks():
    """(path, language) -> the blocks of that language in a page, in order."""

    def find(path, language):
        return [text for found, text in BLOCK.findall(path.read_text(encoding="utf-8")) if found == language]

    return find
