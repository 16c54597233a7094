import csv
import io
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multilabelkit.datasets import tables
from multilabelkit.datasets.tables import find_column, parse_columns, read_table
from multilabelkit.errors import InputError


def write(folder, text, name="labels.csv"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return path


def refuse(path, message, **options):
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        read_table(path, **options)


@pytest.mark.parametrize(
    ("name", "text", "options"),
    [
        ("t.csv", "image,sea\na.jpg,1\nb.jpg,0\n", {}),
        ("t.csv", "image,sea\r\na.jpg,1\r\nb.jpg,0\r\n", {}),
        ("t.csv", "image,sea\ra.jpg,1\rb.jpg,0", {}),
        ("t.csv", "\ufeffimage,sea\na.jpg,1\nb.jpg,0\n", {}),
        ("t.csv", "\ufeffimage , sea\na.jpg , 1\nb.jpg,0", {}),
        ("t.csv", '"image","sea"\n"a.jpg","1"\n"b.jpg","0"\n', {}),
        ("t.csv", "image;sea\na.jpg;1\nb.jpg;0\n", {"sep": ";"}),
        ("t.CSV", "\ufeffimage;sea\r\na.jpg;1\r\nb.jpg;0\r\n\r\n", {}),
        ("t.csv", "image\tsea\r\na.jpg\t1\r\nb.jpg\t0", {}),
        ("t.tsv", "image,sea\na.jpg,1\nb.jpg,0\n", {}),
        ("t.txt", "image,sea\na.jpg,1\nb.jpg,0\n", {}),
        ("t.txt", "image\tsea\na.jpg  1\nb.jpg \t0\n", {}),
        ("t.TSV", "image\tsea\na.jpg\t1\nb.jpg\t0\n", {}),
        ("t.txt", "image sea\na.jpg   1\n  b.jpg\t 0  \n", {}),
        ("t.dat", "image sea\na.jpg 1\nb.jpg 0\n", {"sep": " "}),
        ("t.txt", "image,sea\na.jpg,1\nb.jpg,0\n", {"sep": ","}),
    ],
    ids=[
        "unix",
        "windows",
        "old mac",
        "mark",
        "blanks",
        "quotes",
        "semicolon",
        "Excel with semicolons",
        "Excel with tabs",
        "commas in .tsv",
        "commas in .txt",
        "tab and blanks in .txt",
        "tab",
        "blanks by ending",
        "blanks",
        "sep",
    ],
)
def test_read_table_reads_every_dialect_alike(tmp_path, name, text, options):
    table = read_table(write(tmp_path, text, name), **options)
    assert table.columns == ["image", "sea"]
    assert table.lines.tolist() == [2, 3]
    frame = parse_columns(table, [0, 1], text=[0])
    assert [name.strip() for name in frame[0]] == ["a.jpg", "b.jpg"]
    assert frame[1].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("\n  \nh,k\n\n  \na,1\n \t \n\nb,0\n\n", [6, 9]),
        ('h,k\na,"sea\nsunset"\n\nb,"x,y"\n"c\n\n",1\nd,2\n', [2, 5, 6, 9]),
        ('"h\nh",k\n\na,1\n', [4]),
    ],
    ids=["blank lines", "line breaks in quotes", "line break in the header"],
)
def test_lines_are_those_of_a_text_editor(tmp_path, text, lines):
    table = read_table(write(tmp_path, text))
    assert table.lines.tolist() == lines
    assert len(parse_columns(table, [0, 1], text=[0, 1])) == len(lines)


@pytest.mark.parametrize("header", ['"image";"sea, sky"', '"image";"sea ""1"", sky"', 'image;"sea, sky"'])
def test_separators_in_quotes_do_not_count(tmp_path, header):
    assert len(read_table(write(tmp_path, f"\n{header}\na.jpg;1\n")).columns) == 2


def test_fields_keep_what_is_in_quotes(tmp_path):
    text = 'image,labels\n"a,1.jpg", "the ""sea"""\n"b\n.jpg",5" wide\n'
    frame = parse_columns(read_table(write(tmp_path, text)), [0, 1], text=[0, 1])
    assert frame.to_numpy().tolist() == [["a,1.jpg", 'the "sea"'], ["b\n.jpg", '5" wide']]


def test_quotes_are_letters_where_blanks_separate(tmp_path):
    frame = parse_columns(read_table(write(tmp_path, 'image "sea"\n"a 1\n', "t.txt")), [0, 1], text=[0])
    assert frame.to_numpy().tolist() == [['"a', 1]]


