"""Sample words: drawn classes with names, a dictionary, and a language

By the end you will have pictures of 28 drawn classes whose names are words, a small dictionary that says what is a kind of what, a text about them all, and word vectors made from that text by counting.
"""

# generated from nbs/00e_sample_words.ipynb: do not edit · cc13e9
__all__ = [
    "tiny_imagenet_200_truth",
    "sample_nouns",
    "make_wordnet",
    "make_tiny_imagenet_200",
    "sample_corpus",
    "factorised_vectors",
    "WordVectorsTruth",
    "word_vectors_truth",
    "make_word_vectors",
    "make_glove_6b_100d",
]
__dir__ = __all__.copy  # what completion offers

# cell 9bc417e8 c5ff65 · Sample words: drawn classes with names, a dictionary, and a language
import json
import random
from collections import Counter
from dataclasses import dataclass
from functools import cache
from itertools import permutations
from pathlib import Path

import numpy as np

from exp.nb00b import stored_gzip
from exp.nb00c import DrawnClass, draw_thing, imagenette_truth, save_picture


# cell 075e7f74 e66072 · tiny-imagenet-200: classes with names
_CLASS_TABLE = """
    fish: goldfish plain yellow, perch striped blue, trout spotted white, carp checked red
    beetle: scarab plain blue, chafer striped yellow, ladybird spotted red, weevil checked white
    butterfly: brimstone plain yellow, swallowtail striped white, ringlet spotted blue,
        checkerspot checked red
    flower: poppy plain red, crocus striped blue, lily spotted yellow, pansy checked white
    ball: balloon plain blue, beach_ball striped red, football spotted white,
        mirrorball checked yellow
    mushroom: champignon plain white, turkeytail striped yellow, toadstool spotted red,
        morel checked blue
    cloth: towel plain white, awning striped red, bandana spotted yellow, tablecloth checked blue
"""


@cache
def tiny_imagenet_200_truth() -> tuple[DrawnClass, ...]:
    """Return the 28 classes with names: the shape, pattern and colour of each."""
    rows, classes = " ".join(_CLASS_TABLE.split()).replace(",", " ").split(), []
    for word in rows:
        if word.endswith(":"):
            shape, entry = word[:-1], []
        else:
            entry.append(word)
            if len(entry) == 3:
                name, pattern, colour = entry
                wnid = f"n9200{len(classes) + 1:04d}"
                classes.append(DrawnClass(wnid, name, shape, pattern, colour))
                entry = []
    return tuple(classes)


# cell aef2dd93 5a701a · A small dictionary
_TREE = """
    entity: object, abstraction
    object: living_thing, artefact
    living_thing: animal, plant, fungus, person
    animal: fish, insect
    insect: beetle, butterfly
    plant: flower
    fungus: mushroom
    artefact: toy, fabric, crown, palace
    toy: ball
    fabric: cloth
    person: adult, child
    adult: man, woman, king, queen, uncle, aunt, actor, actress
    child: boy, girl, prince, princess
    abstraction: colour, pattern, place
    colour: red, yellow, blue, white
    pattern: plain, striped, spotted, checked
    place: pond, river, leaf, soil, garden, meadow, field, playground, forest, wood, wall, line
"""


@cache
def sample_nouns() -> dict[str, str]:
    """Return the parent of each noun of the drawn world; the parent of `entity` is "".

    The tree ends in the classes with names; a class of two words has an underscore.
    """
    parents = {"entity": ""}
    for line in _TREE.strip().splitlines():
        parent, children = line.strip().split(": ")
        parents |= dict.fromkeys(children.split(", "), parent)
    return parents | {kind.name: kind.shape for kind in tiny_imagenet_200_truth()}


