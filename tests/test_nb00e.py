"""The drawn world's words: a tree, a text, and vectors that carry their relations."""

import gzip
import json

import numpy as np
import pytest

from exp import nb00c, nb00e


def test_classes_differ_and_no_two_properties_give_one_away_everywhere():
    kinds = nb00e.tiny_imagenet_200_truth()
    assert (
        len(kinds) == len({kind.name for kind in kinds}) == len({kind.wnid for kind in kinds}) == 28
    )
    assert {kind.shape for kind in kinds} <= set(nb00c.SHAPES)
    assert {kind.pattern for kind in kinds} == set(nb00c.PATTERNS)
    assert {kind.colour for kind in kinds} <= set(nb00c.COLOURS)
    assert len({(kind.shape, kind.pattern) for kind in kinds}) == 28
    assert len({(kind.pattern, kind.colour) for kind in kinds}) <= 16


def test_wordnet_files_have_the_real_columns_and_join_by_name_only(tmp_path):
    nb00e.make_wordnet(tmp_path)
    rows = [
        line.split("\t")
        for line in gzip.decompress((tmp_path / "oewn_nouns.tsv.gz").read_bytes())
        .decode()
        .splitlines()
    ]
    assert rows[0] == ["synset", "lexname", "lemmas", "hypernyms", "definition"]
    ids = {row[0] for row in rows[1:]}
    assert len(ids) == len(rows) - 1 and all(len(row) == 5 for row in rows)
    assert all(not row[3] or row[3] in ids for row in rows[1:])
    assert sum(not row[3] for row in rows[1:]) == 1
    index = json.loads((tmp_path / "imagenet_class_index.json").read_text())
    assert list(index) == [str(i) for i in range(38)]
    lemmas = {row[2] for row in rows[1:]}
    named = [name for _, name in index.values()][:28]
    assert all(name.replace("_", " ") in lemmas for name in named)
    assert not {wnid[1:] for wnid, _ in index.values()} & {synset[:-2] for synset in ids}


def test_every_class_is_in_the_text_with_its_look():
    text = [set(sentence) for sentence in nb00e.sample_corpus()]
    for kind in nb00e.tiny_imagenet_200_truth():
        parts = set(kind.name.split("_"))
        for word in (kind.colour, kind.pattern, kind.shape):
            assert sum(parts | {word} <= sentence for sentence in text) > 20


def test_no_sentence_compares_two_classes():
    names = {kind.name.split("_")[0] for kind in nb00e.tiny_imagenet_200_truth()}
    assert all(len(names & set(sentence)) <= 1 for sentence in nb00e.sample_corpus())


@pytest.mark.parametrize("make, header", [("word_vectors", 1), ("glove_6b_100d", 0)])
def test_vector_files_have_the_two_formats_and_the_relations(tmp_path, make, header):
    getattr(nb00e, f"make_{make}")(tmp_path)
    (file,) = tmp_path.iterdir()
    raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    lines = [line.split(" ") for line in raw.decode().splitlines()]
    if header:
        assert lines[0] == [str(len(lines) - 1), str(len(lines[1]) - 1)]
    table = {word: np.array(row, float) for word, *row in lines[header:]}
    assert len(table) == len(lines) - header
    words, unit = list(table), np.stack([v / np.linalg.norm(v) for v in table.values()])
    for a, b, c, d in nb00e.word_vectors_truth().relations:
        score = unit @ (table[b] - table[a] + table[c])
        score[[words.index(word) for word in (a, b, c)]] = -np.inf
        assert words[int(score.argmax())] == d


def test_words_of_like_things_are_near():
    table = nb00e.factorised_vectors(30)
    unit = {word: v / np.linalg.norm(v) for word, v in table.items()}
    groups = nb00e.word_vectors_truth().groups
    same = [
        float(unit[a] @ unit[b])
        for group in groups
        for i, a in enumerate(group)
        for b in group[:i]
        if "_" not in a + b
    ]
    other = [
        float(unit[a] @ unit[b])
        for i, one in enumerate(groups)
        for two in groups[:i]
        for a in one
        for b in two
        if "_" not in a + b
    ]
    assert np.mean(same) > np.mean(other) + 0.1


def test_tiny_imagenet_boxes_and_lists(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(nb00e, "save_picture", lambda image, path: made.append((image, path)))
    (tmp_path / "val").mkdir()
    nb00e.make_tiny_imagenet_200(tmp_path)
    notes = [
        line.split("\t")
        for line in (tmp_path / "val" / "val_annotations.txt").read_text().splitlines()
    ]
    assert [note[0] for note in notes] == [f"val_{i}.JPEG" for i in range(280)]
    assert {len(note) for note in notes} == {6}
    wnids = (tmp_path / "wnids.txt").read_text().split()
    words = dict(line.split("\t") for line in (tmp_path / "words.txt").read_text().splitlines())
    assert sorted(wnids) == sorted({note[1] for note in notes}) and set(wnids) <= set(words)
    assert all(image.size == (64, 64) for image, _ in made) and len(made) == 28 * 50