def test_parse_columns_keeps_text_as_it_is_and_guesses_numbers(tmp_path):
    text = "id,a,b,c,d\n007,1,1.0,True,x\nNA,0,,False,\nnull,-1,0,True,1\n"
    frame = parse_columns(read_table(write(tmp_path, text)), [0, 1, 2, 3, 4], text=[0])
    assert frame[0].tolist() == ["007", "NA", "null"]
    assert [frame[place].dtype.kind for place in (1, 2, 3, 4)] == ["i", "f", "b", "O"]
    assert frame[2].isna().tolist() == frame[4].isna().tolist() == [False, True, False]


def test_parse_columns_reads_no_others(tmp_path):
    frame = parse_columns(read_table(write(tmp_path, "a,b,c\n1,2,3\n")), [2, 0], text=[])
    assert frame.columns.tolist() == [0, 2]


@pytest.mark.parametrize("n_rows", [1, 2, 9])
def test_n_rows_takes_the_first_rows_and_looks_at_no_others(tmp_path, n_rows):
    table = read_table(write(tmp_path, "h,k\na,1\n\nb,0\n"), n_rows=n_rows)
    assert table.lines.tolist() == [2, 4][:n_rows]
    assert parse_columns(table, [0], text=[0])[0].tolist() == ["a", "b"][:n_rows]
    ragged = write(tmp_path, "h,k\na,1\nb\n", "ragged.csv")
    assert len(read_table(ragged, n_rows=1).lines) == 1


CELEBA = "2\n5_o_Clock_Shadow Bald \n000001.jpg -1  1\n000002.jpg  1 -1\n"


def test_celeba_text_has_a_count_and_no_name_above_the_images(tmp_path):
    table = read_table(write(tmp_path, CELEBA, "list_attr_celeba.txt"))
    assert table.columns == ["", "5_o_Clock_Shadow", "Bald"]
    assert table.lines.tolist() == [3, 4]
    assert parse_columns(table, [0, 1, 2], text=[0]).to_numpy().tolist() == [
        ["000001.jpg", -1, 1],
        ["000002.jpg", 1, -1],
    ]


def test_celeba_text_cut_short_is_refused_unless_n_rows_is_given(tmp_path):
    path = write(tmp_path, CELEBA.replace("2\n", "202599\n", 1), "list_attr_celeba.txt")
    refuse(
        path,
        f"'{path}' begins with the count 202599, but has 2 rows. Complete the file, or pass n_rows to read its first "
        "rows.",
    )
    assert len(read_table(path, n_rows=2).lines) == 2


def test_row_ends_tell_a_first_row_from_a_header(tmp_path):
    path = write(tmp_path, "a.jpg 0\nb.jpg 1\n", "split.txt")
    table = read_table(path, row_ends=["0", "train"])
    assert (table.columns, table.lines.tolist()) == (["", ""], [1, 2])
    assert parse_columns(table, [0, 1], text=[0, 1]).to_numpy().tolist() == [["a.jpg", "0"], ["b.jpg", "1"]]
    path = write(tmp_path, "image,partition\na.jpg,TRAIN\n", "split.csv")
    assert read_table(path, row_ends=["0", "train"]).lines.tolist() == [2]


def test_columns_without_a_name_may_be_several(tmp_path):
    assert read_table(write(tmp_path, ",image,sea,\n0,a.jpg,1,\n")).columns == ["", "image", "sea", ""]