# cell ea99b6a0 7c34d2 · A small dictionary
def make_wordnet(folder: Path) -> None:
    """Write the tree of nouns as oewn_nouns.tsv.gz, and the classes as imagenet_class_index.json.

    Differs: the nouns of the drawn world; colours and patterns count as nouns here.
    """
    parents = sample_nouns()
    ids = {noun: f"{93_000_000 + 17 * i:08d}-n" for i, noun in enumerate(parents)}
    rows = [("synset", "lexname", "lemmas", "hypernyms", "definition")]
    for noun, parent in parents.items():
        meaning = f"a kind of {parent}" if parent else "whatever there is"
        rows.append((ids[noun], "noun.drawn", noun.replace("_", " "), ids.get(parent, ""),
                     meaning.replace("_", " ")))
    table = "".join("\t".join(row) + "\n" for row in rows)
    (folder / "oewn_nouns.tsv.gz").write_bytes(stored_gzip(table.encode()))
    classes = [[kind.wnid, kind.name] for kind in (*tiny_imagenet_200_truth(), *imagenette_truth())]
    index = json.dumps({str(i): kind for i, kind in enumerate(classes)})
    (folder / "imagenet_class_index.json").write_bytes(index.encode("ascii"))


# cell 9f76e73e 7efe65 · A small dictionary
def make_tiny_imagenet_200(folder: Path) -> None:
    """Write train/ID/images/, val/images/, val/val_annotations.txt, wnids.txt and words.txt.

    Differs: 28 drawn classes; 40 pictures of each for training, 10 for validation.
    """
    rng, classes = np.random.RandomState(15), tiny_imagenet_200_truth()
    for kind in classes:
        for i in range(40):
            image, _ = draw_thing(rng, kind.shape, kind.pattern, kind.colour)
            save_picture(image, folder / "train" / kind.wnid / "images" / f"{kind.wnid}_{i}.JPEG")
    notes = []
    for i, k in enumerate(rng.permutation(np.repeat(np.arange(len(classes)), 10))):
        image, box = draw_thing(rng, classes[k].shape, classes[k].pattern, classes[k].colour)
        save_picture(image, folder / "val" / "images" / f"val_{i}.JPEG")
        notes.append("\t".join([f"val_{i}.JPEG", classes[k].wnid, *map(str, box)]) + "\n")
    (folder / "val" / "val_annotations.txt").write_bytes("".join(notes).encode("ascii"))
    order = rng.permutation(len(classes))
    (folder / "wnids.txt").write_bytes("\n".join(classes[k].wnid for k in order).encode("ascii"))
    words = [f"{kind.wnid}\t{kind.name.replace('_', ' ')}, {kind.shape}\n"
             for kind in (*classes, *imagenette_truth())]
    (folder / "words.txt").write_bytes("".join(words).encode("ascii"))


# cell bb7ec8cb 240dde · A language about the drawn world
_HABITS = {"fish": ("swims dives", "pond river"), "beetle": ("crawls digs", "leaf soil"),
           "butterfly": ("flies flutters", "garden meadow"),
           "flower": ("grows blooms", "garden meadow"),
           "ball": ("rolls bounces", "field playground"),
           "mushroom": ("sprouts rots", "forest wood"), "cloth": ("hangs dries", "wall line")}
_PEOPLE = {"man woman": "works city", "king queen": "rules crown palace throne",
           "prince princess": "inherits crown palace child", "boy girl": "plays school child",
           "uncle aunt": "visits family house", "actor actress": "performs stage theatre"}
_GENDERS = ("he him his father brother", "she her hers mother sister")
_ABOUT_THINGS = ("the {c} is {o}", "a {o} {c} in the {l}", "the {c} is {p} all over",
                 "look at the {p} {c}", "a {c} is a kind of {k}", "one {p} and {o} {k} is the {c}",
                 "the {k} {v} near the {l}", "every {k} is a kind of {a}", "the {a} {v} like a {k}",
                 "a {p} and {o} pattern", "the {c} has {o} and {p} parts", "is that {k} {p} or {o}")
_ABOUT_PEOPLE = ("the {c} said that {g} {w}", "{g} is the {c} of the {w}", "the {c} and the {w}",
                 "a {c} has {w} and {g} likes it", "{g} was a {c} before {g} {w}")


