"""config.txt: read again it gives the same flags, whatever their values."""

import shlex

import pytest

import main
from training.flags.arguments import flag_actions
from training.flags.config_file import build_config, flag_line, write_config

# Values that a shell, a comment or argparse could take for something else.
ODD_TEXTS = ["", "two words", "#1", "it's", '"quoted"', "-minus", "--masks", "@file", "a=b", "ä\\ü"]


@pytest.fixture(scope="module")
def actions():
    return flag_actions()


def parse(*words):
    return main.parse_command_line([str(word) for word in words]).args


def read_again(text, tmp_path):
    path = tmp_path / "config.txt"
    path.write_text(text, encoding="utf-8")
    return parse(f"@{path}")


def other_value(action):
    """A value of a flag that differs from its default."""
    if action.nargs == 0:
        return action.const
    if action.choices:
        return next(one for one in action.choices if one != action.default)
    value = {int: 7, float: 2.5e-7}.get(action.type, "a b")
    if action.nargs is None:
        return value
    return [value, 9] if action.nargs == "+" else [value] * action.nargs


def test_every_flag_survives_a_round_trip(actions, tmp_path):
    args = parse()
    for name, action in actions.items():
        setattr(args, name, other_value(action))
    again = read_again(build_config(args, actions, args.num_classes), tmp_path)
    differing = {name for name in vars(args) if getattr(args, name) != getattr(again, name)}
    assert differing == {"auto_resume", "overwrite", "start_epoch", "world_size", "dist_url"}


def test_defaults_survive_a_round_trip(actions, tmp_path):
    text = build_config(parse(), actions, None)
    assert vars(read_again(text, tmp_path)) == vars(parse())
    assert all(line.startswith("#") for line in text.splitlines() if line)


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_odd_texts_survive_a_round_trip(actions, tmp_path, text):
    args = parse(f"--output_dir={text}", f"--coco_path={text}")
    again = read_again(build_config(args, actions, args.num_classes), tmp_path)
    assert (again.output_dir, again.coco_path) == (text, text)


@pytest.mark.parametrize("given", [None, 3])
def test_the_number_of_classes_is_written_only_if_given(actions, tmp_path, given):
    args = parse()
    args.num_classes = 3  # read from weights
    text = build_config(args, actions, given)
    assert read_again(text, tmp_path).num_classes == given


def test_a_line_break_becomes_a_comment(actions, tmp_path):
    args = parse()
    args.coco_path = "two\nlines"
    text = build_config(args, actions, args.num_classes)
    assert r"# --coco_path is 'two\nlines'" in text
    assert read_again(text, tmp_path).coco_path is None


def test_every_flag_is_named_and_changed_flags_come_first(actions):
    text = build_config(parse("--epochs", "3", "--masks"), actions, None)
    flags, comments = text.split("# Default values")
    assert [line for line in flags.splitlines() if line and line[0] != "#"] == [
        *("--epochs 3", "--masks")
    ]
    assert "sha: " in flags and "torch 2" in flags
    for action in actions.values():
        assert action.option_strings[0] in text
    assert "# --lr 0.0001" in comments.splitlines()


def test_a_checkpoint_of_the_folder_itself_is_not_a_flag_of_the_run(actions, tmp_path):
    inside, outside = tmp_path / "out" / "checkpoint.pth", tmp_path / "other.pth"
    for path, expected in ((inside, ""), (outside, str(outside))):
        args = parse("--output_dir", tmp_path / "out", "--resume", path)
        assert (
            read_again(build_config(args, actions, args.num_classes), tmp_path).resume == expected
        )


def test_lists_and_switches(actions):
    assert flag_line(actions["scales"], [480, 512]) == "--scales 480 512"
    assert flag_line(actions["aux_loss"], False) == "--no_aux_loss"
    assert flag_line(actions["aux_loss"], True) is None
    assert flag_line(actions["masks"], True) == "--masks"
    assert shlex.split(flag_line(actions["output_dir"], "-x y")) == ["--output_dir=-x y"]


def test_earlier_flags_are_kept_where_they_differ(tmp_path, capsys):
    first, second, third = ("# a day\n--epochs 1\n", "# a day\n--epochs 2\n", "--epochs 3\n")
    write_config(tmp_path, first)
    write_config(tmp_path, first.replace("a day", "another day") + "--num_classes 91\n")
    assert [path.name for path in tmp_path.iterdir()] == ["config.txt"]
    assert (tmp_path / "config.txt").read_text() == first
    assert capsys.readouterr().out == ""
    write_config(tmp_path, second)
    write_config(tmp_path, third)
    texts = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert texts == {"config-1.txt": first, "config-2.txt": second, "config.txt": third}
    assert "config-2.txt" in capsys.readouterr().out
