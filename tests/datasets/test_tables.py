from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.datasets.tables import Table, pair_of_dates, parse_table
from pipeline.errors import DataError

PATH = Path("pairs.csv")
ROW = ("A/p0.png", "B/p0.png", "a house")


def parse(text: str) -> Table:
    return parse_table(text, PATH, ("before", "after"))


@pytest.mark.parametrize(
    "text",
    [
        "before,after,caption\nA/p0.png,B/p0.png,a house\n",
        "before;after;caption\nA/p0.png;B/p0.png;a house\n",
        "before\tafter\tcaption\nA/p0.png\tB/p0.png\ta house",
        "before|after|caption\nA/p0.png|B/p0.png|a house\n",
        "before, after, caption\nA/p0.png, B/p0.png, a house\n",
        'before ; after;caption\n"A/p0.png"; "B/p0.png";a house \n',
        "Before,AFTER,Caption\nA/p0.png,B/p0.png,a house\n",
        "before,after,caption\r\nA/p0.png,B/p0.png,a house\r\n",
        "before,after,caption\rA/p0.png,B/p0.png,a house\r",
        "sep=;\nbefore;after;caption\nA/p0.png;B/p0.png;a house\n",
        'sep=\t\r\nbefore\tafter\tcaption\r\n"A/p0.png"\tB/p0.png\ta house\r\n',
        "sep=#\nbefore#after#caption\nA/p0.png#B/p0.png#a house\n",
        "\n\nbefore,after,caption\n\nA/p0.png,B/p0.png,a house\n\n",
        "before,after,caption,,\nA/p0.png,B/p0.png,a house,,\n",
        "before,after,caption\nA/p0.png,B/p0.png,a house,,,\n",
        ",before,after,caption\n0,A/p0.png,B/p0.png,a house\n",
        "Unnamed: 0,before,after,caption\n0,A/p0.png,B/p0.png,a house\n",
        "before ,after , caption \nA/p0.png ,B/p0.png , a house\n",
    ],
)
def test_dialects_of_spreadsheets(text: str) -> None:
    table = parse(text)
    assert table.columns == ("before", "after", "caption")
    assert [cells for _, cells in table.rows] == [ROW]


def test_commas_in_captions_of_a_table_of_semicolons() -> None:
    table = parse("before;after;caption\na.png;b.png;a house, a tree\n")
    assert table.rows == ((2, ("a.png", "b.png", "a house, a tree")),)


def test_blank_rows_are_passed_over_with_their_lines() -> None:
    table = parse('before,after,caption\n,,\na.png,b.png,"a\nhouse"\n , ,\n"",,\nc.png,d.png,x\n')
    assert [line for line, _ in table.rows] == [3, 7]
    assert table.blank == (2, 5, 6)


@pytest.mark.parametrize("cell", ["nan", "NaN", "NULL", "None", "#N/A", "<NA>"])
def test_what_stands_for_an_empty_cell(cell: str) -> None:
    assert parse(f"before,after,split\na.png,b.png,{cell}\n").rows == ((2, ("a.png", "b.png", "")),)


def test_columns_of_captions_may_have_one_name() -> None:
    table = parse("before,after,caption,caption,Caption 3\na.png,b.png,x,y,z\n")
    assert table.columns[2:] == ("caption", "caption", "caption_3")


