"""Names of files keep their letters and lose what a path or a shell would take amiss."""

from ibot_hub.plain_name import plain_name


def test_all_but_letters_digits_and_points_is_a_hyphen() -> None:
    assert plain_name("hf-hub:org/my model (2).pth") == "hf-hub-org-my-model-2-.pth"
    assert plain_name("/../a_b.") == "a_b"
    assert plain_name("Zürich/日本") == "Zürich-日本"
