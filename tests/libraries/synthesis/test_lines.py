"""Line lists: what is read is what is written, and a broken file says where."""

from __future__ import annotations

import numpy as np
import pytest

from maury.libraries.synthesis.lines import LineListError, read_lines

TEXT = """' 26.000            '    1         2
'Fe I'
 15159.720   6.300  -0.770    2.500    9.0  1.00E+08 'x' 'x'   0.0    1.0
 15294.560   5.308   0.740  285.249    9.0  0.00E+00 'x' 'x'   0.0    1.0
'0607.012014 '            1      1
'Sneden web '
 15000.983  2.490  -5.316  0.00   48.0  1.00e+00  0.000  'x' 'x'  0.0  1.0
"""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "lines"
    path.write_text(TEXT, encoding="ascii")
    return path


def test_a_list_is_read(path):
    lines = read_lines(path)
    assert lines.species.tolist() == ["26.000", "26.000", "0607.012014"]
    assert lines.atomic.tolist() == [True, True, False]
    assert lines.element().tolist() == [26, 26, 0]
    assert lines.log_gf.tolist() == [-0.77, 0.74, -5.316]


def test_a_list_survives_its_file(path, tmp_path):
    lines = read_lines(path)
    lines.write(tmp_path / "again")
    again = read_lines(tmp_path / "again")
    for name in lines.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(again, name), getattr(lines, name))


def test_lists_are_joined_selected_and_adjusted(path):
    lines = read_lines(path)
    assert len(lines + lines) == 6
    changed = lines.select(lines.atomic).adjusted(log_gf=np.array([0.0, 1.0]))
    assert changed.log_gf.tolist() == [0.0, 1.0]
    assert changed.damping.tolist() == [2.5, 285.249]


def test_a_molecule_is_shifted_as_a_whole(path):
    lines = read_lines(path)
    assert lines.molecules() == ["0607"]
    assert (lines.shifted({"0607": 0.2}).log_gf - lines.log_gf).round(9).tolist() == [0.0, 0.0, 0.2]
    with pytest.raises(LineListError, match="no lines of molecule 0608: the list has 0607"):
        lines.shifted({"0608": 0.1})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no lines"),
        ("x\n", "line 1 is not the head of a species"),
        (TEXT.replace("1         2", "1         9"), "26.000"),
        (TEXT.replace("-0.770", "minus"), "a line of species 26.000 is not numbers"),
        (TEXT.replace("5.308   0.740  285.249    9.0  0.00E+00", ""), "promises 2 lines"),
    ],
)
def test_a_broken_list_says_where(tmp_path, text, message):
    (tmp_path / "lines").write_text(text, encoding="ascii")
    with pytest.raises(LineListError, match=message):
        read_lines(tmp_path / "lines")


def test_a_missing_list_is_told(tmp_path):
    with pytest.raises(LineListError, match="cannot be read"):
        read_lines(tmp_path / "none")