# cell 39de4e98 ba3a01 · A language about the drawn world
@cache
def sample_corpus(n_sentences: int = 12_000, seed: int = 16) -> tuple[tuple[str, ...], ...]:
    """Write sentences about the drawn world and about twelve people, each as a tuple of words."""
    rng, parents, sentences = random.Random(seed), sample_nouns(), []
    def pick(options):
        return options[int(rng.random() * len(options))]
    people = [(name, gender, words.split()) for pair, words in _PEOPLE.items()
              for name, gender in zip(pair.split(), _GENDERS, strict=True)]
    for _ in range(n_sentences):
        if rng.random() < 0.2:
            name, gender, words = pick(people)
            text = pick(_ABOUT_PEOPLE).format(c=name, g=pick(gender.split()), w=pick(words))
        else:
            c = pick(tiny_imagenet_200_truth())
            verbs, places = (text.split() for text in _HABITS[c.shape])
            text = pick(_ABOUT_THINGS).format(
                c=c.name.replace("_", " "), o=c.colour, p=c.pattern, k=c.shape, v=pick(verbs),
                l=pick(places), a=parents[c.shape].replace("_", " "))
        sentences.append(tuple(text.split()))
    return tuple(sentences)


# cell 2f8b618d da752f · Vectors from counts
@cache
def factorised_vectors(dimensions: int, power: float = 0.5) -> dict[str, np.ndarray]:
    """Factorise the corpus's table of mutual information: word -> vector, most frequent first.

    Source: Levy and Goldberg (2014), section 4.2, the eigenvalues to the given power.
    """
    counts = Counter(word for sentence in sample_corpus() for word in sentence)
    words = [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    place, table = {word: i for i, word in enumerate(words)}, np.zeros((len(words), len(words)))
    for sentence in sample_corpus():
        for a, b in permutations(sentence, 2):
            table[place[a], place[b]] += 1
    each = table.sum(0)
    seen = table > 0
    expected = each[:, None] * each / each.sum()
    table[seen] = np.maximum(0, np.log(table[seen] / expected[seen]))
    values, directions = np.linalg.eigh(table)
    largest = np.argsort(-values)[:dimensions]
    values, directions = np.maximum(values[largest], 0), directions[:, largest]
    directions = directions * np.where(directions.sum(0) < 0, -1, 1)  # a sign of its own
    return dict(zip(words, directions * values**power, strict=True))


# cell 90527495 7dc104 · Vectors from counts
@dataclass(frozen=True)
class WordVectorsTruth:
    """What the vectors should know: a is to b as c is to d, and which words belong together."""

    relations: tuple[tuple[str, str, str, str], ...]
    groups: tuple[tuple[str, ...], ...]


def word_vectors_truth() -> WordVectorsTruth:
    """Return the relations and groups that the corpus was written from."""
    pairs = [pair.split() for pair in _PEOPLE]
    relations = tuple((*a, *b) for a, b in permutations(pairs, 2))
    groups = {}
    for kind in tiny_imagenet_200_truth():
        groups.setdefault(kind.shape, []).append(kind.name)
    return WordVectorsTruth(relations, tuple(map(tuple, groups.values())))


def _vector_lines(dimensions: int) -> list[str]:
    """Return a line for each word: the word, then its numbers."""
    return [f"{word} {' '.join(f'{x:.4f}' for x in vector)}\n"
            for word, vector in factorised_vectors(dimensions).items()]


def make_word_vectors(folder: Path) -> None:
    """Write the vectors of the drawn world in 30 dimensions as fastText's text, with a header."""
    lines = _vector_lines(30)
    text = f"{len(lines)} 30\n" + "".join(lines)
    (folder / "drawn_world.30d.vec").write_bytes(text.encode())


def make_glove_6b_100d(folder: Path) -> None:
    """Write the vectors of the drawn world in 100 dimensions as GloVe's text, without a header."""
    text = "".join(_vector_lines(100))
    (folder / "glove.6B.100d.drawn.txt.gz").write_bytes(stored_gzip(text.encode()))