@pytest.mark.parametrize(
    ("header", "advice"),
    [
        ("image1,image2,caption", "rename `image1` to `before` and `image2` to `after`"),
        ("A,B", "rename `A` to `before` and `B` to `after`"),
        ("post;pre", "rename `pre` to `before` and `post` to `after`"),
        ("t1\tt2\ttext", "rename `t1` to `before` and `t2` to `after`"),
        ("img_a|img_b", "rename `img_a` to `before` and `img_b` to `after`"),
        ("before_image,after_image", "rename `before_image` to `before` and `after_image` to `after`"),
        ("before,after_path", "rename `after_path` to `after`"),
        ("2019,2011,caption", "rename `2011` to `before` and `2019` to `after`"),
        ("vorher,nachher,text", "rename `vorher` to `before` and `nachher` to `after`, if this is their order"),
        ("# my list", "separate the columns by commas, semicolons or tabs, and name them in the first line"),
        (",,", "name the columns in the first line: before, after, and optionally id, split, changed, caption"),
        ("before after caption", "separate the columns by commas, semicolons or tabs, and name them in the first line"),
    ],
)
def test_a_header_in_other_words_is_shown_with_the_cure(header: str, advice: str) -> None:
    separator = next((sign for sign in ";\t|" if sign in header), ",")
    row = separator.join(("A/p0.png", "B/p0.png", "a house")[: header.count(separator) + 1])
    with pytest.raises(DataError) as caught:
        parse(f"{header}\n{row}\n")
    shown = header.replace("\t", "\\t")
    assert caught.value.what.startswith("the list of pairs has no column `")
    assert caught.value.what.endswith(f"its header reads `{shown}`")
    assert caught.value.fix == advice


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        (
            "My pairs;;\nbefore;after;caption\na.png;b.png;x\n",
            "remove what stands above line 2, which names the columns",
        ),
        ("# x\n# y\nbefore,after\na.png,b.png\n", "remove what stands above line 3, which names the columns"),
        ('"before,after"\n"a.png,b.png"\n', "each line is one cell between quotes: remove these quotes"),
        ('{"before": "a.png", "after": "b.png"}\n', "this is JSON: name a file with one object per line .jsonl"),
    ],
)
def test_what_stands_in_the_place_of_the_header(text: str, advice: str) -> None:
    with pytest.raises(DataError, match="has no column `before`: its header reads `") as caught:
        parse(text)
    assert caught.value.fix == advice


def test_a_missing_header_is_told() -> None:
    with pytest.raises(DataError, match=r"has no header: its first line reads `A/p0\.png;B/p0\.png;a house`") as caught:
        parse("A/p0.png;B/p0.png;a house\n")
    assert caught.value.fix == "write a first line with the names of the columns: before;after;caption"


@pytest.mark.parametrize(
    ("text", "line", "what", "advice"),
    [
        ("a.png,b.png,a house, a tree", 2, "4 in `a.png,b.png,a house,a tree`, 3 in", "put cells that hold commas"),
        ("a.png;b.png;a house", 2, "1 in `a.png;b.png;a house`, 3 in", "separated by semicolons, the header by commas"),
        ("a.png,b.png", 2, "2 in `a.png,b.png`, 3 in", "fill in the missing cells"),
        ('x.png,y.png,"a\nb"\na.png,b.png', 4, "more or fewer cells", "fill in"),
        ('a.png,b.png,"a house', 2, "not valid CSV", "close the quote that opens in this row"),
        ('a.png,b.png,"a "new" house"', 2, "not valid CSV", "is written twice"),
        (f'a.png,b.png,"{"x" * 200_000}', 2, "not valid CSV", "close the quote"),
    ],
)
def test_a_row_that_does_not_fit_is_shown(text: str, line: int, what: str, advice: str) -> None:
    with pytest.raises(DataError) as caught:
        parse(f"before,after,caption\n{text}\n")
    assert caught.value.where == f"pairs.csv, line {line}"
    assert what in caught.value.what
    assert advice in (caught.value.fix or "")
    assert len(str(caught.value)) < 500


def test_names_that_are_no_names() -> None:
    with pytest.raises(DataError, match="the column `split` stands 2 times: the header reads"):
        parse("before,after,split,Split\na.png,b.png,train,val\n")
    with pytest.raises(DataError, match=r"a column has no name: .* the column `x`"):
        parse("before,after,\na.png,b.png,x\n")


def test_folders_and_columns_of_two_dates() -> None:
    assert pair_of_dates(["label", "im2", "im1"]) == ("im1", "im2")
    assert pair_of_dates(["2015", "2011"]) == ("2011", "2015")
    assert pair_of_dates(["label", "images"]) is None


@given(st.text(alphabet="beforeaftrc,;\t|\n\r\" 'sp=.png", max_size=60))
def test_any_text_gives_a_table_or_a_data_error(text: str) -> None:
    try:
        table = parse(f"before,after\n{text}")
    except DataError:
        return
    assert all(len(cells) == len(table.columns) for _, cells in table.rows)


@given(st.text(max_size=80))
def test_any_header_too(text: str) -> None:
    try:
        parse(text)
    except DataError:
        return