def test_a_table_that_does_not_exist_is_refused(tmp_path):
    refuse(tmp_path / "no.csv", f"The table '{tmp_path / 'no.csv'}' does not exist; check the path.")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "The table '{path}' is empty; it has no line to read."),
        ("\n  \n\t\n", "The table '{path}' has only blank lines; it has no row to read."),
        ("image,sea\n\n", "'{path}' has a header but no row. Write one row per image below it."),
        (
            "a.jpg,1,1\nb.jpg,0,1\n",
            "The first row of '{path}' names the image 'a.jpg', but must be a header. Write one above it, such as "
            "'image,sea,sunset'.",
        ),
        (
            "image|sea\na.jpg|1\n",
            "'{path}' has the single column 'image|sea', if its fields are separated by ','; it needs one for the "
            "images and one for labels. Pass the right separator as sep.",
        ),
        (
            "image,sea, sea\na.jpg,1,1\n",
            "'{path}' has 2 columns named 'sea'. Rename or remove all but one.",
        ),
        (
            "image,sea,sky\n\na.jpg,1,0\nb.jpg,1\nc.jpg\n",
            "'{path}' has 2 row(s) with a wrong number of fields; the first, in line 4, has 2 instead of 3. Leave a "
            "field empty where a label is unknown, and quote a field that holds the separator.",
        ),
        (
            "image,sea\na.jpg,1,0\nb.jpg,1\n",
            "'{path}' has 1 row(s) with a wrong number of fields; the first, in line 2, has 3 instead of 2. Leave a "
            "field empty where a label is unknown, and quote a field that holds the separator.",
        ),
        (
            'image,labels\na.jpg,"sea,\nsky"\n\nb.jpg,sea,sky\n',
            "'{path}' has 1 row(s) with a wrong number of fields; the first, in line 5, has 3 instead of 2. Leave a "
            "field empty where a label is unknown, and quote a field that holds the separator.",
        ),
        (
            'image,labels\n\na.jpg,"sea\nb.jpg,sky\n',
            "The quotes of the row in line 3 of '{path}' do not match (unexpected end of data). Put one at each end of "
            "a quoted field, and write a quote inside it twice.",
        ),
        (
            'image,labels\na.jpg,"sea"side\n',
            "The quotes of the row in line 2 of '{path}' do not match (',' expected after '\"'). Put one at each end "
            "of a quoted field, and write a quote inside it twice.",
        ),
        (
            b"image,labels\na.jpg,sea\nb.jpg,\xe9t\xe9\n",
            "'{path}', line 3 is not in UTF-8. Save the file in that encoding.",
        ),
        ("image,sea\na.jpg,1\n".encode("utf-16"), "'{path}', line 1 is not in UTF-8. Save the file in that encoding."),
    ],
    ids=[
        "empty",
        "blank",
        "header only",
        "no header",
        "other separator",
        "repeated column",
        "too few fields",
        "too many fields",
        "too many fields after quotes",
        "no end of quotes",
        "text after quotes",
        "latin-1",
        "utf-16",
    ],
)
def test_a_table_that_does_not_fit_together_is_refused(tmp_path, text, message):
    path = write(tmp_path, text)
    refuse(path, message.format(path=path))


def test_a_ragged_row_between_blanks_is_refused(tmp_path):
    path = write(tmp_path, "image sea sky\na.jpg 1 1\nb.jpg  1\n", "t.txt")
    refuse(
        path,
        f"'{path}' has 1 row(s) with a wrong number of fields; the first, in line 3, has 2 instead of 3. Leave a field "
        "empty where a label is unknown, and quote a field that holds the separator.",
    )


def test_find_column_names_the_nearest_column(tmp_path):
    table = read_table(write(tmp_path, "image,sea,sunset\na.jpg,1,0\n"))
    assert find_column(table, "sunset") == 2
    message = f"'{table.source}' has no column 'imag'. Did you mean 'image'? It has 'image', 'sea', 'sunset'."
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        find_column(table, "imag")


CELLS = st.text(alphabet="ab1 \t,;\"\n\r\u2028é#'\\", max_size=5)


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=6), sep=st.sampled_from(",;\t|"))
def test_any_row_that_csv_writes_is_read_back(tmp_path_factory, rows, sep):
    buffer = io.StringIO(newline="")
    csv.writer(buffer, delimiter=sep, quoting=csv.QUOTE_ALL).writerows([("h", "k", "l"), *rows])
    table = read_table(write(tmp_path_factory.getbasetemp(), buffer.getvalue(), "written.csv"), sep=sep)
    frame = parse_columns(table, [0, 1, 2], text=[0, 1, 2])
    plain = [[cell.replace("\r\n", "\n").replace("\r", "\n") for cell in row] for row in rows]
    assert frame.fillna("").to_numpy().tolist() == plain


@settings(max_examples=150, deadline=None)
@given(text=st.text(alphabet="a1,, \t\n\n\u2028", max_size=60), sep=st.sampled_from(",\t"))
def test_the_fast_count_of_fields_is_that_of_the_csv_module(text, sep):
    raw = f"h\n{text}\n".encode()
    fast = tables._measure_rows(Path("t.csv"), raw, sep)
    slow = tables._measure_quoted_rows(Path("t.csv"), raw, sep)
    assert np.array_equal(fast, slow)
