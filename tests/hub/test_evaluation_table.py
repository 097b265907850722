"""A table says the same as text and as Markdown."""

from ibot_hub.evaluation.table import Table, written

TABLE = Table("Accuracy (Table 1)", ("model", "k", "top-1"), (("tiny", 10, 7.0), ("a longer name", 200, None)))


def test_text_stands_in_columns() -> None:
    assert TABLE.text().splitlines() == [
        "Accuracy (Table 1)",
        "        model    k  top-1",
        "         tiny   10   7.00",
        "a longer name  200      -",
    ]


def test_markdown() -> None:
    assert TABLE.markdown().splitlines() == [
        "| model | k | top-1 |",
        "| --- | --- | --- |",
        "| tiny | 10 | 7.00 |",
        "| a longer name | 200 | - |",
    ]


def test_numbers_are_written_alike() -> None:
    assert [written(cell) for cell in (1 / 3, 99.999, 12, "word", None)] == ["0.33", "100.00", "12", "word", "-"]


def test_html_escapes_words() -> None:
    table = Table("t", ("a", "b"), (("<x>", 1.5), ("y", None)))
    head = "<thead><tr><th>a</th><th>b</th></tr></thead>"
    assert table.html() == f"<table>{head}<tbody><tr><td>&lt;x&gt;</td><td>1.50</td></tr><tr><td>y</td><td>-</td></tr></tbody></table>"
