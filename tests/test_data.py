"""Labelled text: what is read, how it is split, what the model is given, and what is refused in which words."""

from __future__ import annotations

import json
from collections import Counter
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers
from transformers import PreTrainedTokenizerFast

from softprompt_core.config import TrainConfig
from softprompt_core.data import choose_columns, default_prompt_text, load_evaluation_task, load_task
from softprompt_core.errors import UserError
from softprompt_core.models import load_tokenizer
from softprompt_core.sources import _hub_rows, list_bundled, read_rows
from softprompt_core.tokenising import label_token_ids, preview, tokenise

ROWS = [{"text": f"row number {i}", "label": "ab"[i % 2]} for i in range(40)]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("bundled")


@pytest.fixture
def write(tmp_path):
    """Writes a file of the given bytes or text and returns its path."""

    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def as_csv(rows, delimiter=","):
    return delimiter.join(rows[0]) + "\n" + "".join(delimiter.join(row.values()) + "\n" for row in rows)


def as_jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def task_of(path, **settings):
    return load_task(TrainConfig(data=str(path), **settings))


def refusal(path, **settings):
    with pytest.raises(UserError) as caught:
        task_of(path, **settings)
    return str(caught.value)


# ----------------------------------------------------------------- reading


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.csv", as_csv(ROWS)),
        ("semicolons.csv", as_csv(ROWS, ";")),
        ("tabs.csv", as_csv(ROWS, "\t")),
        ("rows.tsv", as_csv(ROWS, "\t")),
        ("rows.jsonl", as_jsonl(ROWS)),
        ("rows.ndjson", as_jsonl(ROWS)),
        ("mark.csv", "\ufeff" + as_csv(ROWS)),
        ("mark.jsonl", "\ufeff" + as_jsonl(ROWS)),
        ("utf16.csv", as_csv(ROWS).encode("utf-16")),
        ("windows.csv", as_csv(ROWS).replace("\n", "\r\n")),
        ("blanks.csv", "\n\n" + as_csv(ROWS).replace("\n", "\n\n")),
        ("UPPER.CSV", as_csv(ROWS)),
    ],
)
def test_same_rows_are_read_from_every_kind_of_file(write, name, content):
    assert read_rows(write(name, content)) == ROWS


def test_quoted_values_may_hold_separators_quotes_and_line_breaks(write):
    path = write("rows.csv", 'text,label\n"one, ""two""\nthree",a\n')
    assert read_rows(path) == [{"text": 'one, "two"\nthree', "label": "a"}]


def test_values_missing_at_a_lines_end_are_empty(write):
    assert read_rows(write("rows.csv", "id,text,label\n1,hello\n"))[0] == {"id": "1", "text": "hello", "label": ""}


def test_json_values_become_text(write):
    path = write("rows.jsonl", '{"text": "é", "label": 1, "n": null, "b": true}\n{"text": "b", "more": [1]}\n')
    assert read_rows(path) == [
        {"text": "é", "label": "1", "n": "", "b": "true", "more": ""},
        {"text": "b", "label": "", "n": "", "b": "", "more": "[1]"},
    ]


def test_half_a_character_in_json_is_replaced_so_that_it_can_be_tokenised(write, tokenizer):
    rows = [{"text": f"bro\ud800ken {i}", "label": "ab"[i % 2]} for i in range(40)]
    config = TrainConfig(data=str(write("rows.jsonl", as_jsonl(rows))))
    assert read_rows(write("rows.jsonl", as_jsonl(rows)))[0]["text"] == "bro?ken 0"
    tokenise(load_task(config), tokenizer, config, context=512)


def test_unlabelled_rows_may_have_one_column(write):
    assert read_rows(write("texts.csv", "text\nhello\n"), is_labelled=False) == [{"text": "hello"}]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("picture.csv", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "binary"),
        ("table.xlsx", b"PK\x03\x04", "no CSV, TSV or JSONL"),
        ("empty.csv", b"", "is empty"),
        ("blank.csv", b" \n\n", "is empty"),
        ("mark.csv", b"\xef\xbb\xbf", "is empty"),
        ("mark16.csv", b"\xff\xfe", "is empty"),
        ("mark.jsonl", b"\xef\xbb\xbf", "is empty"),
        ("separators.csv", b",,,\n,,\n", "is empty"),
        ("spaces.jsonl", "\u3000\n".encode(), "is empty"),
        ("odd-spaces.csv", "\u2003\n".encode(), "one column"),
        ("header.csv", b"text,label\n", "a header and no rows"),
        ("one.csv", b"text\nhello\n", "one column, 'text'"),
        ("latin.csv", "text,label\ncafé,a\n".encode("latin-1"), "not in UTF-8"),
        ("long.csv", b"text,label\nhello, there, you,a\n", "Line 2"),
        ("short.csv", b"text,label\nhello\n", "Line 2"),
        ("twice.csv", b"text,text\nhello,a\n", "name every column once"),
        ("nameless.csv", b"text,\nhello,a\n", "name every column once"),
        ("open.csv", b'text,label\n"hello,a\n', "no readable table"),
        ("prose.jsonl", b"hello\n", "Line 1 of 'prose.jsonl' is not JSON"),
        ("list.jsonl", b'{"text": "a", "label": "b"}\n[1]\n', "Line 2 of 'list.jsonl' is no object"),
        ("deep.jsonl", b"[" * 100_000, "is not JSON"),
        ("digits.jsonl", b'{"text": ' + b"1" * 5_000 + b"}", "is not JSON"),
    ],
)
def test_file_that_is_no_table_is_refused_by_name(write, name, content, words):
    message = refusal(write(name, content))
    assert words in message
    assert name in message


