"""Model cards of the released models."""

import json
import re

import pytest

from models.released import cards as model_cards
from models.released.zoo import RELEASED_MODELS


@pytest.mark.parametrize("path", model_cards.pages(), ids=lambda path: path.name)
def test_the_page_is_current(path):
    message = f"{path} is not what the table says: python -m models.released.cards"
    assert path.read_text(encoding="utf-8") == model_cards.pages()[path], message


def test_there_is_no_card_of_another_model():
    cards = {path.stem for path in (model_cards.DOCS / "cards").iterdir()}
    assert cards == set(RELEASED_MODELS)


@pytest.mark.parametrize("name", RELEASED_MODELS)
def test_a_card_holds_every_fact_of_the_table(name):
    card, model = model_cards.model_card(name), RELEASED_MODELS[name]
    facts = [model.url, f"`{model.sha256_prefix}`", f"{model.num_parameters:,}", model.schedule]
    numbers = (model.box_ap, model.box_ap50, model.mask_ap, model.pq)
    facts += [f"{number:.1f}" for number in numbers if number is not None]
    assert [fact for fact in facts if fact not in card] == []
    assert ("DC5" in card) == model.dilation
    assert "None" not in card
    assert ("backbone from ImageNet" in card) == (not model.minimal)  # of that nothing is published


@pytest.mark.parametrize("name", RELEASED_MODELS)
def test_the_code_of_a_card_is_code(name):
    (code,) = re.findall(r"```python\n(.*?)```", model_cards.model_card(name), re.DOTALL)
    compile(code, name, "exec")
    assert json.dumps(name) in code


def test_the_table_replaces_the_old_table():
    page = f"before\n{model_cards._BEGIN}old\n{model_cards._END}after\n"
    made = model_cards.with_current_table(page)
    assert made.startswith("before\n") and made.endswith(f"{model_cards._END}after\n")
    assert "old" not in made and made.count("| [`detr_") == len(RELEASED_MODELS)
    assert model_cards.with_current_table(made) == made


def test_pages_are_written_where_they_are_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(model_cards, "DOCS", tmp_path)
    (tmp_path / "cards").mkdir()
    (tmp_path / "models.md").write_text(f"{model_cards._BEGIN}{model_cards._END}")
    model_cards.write_pages()
    assert len(list((tmp_path / "cards").iterdir())) == len(RELEASED_MODELS)
    assert "| [`detr_demo`]" in (tmp_path / "models.md").read_text(encoding="utf-8")
