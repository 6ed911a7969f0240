"""The catalogue: the plan's words, a likeness in every prompt, four photos that differ on purpose."""

from itertools import product

import pytest

from shared.styles import STYLES, VARIATIONS, Role, Style, build_prompt

# The plan's own prompts, word for word.
PLAN = {
    Style.CLASSIC: "elegant traditional Korean wedding hanbok, soft lighting, professional studio photography",
    Style.MODERN: "contemporary wedding dress, minimalist background, natural light, editorial style",
    Style.VINTAGE: "vintage wedding attire, warm sepia tones, romantic atmosphere, film photography",
    Style.ROMANTIC: "romantic wedding scene, soft focus, dreamy lighting, pastel colors",
    Style.CINEMATIC: "cinematic wedding portrait, dramatic lighting, high fashion, magazine cover",
}
EVERY = list(product(Style, (None, *Role), range(VARIATIONS)))


def test_the_catalogue_holds_the_five_styles_of_the_plan() -> None:
    assert set(STYLES) == set(Style) == set(PLAN)
    assert all(STYLES[style].style is style for style in Style)


@pytest.mark.parametrize(("style", "role", "slot"), EVERY)
def test_every_prompt_keeps_the_plans_words_and_the_face(style: Style, role: Role | None, slot: int) -> None:
    prompt = build_prompt(style, role, slot)
    assert PLAN[style] in prompt
    assert "Keep this person's face" in prompt
    assert "One person alone" in prompt


@pytest.mark.parametrize("style", Style)
def test_the_role_shapes_the_attire(style: Style) -> None:
    groom, bride, either = (build_prompt(style, role, 0) for role in (Role.GROOM, Role.BRIDE, None))
    assert STYLES[style].groom in groom
    assert STYLES[style].bride in bride
    assert "wearing wedding attire" in either
    assert "bride" not in groom
    assert "groom" not in bride
    assert "bride" not in either
    assert "groom" not in either


def test_all_prompts_differ() -> None:
    assert len({build_prompt(*choice) for choice in EVERY}) == len(EVERY)


@pytest.mark.parametrize("style", Style)
def test_a_shift_moves_to_another_variation_and_comes_round(style: Style) -> None:
    shifted = [build_prompt(style, None, 3, variation_shift=shift) for shift in range(VARIATIONS)]
    assert len(set(shifted)) == VARIATIONS
    assert shifted[1] == build_prompt(style, None, 0)
    assert build_prompt(style, None, 3, variation_shift=VARIATIONS) == shifted[0]


@pytest.mark.parametrize("slot", [-1, 4])
def test_there_is_no_other_slot(slot: int) -> None:
    with pytest.raises(ValueError, match="slot"):
        build_prompt(Style.CLASSIC, None, slot)


@pytest.mark.parametrize("style", Style)
def test_every_style_reads_well_in_both_languages(style: Style) -> None:
    entry = STYLES[style]
    for korean in (entry.label_ko, entry.description_ko):
        assert any("가" <= letter <= "힣" for letter in korean)
    for english in (entry.label_en, entry.description_en):
        assert english.isascii()
        assert english[0].isupper()
    assert len(entry.description_ko) <= 40
    assert len(entry.description_en) <= 80