@pytest.mark.parametrize(
    "name", ["/nowhere/rows.csv", "rows.csv", "./rows", "~/nowhere-at-all", "a/b/c", "nosuchdata", "x" * 5_000]
)
def test_data_that_is_not_there_is_refused_with_the_bundled_names(name):
    message = refusal(name)
    assert "There is no" in message
    assert "complaints" in message
    assert len(message) < 400


def test_folder_needs_a_train_file(tmp_path):
    assert "no train file" in refusal(tmp_path)


def test_folder_gives_its_own_splits(write, tmp_path):
    write("train.csv", as_csv(ROWS[:20]))
    write("dev.tsv", as_csv(ROWS[20:30], "\t"))
    write("test.jsonl", as_jsonl(ROWS[30:]))
    assert task_of(tmp_path).splits == {"train": ROWS[:20], "validation": ROWS[20:30], "test": ROWS[30:]}


def test_split_that_a_folder_lacks_comes_out_of_train(write, tmp_path):
    write("train.csv", as_csv(ROWS))
    write("test.csv", as_csv(ROWS[:4]))
    splits = task_of(tmp_path).splits
    assert splits["test"] == ROWS[:4]
    assert len(splits["train"]) + len(splits["validation"]) == len(ROWS)


# --------------------------------------------------------------- splitting


@given(st.lists(st.sampled_from("abc"), min_size=40, max_size=90), st.integers(0, 1_000))
@settings(max_examples=30)
def test_split_of_a_file_keeps_every_row_once_and_every_share(tmp_path_factory, letters, seed):
    rows = [{"text": f"t{i}", "label": label} for i, label in enumerate(["a"] * 20 + ["b"] * 20 + letters)]
    path = tmp_path_factory.mktemp("split") / "rows.csv"
    path.write_text(as_csv(rows), encoding="utf-8")
    splits = task_of(path, split_seed=seed).splits
    assert sorted(r["text"] for split in splits.values() for r in split) == sorted(r["text"] for r in rows)
    for label, count in Counter(r["label"] for r in rows).items():
        for name, share in (("train", 0.7), ("validation", 0.15), ("test", 0.15)):
            assert abs(sum(r["label"] == label for r in splits[name]) - share * count) < 1.01


def test_same_split_seed_gives_the_same_task_and_another_a_different_one(write):
    path = write("rows.csv", as_csv(ROWS))
    assert task_of(path).fingerprint == task_of(path).fingerprint == task_of(path, seed=9).fingerprint
    assert task_of(path, split_seed=1).fingerprint != task_of(path).fingerprint


def test_rows_without_text_or_label_are_dropped_and_counted(write):
    rows = [*ROWS, {"text": " ", "label": "a"}, {"text": "hello", "label": ""}]
    task = task_of(write("rows.csv", as_csv(rows)))
    assert task.dropped_rows == 2
    assert sum(map(len, task.splits.values())) == len(ROWS)


def test_labels_are_sorted_and_lose_outer_spaces(write):
    rows = [row | {"label": f" {row['label']} "} for row in ROWS]
    assert task_of(write("rows.csv", as_csv(rows))).labels == ("a", "b")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([r | {"label": "a"} for r in ROWS], "only the label 'a'; at least two"),
        ([r | {"label": ""} for r in ROWS], "no row with both text and label"),
        ([{"text": f"t{i}", "label": f"l{i}"} for i in range(300)], "300 different labels; at most 200"),
        (ROWS[:2], "too few to split"),
    ],
)
def test_table_that_cannot_be_a_task_is_refused(write, rows, words):
    assert words in refusal(write("rows.csv", as_csv(rows)))


def test_train_file_with_one_label_is_refused_even_if_test_has_two(write, tmp_path):
    write("train.csv", as_csv([r for r in ROWS if r["label"] == "a"]))
    write("test.csv", as_csv(ROWS))
    assert "fewer than two labels" in refusal(tmp_path)


