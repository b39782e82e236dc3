"""What several tests need: the tiny tokenizer and a base folder."""

from pathlib import Path

import pytest
from tiny import make_tokenizer, save_base
from tokenizers import Tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return make_tokenizer()


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained model as a run finds it. Nothing writes into it."""
    folder = tmp_path_factory.mktemp("base")
    save_base(folder)
    return folder
