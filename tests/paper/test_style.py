"""Lines of text in figures."""

from workbench.paper.style import text_width, wrapped

LABEL = "l_dit learning_rate=0.0003"


def test_a_long_label_is_broken_between_field_and_value_before_any_number() -> None:
    whole = text_width("learning_rate=0.0003", 7)
    field = text_width("learning_rate=", 7)
    assert wrapped(LABEL, 1.1 * whole, 7).split("\n") == ["l_dit", "learning_rate=0.0003"]
    assert wrapped(LABEL, 1.1 * field, 7).split("\n") == ["l_dit", "learning_rate=", "0.0003"]
    assert wrapped(LABEL, 0.8 * field, 7).split("\n") == ["l_dit", "learning_", "rate=", "0.0003"]


def test_every_line_fits_however_narrow_it_is() -> None:
    for width in (0.15, 0.3, 0.6, 1.0):
        lines = wrapped(f"{LABEL} layers=[0,1,2,10,11]", width, 7).split("\n")
        assert all(text_width(line, 7) <= width for line in lines)
        assert "".join(lines).replace(" ", "") == "l_ditlearning_rate=0.0003layers=[0,1,2,10,11]"