# ----------------------------------------------------------------- columns


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (("text", "label"), ("text", "label")),
        (("label", "text"), ("text", "label")),
        (("Tweet text", "Label"), ("Tweet text", "Label")),
        (("id", "sentence", "target"), ("sentence", "target")),
        (("long", "short"), ("long", "short")),
    ],
)
def test_columns_are_guessed_from_names_and_contents(columns, expected):
    values = {c: f"a longer piece of writing {c}" for c in columns} | {c: "x" for c in columns[1:] if c == "short"}
    rows = [{c: f"{values[c]} {i}" if c != "short" else "xy"[i % 2] for c in columns} for i in range(6)]
    assert choose_columns(columns, rows, text_column=None, label_column=None) == expected


@pytest.mark.parametrize("kind", ["text", "label"])
def test_named_column_that_is_not_there_is_refused_with_those_that_are(write, kind):
    message = refusal(write("rows.csv", as_csv(ROWS)), **{f"{kind}_column": "Nope"})
    assert message == f"There is no {kind} column 'Nope'. The columns are 'text', 'label'."


def test_text_and_label_must_differ(write):
    assert "'label'" in refusal(write("rows.csv", as_csv(ROWS)), text_column="label", label_column="label")


# -------------------------------------------------------------- tokenising


def test_target_is_a_space_the_label_and_the_end(tokenizer):
    ids = label_token_ids("no complaint", tokenizer)
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids[:-1]) == " no complaint"


def test_context_is_the_rendered_template(tokenizer):
    config = TrainConfig(template="Q: {text}\nA:")
    task = load_task(config)
    tokens = tokenise(task, tokenizer, config, context=512)
    for row, example in zip(task.splits["test"][:20], tokens.splits["test"], strict=False):
        assert tokenizer.decode(example.context, skip_special_tokens=True) == f"Q: {row['text']}\nA:"
        assert task.labels[example.label] == row["label"]


def test_long_text_loses_its_left_end_and_template_and_label_stay(write, tokenizer):
    long = " ".join(f"w{i}" for i in range(500))
    rows = [*ROWS, {"text": long, "label": "a"}]
    config = TrainConfig(data=str(write("rows.csv", as_csv(rows))), max_tokens=40)
    task = load_task(config)
    tokens = tokenise(task, tokenizer, config, context=512)
    assert tokens.cut_rows == 1
    assert tokens.longest_tokens == 40
    (text,) = [
        tokenizer.decode(e.context, skip_special_tokens=True) for split, rows in task.splits.items()
        for row, e in zip(rows, tokens.splits[split], strict=True) if row["text"] == long
    ]
    assert text.startswith("Text:")
    assert text.endswith("w499\nLabel:")
    assert "w0 " not in text


@pytest.mark.parametrize(("virtual_tokens", "is_room"), [(20, True), (400, True), (511, False), (600, False)])
def test_virtual_tokens_must_leave_room_in_the_context(tokenizer, virtual_tokens, is_room):
    config = TrainConfig(virtual_tokens=virtual_tokens)
    if is_room:
        tokens = tokenise(load_task(config), tokenizer, config, context=512)
        assert tokens.longest_tokens + virtual_tokens <= 512
        return
    with pytest.raises(UserError, match=f"{virtual_tokens} virtual tokens.*512 tokens at most.*Use at most"):
        tokenise(load_task(config), tokenizer, config, context=512)


def test_template_longer_than_a_row_is_refused(tokenizer):
    config = TrainConfig(template="word " * 300 + "{text}")
    with pytest.raises(UserError, match="Shorten the template"):
        tokenise(load_task(config), tokenizer, config, context=512)


def test_longest_row_must_hold_the_label(tokenizer):
    config = TrainConfig(max_tokens=8)
    with pytest.raises(UserError, match="Allow at least"):
        tokenise(load_task(config), tokenizer, config, context=512)


# ----------------------------------------------------------------- preview


def test_preview_shows_each_token_with_its_role(tokenizer):
    config = TrainConfig(virtual_tokens=3)
    shown = preview(config, tokenizer, rows=2, context=512)
    row = load_task(config).splits["train"][0]
    line = shown.rows[0]
    assert [t.text for t in line if t.role == "virtual"] == ["P1", "P2", "P3"]
    assert "".join(t.text for t in line if t.role == "text").replace("␣", " ").strip() == row["text"]
    label = "".join(t.text for t in line if t.role == "label").replace("␣", " ")
    assert label.startswith(f" {row['label']}")
    roles = [t.role for t in line]
    assert roles.index("virtual") < roles.index("template") < roles.index("text") < roles.index("label")


def test_preview_counts_what_training_will_count(write, tokenizer):
    rows = [*ROWS, {"text": "long " * 300, "label": "a"}, {"text": "", "label": "b"}]
    config = TrainConfig(data=str(write("rows.csv", as_csv(rows))))
    task = load_task(config)
    tokens = tokenise(task, tokenizer, config, context=512)
    shown = preview(config, tokenizer, context=512)
    assert (shown.dropped_rows, shown.cut_rows) == (task.dropped_rows, tokens.cut_rows) == (1, 1)
    assert shown.longest_tokens == tokens.longest_tokens + config.virtual_tokens
    assert shown.split_sizes == {split: len(rows) for split, rows in task.splits.items()}
    assert sum(shown.label_counts.values()) == len(ROWS) + 1


# ---------------------------------------------------------- evaluation data


def test_other_data_is_tested_on_all_its_rows_with_the_runs_labels(write):
    path = write("other.csv", as_csv([{"body": "hello there", "kind": "a"}, {"body": "you again", "kind": "b"}]))
    task = load_evaluation_task(
        TrainConfig(text_column="text", label_column="label"), data=str(path), labels=["a", "b", "c"]
    )
    assert (task.text_column, task.label_column, task.labels) == ("body", "kind", ("a", "b", "c"))
    assert len(task.splits["test"]) == 2


def test_other_data_with_labels_the_prompt_does_not_know_is_refused(write):
    path = write("other.csv", as_csv(ROWS))
    with pytest.raises(UserError, match="'b'; the prompt was trained for 'a', 'x'"):
        load_evaluation_task(TrainConfig(), data=str(path), labels=["a", "x"])


def test_default_prompt_names_the_labels():
    assert default_prompt_text(load_task(TrainConfig())) == "Classify the text as complaint or no complaint:"


def test_complaints_are_bundled():
    assert "complaints" in list_bundled()


def test_template_that_would_show_the_label_is_refused():
    config = TrainConfig(template="{text} {label}\nLabel:")
    with pytest.raises(UserError, match="give the answer away"):
        tokenise(load_task(config), load_tokenizer("bundled"), config, context=512)


@pytest.mark.parametrize("prepends", [True, False])
def test_one_space_stands_before_a_label_even_where_the_tokenizer_adds_its_own(prepends):
    vocab = {"<unk>": 0, "▁": 1, "x": 2, "b": 3, "▁b": 4, "▁x": 5, "</s>": 6}
    inner = Tokenizer(models.BPE(vocab, [("▁", "b"), ("▁", "x")], unk_token="<unk>"))
    steps = [normalizers.Prepend("▁")] if prepends else []
    inner.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", eos_token="</s>")
    assert label_token_ids("b", tokenizer) == (4, 6)


def test_labels_that_are_the_same_tokens_are_refused(write):
    inner = Tokenizer(models.BPE({"<unk>": 0, "</s>": 1}, [], unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", eos_token="</s>")
    config = TrainConfig(data=str(write("a.csv", as_csv(ROWS))))
    with pytest.raises(UserError, match="'a' and 'b' are the same tokens"):
        tokenise(load_task(config), tokenizer, config, context=None)


def test_label_column_is_guessed_in_a_file_sorted_by_label():
    rows = [{"words": f"row number {i}", "kind": "good" if i < 600 else "bad"} for i in range(1_200)]
    assert choose_columns(["words", "kind"], rows, text_column=None, label_column=None) == ("words", "kind")


def test_hub_rows_without_a_label_have_none():
    features = {"text": object(), "label": SimpleNamespace(names=["bad", "good"])}

    class Split(list):
        pass

    split = Split([{"text": "a", "label": 1}, {"text": "b", "label": -1}])
    split.features = features
    assert _hub_rows(split) == [{"text": "a", "label": "good"}, {"text": "b", "label": ""}]


def test_other_data_with_nothing_but_a_validation_split_is_tested_on_that(monkeypatch):
    monkeypatch.setattr("softprompt_core.data.read_splits", lambda name: {"validation": ROWS})
    task = load_evaluation_task(TrainConfig(), data="owner/name", labels=["a", "b"])
    assert len(task.splits["test"]) == 40


def test_tokenizer_without_places_is_refused_in_a_sentence():
    config = TrainConfig()
    slow = SimpleNamespace(is_fast=False, eos_token_id=1, encode=lambda text, add_special_tokens: [len(text)])
    with pytest.raises(UserError, match="fast tokenizer"):
        tokenise(load_task(config), slow, config, context=None)


def test_row_numbers_that_pandas_writes_are_no_column(tmp_path):
    path = tmp_path / "frame.csv"
    path.write_text(",text,label\n0,late again,bad\n1,thank you,good\n", encoding="utf-8")
    assert read_rows(path) == [{"text": "late again", "label": "bad"}, {"text": "thank you", "label": "good"}]
